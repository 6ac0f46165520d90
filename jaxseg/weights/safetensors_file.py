"""The safetensors format: https://huggingface.co/docs/safetensors.

8 bytes: the length of the header (uint64, little endian); the header: a JSON object of name -> {dtype, shape,
data_offsets}, and of text -> text under `__metadata__`; then the numbers, little endian, C order, without gaps.

Read and written here rather than by the package of that name: the format is these few lines, and one dependency less.
"""

from __future__ import annotations

import json
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from jaxseg import atomic
from jaxseg.weights import arrays

_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": arrays.BFLOAT16,
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("|i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("|u1"),
    "BOOL": np.dtype("|b1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the format's own limit


def looks_like(head: bytes, size: int) -> bool:
    """Whether a file of `size` bytes that begins with `head` (9 bytes) may be one."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def read(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """(arrays in the file's dtypes, metadata).

    Raises:
      ValueError: the file is damaged, truncated, or of a dtype that is not supported.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        header, start = _header(file, size)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            raise ValueError("it is damaged: its metadata is no dictionary")
        places = {name: _place(name, entry) for name, entry in header.items()}
        _check_places(places, size - start)
        found = {}
        for name, (begin, end, dtype, shape) in places.items():
            file.seek(start + begin)
            found[name] = arrays.from_bytes(file.read(end - begin), dtype, shape)
    return found, metadata


def write(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays by name, so that the file is either the old one or the new one, whole, also after a kill.

    Args:
      path: the file; its folder exists.
      state_dict: arrays of numbers or booleans; bfloat16 as `ml_dtypes` has it.
      metadata: text by name. Readers of torch's world expect {"format": "pt"} in what is theirs.

    Raises:
      ValueError: a dtype, a name or metadata that the format has no place for.
      OSError: the file cannot be written.
    """
    path = pathlib.Path(path).expanduser()
    contents = {name: _little_endian(name, array) for name, array in state_dict.items()}
    # The order of the format's own writer: wide numbers first, which keeps all of them aligned.
    contents = dict(sorted(contents.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])))
    header = _encode_header(contents, metadata or {})
    with atomic.replacing(path, "wb") as file:
        file.write(header)
        for array in contents.values():
            file.write(array.tobytes())


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """(the header, where the numbers begin)."""
    first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if len(first) < 8 or length > size - 8:
        raise ValueError(f"it is truncated: its header of {length} bytes is not whole")
    if length > _MAX_HEADER:
        raise ValueError(f"it is damaged: a header of {length} bytes")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is damaged: its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise ValueError("it is damaged: its header is no dictionary")
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name occurs twice")
    return dict(pairs)


def _place(name: str, entry: Any) -> tuple[int, int, np.dtype, tuple[int, ...]]:
    """(begin, end, dtype, shape) of an array."""
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"it is damaged: {name!r} lacks its dtype, shape or place")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
        raise ValueError(
            f"{name!r} is of dtype {arrays.short(entry['dtype'])}; those supported are {', '.join(_DTYPES)}"
        )
    offsets = entry["data_offsets"]
    if not isinstance(offsets, list) or [type(o) for o in offsets] != [int, int]:
        raise ValueError(f"it is damaged: {name!r} lies at {arrays.short(offsets)}")
    return *offsets, _DTYPES[entry["dtype"]], arrays.shape(entry["shape"])


def _check_places(places: dict[str, tuple], size: int) -> None:
    """The arrays fill the file, one after the other."""
    position = 0
    for name, (begin, end, *_) in sorted(places.items(), key=lambda item: item[1][:2]):
        if begin != position or end < begin:
            raise ValueError(f"it is damaged: {name!r} overlaps another array or leaves a gap")
        position = end
    if position > size:
        raise ValueError(f"it is truncated: {size} of {position} bytes of numbers are there")
    if position < size:
        raise ValueError(f"it is damaged: {size - position} bytes follow the last array")


def _little_endian(name: str, array: np.ndarray) -> np.ndarray:
    if not isinstance(name, str) or name == "__metadata__":
        raise ValueError(f"{name!r} cannot be the name of an array")
    array = np.asarray(array, order="C")
    dtype = array.dtype if array.dtype in _NAMES else array.dtype.newbyteorder("<")
    if dtype not in _NAMES:
        raise ValueError(
            f"{name!r} is of dtype {array.dtype}; those supported are {', '.join(map(str, _NAMES))}"
        )
    return array.astype(dtype, copy=False)


def _encode_header(contents: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise ValueError("The metadata of a safetensors file is text by name.")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, array in contents.items():
        end = position + array.nbytes
        header[name] = dict(
            dtype=_NAMES[array.dtype], shape=list(array.shape), data_offsets=[position, end]
        )
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin aligned
    return struct.pack("<Q", len(text)) + text
