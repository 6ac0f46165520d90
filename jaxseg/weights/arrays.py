"""Shapes from files, checked; and the dtypes that weights have after loading."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_MAX_DIMENSIONS = 32
_MAX_ELEMENTS = 2**48


def shape(dimensions: Any) -> tuple[int, ...]:
    """`dimensions` as a shape.

    Raises:
      ValueError: they are none, or such that NumPy could not even say what is wrong with them.
    """
    if (
        not isinstance(dimensions, list | tuple)
        or len(dimensions) > _MAX_DIMENSIONS
        or not all(isinstance(d, int) and not isinstance(d, bool) and d >= 0 for d in dimensions)
        or math.prod(max(d, 1) for d in dimensions) > _MAX_ELEMENTS
    ):
        raise ValueError(f"{short(dimensions)} is not the shape of an array")
    return tuple(dimensions)


def from_bytes(
    content: bytes, dtype: np.dtype, dimensions: tuple[int, ...], order: str = "C"
) -> np.ndarray:
    """The array over `content`, without a copy; ValueError unless it fits exactly."""
    expected = math.prod(dimensions) * dtype.itemsize
    if len(content) != expected:
        raise ValueError(
            f"{len(content)} bytes where {dtype} of shape {dimensions} takes {expected}"
        )
    return np.frombuffer(content, dtype).reshape(dimensions, order=order)


def loaded(array: np.ndarray) -> np.ndarray:
    """The array as `load_file` returns it: C order, the machine's byte order, read-only.

    Every float becomes float32: half precision because weights are kept in float32 here, float64 because jaxseg
    computes in float32. Integers and booleans stay what they are.
    """
    if array.dtype == bool:
        array = array.view(np.uint8) != 0  # bytes of a file, which need not be 0 or 1
    if array.dtype.kind == "f" or array.dtype == BFLOAT16:
        dtype = np.dtype(np.float32)
    else:
        dtype = array.dtype.newbyteorder("=")
    with np.errstate(over="ignore", invalid="ignore"):  # a float64 beyond float32 is infinite
        array = np.asarray(array, dtype, order="C")
    array = array.view()
    array.flags.writeable = False
    return array


def short(value: Any) -> str:
    """`value` for a message, whatever its size and nesting."""
    if isinstance(value, list | tuple):
        words = [short(v) if isinstance(v, int) else type(v).__name__ for v in value[:8]]
        return f"({', '.join(words)}{', ...' if len(value) > 8 else ''})"
    if isinstance(value, int) and abs(value) > 10**18:
        return "a huge number"
    if isinstance(value, int | float | str | None):
        return repr(value)[:80]
    return type(value).__name__
