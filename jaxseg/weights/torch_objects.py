"""Torch's tensors in pickles, described without torch, and what training scripts keep beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxseg.weights import arrays, pickled_arrays, pickles

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": arrays.BFLOAT16,
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "|i1",
    "ByteStorage": "|u1",
    "BoolStorage": "|b1",
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
    "UntypedStorage": "|u1",
}
# Tensors of these name their dtype and have untyped storages.
_DTYPES = {
    "torch.float32": "<f4",
    "torch.float64": "<f8",
    "torch.float16": "<f2",
    "torch.bfloat16": arrays.BFLOAT16,
    "torch.int64": "<i8",
    "torch.int32": "<i4",
    "torch.int16": "<i2",
    "torch.int8": "|i1",
    "torch.uint8": "|u1",
    "torch.uint16": "<u2",
    "torch.uint32": "<u4",
    "torch.uint64": "<u8",
    "torch.bool": "|b1",
    "torch.complex64": "<c8",
    "torch.complex128": "<c16",
}
_TENSOR_CLASSES = frozenset(
    {"torch.Tensor", "torch._tensor.Tensor", "torch.nn.parameter.Parameter"}
)
# What training scripts keep beside the weights. Their objects are known to be plain records, and nothing of them is
# wanted: they become `Inert`.
_BYSTANDERS = frozenset(
    {
        "argparse.Namespace",
        "collections.deque",
        "datetime.datetime",
        "datetime.timedelta",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        "mmengine.logging.history_buffer.HistoryBuffer",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "pathlib._local.PosixPath",
        "pathlib._local.WindowsPath",
        "torch.device",
        "yacs.config.CfgNode",
    }
)
Reader = Callable[[str, int], bytes]


class Storage(pickles.Value):
    """A storage named by a persistent id, from element `start` on."""

    def __init__(self, read: Reader, dtype: np.dtype, key: str, size: int, start: int):
        self.dtype = dtype
        self._read, self._key, self._size, self._start = read, key, size, start

    def content(self) -> memoryview:
        """The bytes; ValueError if there are fewer than the reference says."""
        itemsize = self.dtype.itemsize
        return memoryview(self._read(self._key, self._size * itemsize))[self._start * itemsize :]


class Tensor(pickles.Deferred):
    """A strided view of a storage. Offset and strides in elements of `dtype`."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype=None):
        if not isinstance(storage, Storage) or not isinstance(offset, int):
            raise ValueError("a tensor without a storage")
        self.storage, self.offset, self.dimensions, self.stride = storage, offset, size, stride
        self.dtype = storage.dtype if dtype is None else dtype
        self.lazy = False  # whether signs or imaginary parts are still to be flipped

    def size(self) -> int:
        return math.prod(arrays.shape(self.dimensions))

    def read(self) -> np.ndarray:
        dimensions, strides = self._layout()
        if self.lazy:
            raise ValueError("a tensor whose conjugation or negation torch had put off")
        if math.prod(dimensions) == 0:
            return np.empty(dimensions, self.dtype)
        content, itemsize = self.storage.content(), self.dtype.itemsize
        last = self.offset + sum((d - 1) * s for d, s in zip(dimensions, strides, strict=True))
        if (last + 1) * itemsize > len(content):
            raise ValueError(
                f"a tensor of shape {dimensions} reaches beyond its storage of {len(content)} bytes"
            )
        items = np.frombuffer(content, self.dtype, last + 1 - self.offset, self.offset * itemsize)
        return np.lib.stride_tricks.as_strided(items, dimensions, [s * itemsize for s in strides])

    def _layout(self) -> tuple[tuple[int, ...], list[int]]:
        """(shape, strides); a stride that is never taken is 0."""
        dimensions, strides = arrays.shape(self.dimensions), self.stride
        if (
            not isinstance(strides, tuple | list)
            or len(strides) != len(dimensions)
            or not all(isinstance(s, int) and s >= 0 for s in (*strides, self.offset))
        ):
            raise ValueError(f"a tensor of shape {dimensions} with strides {arrays.short(strides)}")
        return dimensions, [s if d > 1 else 0 for d, s in zip(dimensions, strides, strict=True)]


