"""What the public functions refuse, and how they say it."""

import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.roi_align import triton

_FLOAT = np.float32


def _maps(*shapes, dtype=_FLOAT):
    return [np.zeros(shape, dtype) for shape in shapes]


_GOOD = dict(
    features=_maps((2, 4, 4, 1), (2, 2, 2, 1)),
    boxes=np.zeros((2, 3, 4), _FLOAT),
    levels=np.zeros((2, 3), np.int32),
    strides=[4, 8],
    output_size=2,
)
_BAD = [
    ({"implementation": "cuda"}, r"'cuda': allowed are xla, mosaic_gpu, triton, tpu, None"),
    ({"strides": [4]}, "2 feature levels but 1 strides"),
    ({"features": [], "strides": []}, "at least one level: got none"),
    ({"features": _maps((2, 4, 4, 1), (2, 4, 4, 2))}, "with one B and C"),
    ({"features": _maps((2, 4, 4, 1), (1, 2, 2, 1))}, "with one B and C"),
    ({"features": _maps((2, 4, 4), (2, 2, 2))}, r"must be \(B, H, W, C\)"),
    ({"features": _maps((2, 4, 4, 1), (2, 0, 2, 1))}, "must not be empty"),
    (
        {"features": [*_maps((2, 4, 4, 1)), *_maps((2, 2, 2, 1), dtype=np.float16)]},
        "one floating dtype of .*: got .'float32', 'float16'",
    ),
    (
        {"features": _maps((2, 4, 4, 1), (2, 2, 2, 1), dtype=np.int32)},
        "one floating dtype of .*: got .'int32'",
    ),
    ({"boxes": np.zeros((2, 3))}, r"boxes must be \(B, R, 4\) .*: got \(2, 3\) and \(2, 3\)"),
    ({"boxes": np.zeros((2, 3, 5))}, "boxes must be"),
    ({"levels": np.zeros((2, 4), int)}, r"levels \(B, R\): got \(2, 3, 4\) and \(2, 4\)"),
    (
        {"boxes": np.zeros((1, 3, 4)), "levels": np.zeros((1, 3), int)},
        "boxes are of 1 images, features of 2",
    ),
    ({"output_size": 0}, "at least 1 by 1, got 0"),
    ({"output_size": (2, 2, 2)}, "at least 1 by 1"),
    ({"sampling_ratio": -1}, "sampling_ratio must be at least 0 .* got -1 and 4"),
    ({"max_sampling_ratio": 0}, "max_sampling_ratio at least 1, got 2 and 0"),
    ({"sampling_ratio": 2.0}, "sampling_ratio must be a whole number, got 2.0"),
    ({"max_sampling_ratio": True}, "max_sampling_ratio must be a whole number, got True"),
    ({"output_size": (3.5, 2)}, "output_size must be a whole number, got 3.5"),
    ({"output_size": None}, "output_size must be a whole number, got None"),
    ({"strides": (4, 0)}, r"pixels per cell, above 0: got \(4, 0\)"),
    ({"strides": 4}, "2 feature levels but 1 strides"),
    ({"levels": np.zeros((2, 3), _FLOAT)}, "levels must be integers, .* got float32"),
    ({"boxes": np.zeros((2, 3, 4), bool)}, "boxes must be floating or integers: got bool"),
    ({"image_size": np.ones((2, 1))}, r"image_size must be \(2, 2\), .* got \(2, 1\)"),
    ({"features": np.zeros((2, 4, 4, 1))}, "sequence of arrays, one a level: got ndarray"),
    ({"features": ["p2", "p3"]}, "features must be arrays: got str"),
    ({"implementation": ["xla"]}, "allowed are xla"),
]


@pytest.mark.parametrize(("change", "message"), _BAD)
def test_both_functions_refuse(change, message):
    arguments = _GOOD | change
    with pytest.raises(ValueError, match=message):
        pallas_kernels.multilevel_roi_align(**arguments)
    with pytest.raises(ValueError, match=message):
        pallas_kernels.shape_aware_roi_align(
            **arguments, probabilities=np.zeros((*arguments["levels"].shape, 5, 5), _FLOAT)
        )


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (np.zeros((2, 3, 5), _FLOAT), r"a map for each box of \(2, 3, 4\): got \(2, 3, 5\)"),
        (np.zeros((2, 4, 5, 5), _FLOAT), "a map for each box"),
        (np.zeros((2, 3, 0, 5), _FLOAT), r"at least one cell: got \(2, 3, 0, 5\)"),
        (np.zeros((2, 3, 5, 5), bool), "must be floating .* bool"),
    ],
)
def test_bad_probabilities(probabilities, message):
    with pytest.raises(ValueError, match=message):
        pallas_kernels.shape_aware_roi_align(**_GOOD, probabilities=probabilities)


def test_an_implementation_object_says_what_it_does_not_cover():
    with pytest.raises(
        ValueError, match="does not apply: triton needs channels that are a multiple of 32, got 1"
    ):
        pallas_kernels.multilevel_roi_align(**_GOOD, implementation=triton.IMPLEMENTATION)


def test_lists_and_float64_of_numpy_are_taken_as_jax_takes_them():
    features = [np.ones((2, 4, 4, 1)), np.ones((2, 2, 2, 1), _FLOAT)]
    out = pallas_kernels.multilevel_roi_align(
        **(
            _GOOD
            | {"features": features, "boxes": [[[0, 0, 9, 9]] * 3] * 2, "levels": [[0] * 3] * 2}
        )
    )
    assert out.dtype == np.float32 and (out == 1).all()
