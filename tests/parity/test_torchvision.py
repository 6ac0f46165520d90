"""torchvision's Mask R-CNN, stage by stage, on its own weights and images; see README.md.

Tolerances are 4 times the noise of torchvision's own float32 (against its float64) at the stage, as it was recorded.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import mask_rcnn
from jaxseg.data import geometry
from jaxseg.evaluation import results as results_lib
from jaxseg.ops import levels as levels_lib
from tests.parity import reference as reference_lib
from tests.parity import stages

TOLERANCES = {
    "batch_sub": 2e-4,
    "body": 5e-4,
    "fpn": 4e-4,
    "rpn_logits": 1e-3,
    "rpn_deltas": 1.5e-4,
    "anchors_sub": 0.0,
    "rpn_decoded_sub": 0.06,  # pixels, of boxes up to 1600 px wide
    "box_roi_sub": 4e-4,
    "box_feat": 4e-4,
    "class_logits": 1e-3,
    "box_regression": 4e-4,
    "mask_roi_sub": 5e-4,
    "mask_logits": 2e-3,
}
RECORDINGS = ["r18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("r50", "r18_v2"))]


@pytest.fixture(scope="module", params=RECORDINGS)
def reference(request):
    return reference_lib.load(request.param)


@pytest.fixture(scope="module")
def ours(reference):
    return stages.Stages(reference).run()


@pytest.mark.parametrize("stage", TOLERANCES)
def test_stage(reference, ours, stage):
    names = [name for name in reference.names() if name.startswith(stage)]
    assert names
    for name in names:
        np.testing.assert_allclose(
            reference_lib.thin(ours[name]),
            reference[name],
            rtol=0,
            atol=TOLERANCES[stage],
            err_msg=name,
        )


def test_sizes_of_the_resized_images(reference):
    config = stages.config_of(reference)
    batch = stages.batch_of(reference, config)
    np.testing.assert_array_equal(batch.image_size, reference["image_sizes"])


@pytest.mark.parametrize("image", [0, 1])
def test_proposals(reference, ours, image):
    """The same boxes. Noise may exchange a few that lie at a threshold (3 of 474 between torch's own precisions)."""
    found, theirs = (
        ours["proposals"][image][ours["proposals_valid"][image]],
        reference[f"proposals_{image}"],
    )
    distance = np.abs(found[:, None] - theirs[None]).max(-1)
    assert abs(len(found) - len(theirs)) <= 4
    assert (distance.min(0) > 0.05).sum() <= 4 and (distance.min(1) > 0.05).sum() <= 4


def test_levels_of_the_proposals(reference):
    boxes = np.concatenate([reference["proposals_0"], reference["proposals_1"]])
    tolerance = stages.config_of(reference).model.roi_sampling.level_tolerance
    levels = levels_lib.fpn_level(jnp.asarray(boxes), tolerance=tolerance)
    np.testing.assert_array_equal(levels, reference["roi_levels"])


def matched(reference, ours, image):
    """Our detections in the order of the recorded ones, found by class and IoU; every one has its partner."""
    found = ours["detections"]
    valid = found.valid[image]
    boxes, scores, classes, masks = (
        x[image][valid] for x in (found.boxes, found.scores, found.classes, found.masks)
    )
    theirs = reference[f"det_boxes_net_{image}"]
    assert len(boxes) == len(theirs)
    iou = stages.iou(theirs, boxes) * (reference[f"det_labels_{image}"][:, None] == classes + 1)
    partner = iou.argmax(1)
    assert (iou.max(1) > 0.99).all() and len(set(partner)) == len(partner)
    return boxes[partner], scores[partner], masks[partner]


@pytest.mark.parametrize("image", [0, 1])
def test_detections(reference, ours, image):
    boxes, scores, masks = matched(reference, ours, image)
    np.testing.assert_allclose(scores, reference[f"det_scores_{image}"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(boxes, reference[f"det_boxes_net_{image}"], rtol=0, atol=0.05)
    np.testing.assert_allclose(masks[:, ::3, ::3], reference[f"mask_probs_{image}"], atol=8e-3)


@pytest.mark.parametrize("image", [0, 1])
def test_masks_in_the_images_own_pixels(reference, ours, image):
    boxes, _, masks = matched(reference, ours, image)
    size = reference[f"image_{image}"].shape[1:]
    boxes = results_lib.to_original(boxes, reference["image_sizes"][image], size)
    np.testing.assert_allclose(boxes, reference[f"boxes_{image}"], rtol=0, atol=0.05)
    pasted = paste(masks, boxes, size)
    theirs = unpacked(reference, image)
    intersection, union = (pasted & theirs).sum((1, 2)), (pasted | theirs).sum((1, 2))
    # A corner that noise moves across a whole pixel moves a mask by one.
    assert (intersection < 0.98 * union).sum() <= 2


@pytest.mark.parametrize("image", [0, 1])
def test_pasting_the_recorded_probabilities_gives_the_recorded_masks(reference, image):
    probabilities = reference[f"first_mask_probs_{image}"]
    size = reference[f"image_{image}"].shape[1:]
    pasted = paste(probabilities, reference[f"boxes_{image}"], size)
    theirs = unpacked(reference, image)[: len(pasted)]
    assert (pasted != theirs).sum() <= 1 and theirs.any()  # a probability of 0.5 but for rounding


def paste(probabilities, boxes, size):
    rles = [
        results_lib.paste_rle(p, b, size, paste="torchvision")
        for p, b in zip(probabilities, boxes, strict=False)
    ]
    return np.stack([results_lib.decode(rle) for rle in rles])


def unpacked(reference, image):
    width = reference[f"image_{image}"].shape[2]
    return np.unpackbits(reference[f"masks_{image}"], axis=2)[:, :, :width].astype(bool)


def test_the_exact_preset_pads_an_image_alone_as_torchvision_does():
    config = mask_rcnn.get_config("torchvision,exact")
    for size in ((480, 640), (427, 640), (640, 427), (200, 1000), (333, 500), (500, 500)):
        place = geometry.largest(config.data.eval_resize, size)
        bucket = config.data.buckets[geometry.choose_bucket(place, config.data.buckets)]
        assert tuple(bucket) == tuple(-(-side // 32) * 32 for side in place)
