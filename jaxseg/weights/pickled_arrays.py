"""NumPy's arrays, scalars and dtypes in pickles, of Python 2 and 3."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxseg.weights import arrays, pickles

_CODES = frozenset(("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"))


class DType(pickles.Value):
    """A dtype; its byte order comes as its state."""

    def __init__(self, code: str, align: Any = False, copy: Any = True):
        self.code = code
        self.order = "="
        self.plain = isinstance(code, str) and code in _CODES

    def set_state(self, state: Any) -> None:
        _, self.order, *fields = state[:5]
        # Sub-arrays and records would change what the code means.
        self.plain = self.plain and fields == [None] * 3 and self.order in ("<", ">", "|", "=")

    def numpy(self) -> np.dtype:
        """The dtype; ValueError unless it is of plain numbers."""
        if not self.plain:
            raise ValueError(
                f"an array of dtype {arrays.short(self.code)}, which is not of numbers"
            )
        order = {"|": "=", "=": "<"}.get(self.order, self.order)
        return np.dtype(self.code).newbyteorder(order)


class Array(pickles.Deferred):
    """An array; everything about it comes as its state (version, shape, dtype, Fortran order, bytes)."""

    def __init__(self, kind: Any, initial_shape: Any = (), code: Any = b""):
        if not isinstance(kind, pickles.Name) or kind.full != "numpy.ndarray":
            raise ValueError("an array of another class than numpy.ndarray")
        self.state: tuple = ()

    def set_state(self, state: Any) -> None:
        self.state = tuple(state[-4:])  # the version is missing in the oldest files

    def _checked(self) -> tuple[tuple[int, ...], np.dtype, bool, bytes]:
        if len(self.state) != 4:
            raise ValueError("an array without content")
        dimensions, dtype, fortran, content = self.state
        if isinstance(content, str):
            content = content.encode("latin1")  # Python 2 had no other bytes
        if not isinstance(dtype, DType):
            raise ValueError("an array without a dtype")
        number = dtype.numpy()
        if not isinstance(content, bytes | bytearray):
            raise ValueError("an array of Python objects")
        return arrays.shape(dimensions), number, bool(fortran), content

    def size(self) -> int:
        return math.prod(self._checked()[0])

    def read(self) -> np.ndarray:
        dimensions, dtype, fortran, content = self._checked()
        return arrays.from_bytes(content, dtype, dimensions, "F" if fortran else "C")


def vocabulary() -> pickles.Vocabulary:
    """What NumPy's pickles name."""
    return pickles.Vocabulary(
        {
            "numpy.core.multiarray._reconstruct": Array,
            "numpy.core.numeric._frombuffer": _from_buffer,
            "numpy.core.multiarray.scalar": _scalar,
            "numpy.dtype": DType,
        },
        constants=frozenset({"numpy.ndarray"}),
    )


def _from_buffer(content: Any, dtype: Any, dimensions: Any, order: Any, axes: Any = None) -> Array:
    """Protocol 5's spelling of an array."""
    if axes is not None or order not in ("C", "F"):
        raise ValueError(f"an array in the order {arrays.short(order)}")
    array = Array(pickles.Name("numpy.ndarray"))
    array.set_state((dimensions, dtype, order == "F", content))
    return array


def _scalar(dtype: Any, content: Any = b"") -> Any:
    """A number; `Inert` for text, dates and objects."""
    if not isinstance(dtype, DType) or not dtype.plain:
        return pickles.Inert()
    if isinstance(content, str):
        content = content.encode("latin1")
    return arrays.from_bytes(content, dtype.numpy(), ()).item()
