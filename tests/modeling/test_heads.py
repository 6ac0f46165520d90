"""What the heads do with settings of other libraries' conventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.modeling import mask_head, roi_heads
from jaxseg.structures import MaskOutputs, RoIs, Targets


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({}, [40.0, 0.04, 10.0]),
        ({"min_size": 0.1}, [40.0, 10.0]),
        ({"two_sided_clamp": True}, [40.0, 0.64, 10.0]),  # 40 px shrink to 16/1000
    ],
)
def test_small_detections(settings, sides):
    boxes = jnp.array([[[0, 0, 40, 40], [50, 50, 90, 90], [10, 60, 20, 70]]], jnp.float32)
    exist = jnp.ones((1, 3), bool)
    deltas = jnp.zeros((1, 3, 1, 4)).at[0, 1, 0, 2:].set(np.log(1e-3))
    coder = (1.0, 1.0, 1.0, 1.0)
    test = roi_heads.DetectionSettings(
        score=0.05, nms_iou=0.5, max_detections=3, candidates=3, **settings
    )
    found = jax.jit(lambda *x: roi_heads.suppress(roi_heads.best_pairs(*x, coder, test), test))(
        jnp.array([[[0.9], [0.8], [0.7]]]),
        deltas,
        RoIs(boxes, exist, exist),
        jnp.array([[100.0, 100.0]]),
    )
    width = np.asarray(found.boxes[0, :, 2] - found.boxes[0, :, 0])[np.asarray(found.valid[0])]
    np.testing.assert_allclose(width, sides, rtol=1e-3)


@pytest.mark.parametrize("soft", [True, False])
def test_soft_mask_targets(soft):
    """A RoI whose cells are half covered: torchvision's target is 0.5, Detectron2's and MMDetection's 1."""
    targets = Targets(
        boxes=jnp.array([[[0.0, 0, 8, 8]]]),
        classes=jnp.zeros((1, 1), jnp.int32),
        valid=jnp.ones((1, 1), bool),
        masks=jnp.full((1, 1, 8, 1), 0b10101010, jnp.uint8),  # every second column
        crowd_boxes=jnp.zeros((1, 0, 4)),
        crowd_valid=jnp.zeros((1, 0), bool),
    )
    head = mask_head.FCNMaskHead(1, pool=None, soft_targets=soft)
    wanted = mask_head.MaskTargets(targets, jnp.zeros((1, 1), jnp.int32), targets.boxes)
    logits = jnp.full((1, 1, 2, 2), 1.0)
    loss = head.losses(MaskOutputs(logits, jnp.zeros((1, 1, 1, 1, 1))), wanted)["mask"]
    covered = np.log1p(np.exp(-1.0))
    expected = covered + 0.5 if soft else covered  # BCE at target t: log(1 + e^-x) + (1 - t) x
    assert float(loss[0, 0]) == pytest.approx(expected, abs=1e-3)
