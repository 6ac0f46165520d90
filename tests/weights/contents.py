"""What the files in tests/weights/files hold, in NumPy."""

from __future__ import annotations

import ml_dtypes
import numpy as np

BASE = np.arange(24, dtype=np.float32).reshape(2, 3, 4) + 0.5
TRAINED = {
    "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 8,
    "0.bias": np.array([1.0, -1.0], np.float32),
    "1.num_batches_tracked": np.array(7),
}


def views() -> dict[str, np.ndarray]:
    """Arrays as they are saved: torch gives many of them as views of shared storages."""
    return {
        "base": BASE,
        "transposed": BASE.transpose(2, 1, 0),
        "slice": BASE[:, 1:, ::2],
        "row": BASE[1],
        "expanded": np.broadcast_to(BASE[0, :, :1], (3, 5)),
        "channels_last": np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5),
        "scalar": np.array(3.25, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "parameter": np.array([0.1, 0.2], np.float32),
        "half": np.array([1.5, -2.25], np.float16),
        "bfloat16": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16),
        "double": np.array([1 / 3, 2.0]),
        "int64": np.array(2**40),
        "int32": np.array([1, -2], np.int32),
        "int16": np.array([1, -2], np.int16),
        "int8": np.array([1, -2], np.int8),
        "uint8": np.array([1, 200], np.uint8),
        "uint16": np.array([1, 60000], np.uint16),
        "bool": np.array([True, False]),
    }


def loaded(array: np.ndarray) -> np.ndarray:
    """As `load_file` is to return it."""
    floats = array.dtype.kind == "f" or array.dtype == ml_dtypes.bfloat16
    return array.astype(np.float32) if floats else array


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The names, their order, shapes, dtypes and bits."""
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert type(got[name]) is np.ndarray
        assert got[name].dtype == array.dtype, name
        assert got[name].flags.c_contiguous and not got[name].flags.writeable, name
        np.testing.assert_array_equal(got[name], array, err_msg=name, strict=True)