def load(
    file: pickles.Bounded,
    read: Reader,
    *,
    big_endian: bool = False,
    itemsizes: dict[str, int] | None = None,
) -> Any:
    """The object. `itemsizes` is filled with the bytes per element of the storages that it refers to."""

    def persistent(reference: Any) -> Storage:
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise ValueError("a reference that is not to a storage")
        _, kind, key, _, size, *view = reference
        name = kind.full.rpartition(".")[2] if isinstance(kind, pickles.Name) else ""
        if name not in _STORAGES or not isinstance(key, str) or not isinstance(size, int):
            raise ValueError("a reference to an unknown kind of storage")
        start = view[0][1] if view and view[0] is not None else 0
        if size < 0 or not isinstance(start, int) or start < 0:
            raise ValueError(f"a storage of {size} elements")
        dtype = _ordered(_STORAGES[name], big_endian)
        if itemsizes is not None and itemsizes.setdefault(key, dtype.itemsize) != dtype.itemsize:
            raise ValueError(f"storage {key!r} has two dtypes")
        return Storage(read, dtype, key, size, start)

    return pickles.load(file, _vocabulary(big_endian), persistent)


def _ordered(dtype: Any, big_endian: bool) -> np.dtype:
    dtype = np.dtype(dtype)
    if not big_endian:
        return dtype
    if dtype == arrays.BFLOAT16:
        raise ValueError("bfloat16 in big-endian order")
    return dtype.newbyteorder(">")


def _vocabulary(big_endian: bool) -> pickles.Vocabulary:
    """What torch's files name."""

    def tensor(storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None):
        made = Tensor(storage, offset, size, stride)
        made.lazy = bool(metadata)
        return made

    def tensor_of_dtype(storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None):
        if not isinstance(dtype, pickles.Name) or dtype.full not in _DTYPES:
            raise ValueError("a tensor of an unknown dtype")
        made = Tensor(storage, offset, size, stride, _ordered(_DTYPES[dtype.full], big_endian))
        made.lazy = bool(metadata)
        return made

    rebuild = {
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": tensor_of_dtype,
    }

    def parameter(data, *_):
        if not isinstance(data, Tensor):
            raise ValueError("a parameter without a tensor")
        return data

    def with_attributes(function, kind, arguments, state):
        """A tensor to which somebody has given attributes of Python."""
        names = [v.full if isinstance(v, pickles.Name) else "" for v in (function, kind)]
        if names[0] not in rebuild or names[1] not in _TENSOR_CLASSES:
            raise ValueError(f"a tensor of the class {names[1]!r}")
        return rebuild[names[0]](*arguments)

    own = pickles.Vocabulary(
        {
            **rebuild,
            "torch._utils._rebuild_parameter": parameter,
            "torch._utils._rebuild_parameter_with_state": parameter,
            "torch._tensor._rebuild_from_type_v2": with_attributes,
            "torch.Size": lambda dimensions=(): tuple(dimensions),
            "builtins.getattr": _attribute,
        },
        constants=_TENSOR_CLASSES.union(
            _DTYPES,
            (f"{module}.{name}" for module in ("torch", "torch.storage") for name in _STORAGES),
        ),
        inert=_BYSTANDERS,
    )
    return pickles.containers() | pickled_arrays.vocabulary() | own


def _attribute(owner: Any = None, *_: Any) -> pickles.Inert:
    """How Python spells the methods of `_BYSTANDERS`; there is no getting at anything else."""
    if not isinstance(owner, pickles.Name) or owner.full not in _BYSTANDERS:
        raise pickles.refusal("builtins.getattr")
    return pickles.Inert()
