"""The same numbers as torchvision's compiled operator, where that is installed."""

import jax
import numpy as np
import pytest

from tests.pallas_kernels import cases
from tests.pallas_kernels.checks import assert_close

torch = pytest.importorskip("torch", exc_type=ImportError)
torchvision = pytest.importorskip("torchvision", exc_type=ImportError)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_values_and_gradients(aligned, ratio):
    rng = np.random.default_rng(0)
    corner = rng.uniform(-20, 60, (2, 30, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(-3, 50, (2, 30, 2))], -1)
    options = dict(
        strides=(4,),
        output_size=(3, 2),
        sampling_ratio=ratio,
        aligned=aligned,
        max_sampling_ratio=8,  # more than any of these boxes needs
    )
    case = cases.tiny(3).replace(
        features=(rng.normal(size=(2, 12, 14, 3)).astype(np.float32),),
        boxes=boxes.astype(np.float32),
        levels=np.zeros((2, 30), np.int32),
        image_size=None,
        options=tuple(options.items()),
    )
    out, pull = jax.vjp(lambda f: cases.plain(case, "xla", [f]), case.features[0])
    cotangent = rng.normal(size=out.shape).astype(np.float32)

    feature = torch.tensor(case.features[0].transpose(0, 3, 1, 2), requires_grad=True)
    theirs = torchvision.ops.roi_align(
        feature,
        list(torch.tensor(case.boxes)),
        options["output_size"],
        spatial_scale=1 / 4,
        sampling_ratio=ratio or -1,
        aligned=aligned,
    )
    theirs.backward(torch.tensor(cotangent.reshape(-1, 3, 2, 3).transpose(0, 3, 1, 2)))
    expected = theirs.detach().numpy().transpose(0, 2, 3, 1).reshape(out.shape)
    assert_close(out, expected, 1e-5)
    assert_close(pull(cotangent)[0], feature.grad.numpy().transpose(0, 2, 3, 1), 1e-5)
