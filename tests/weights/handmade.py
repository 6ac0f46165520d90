"""Pickles put together by opcode, and files of torch around them: what no honest library would write.

No module that they name need exist.
"""

from __future__ import annotations

import dataclasses
import io
import struct
import zipfile
from typing import Any

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
_NOTHING = object()


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """`module.name`. `spelled`: through the opcode of protocol 4, which admits dots in the name."""

    module: str
    name: str
    spelled: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """function(*arguments), then what `__setstate__` would get; `new`: by NEWOBJ."""

    function: Any
    arguments: Any = ()
    state: Any = _NOTHING
    new: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """A persistent id."""

    id: Any


def _length(op: bytes, content: bytes) -> bytes:
    return op + struct.pack("<I", len(content)) + content


def code(value: Any) -> bytes:
    """The opcodes that make `value`."""
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(content)]) + content
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return _length(b"X", value.encode())
        case bytes():
            return _length(b"B", value)
        case list():
            return b"](" + b"".join(map(code, value)) + b"e"
        case tuple():
            return b"(" + b"".join(map(code, value)) + b"t"
        case dict():
            return b"}(" + b"".join(code(k) + code(v) for k, v in value.items()) + b"u"
        case Global(spelled=True):
            return code(value.module) + code(value.name) + b"\x93"
        case Global():
            return f"c{value.module}\n{value.name}\n".encode()
        case Call():
            made = code(value.function) + code(value.arguments) + (b"\x81" if value.new else b"R")
            return made if value.state is _NOTHING else made + code(value.state) + b"b"
        case Reference():
            return code(value.id) + b"Q"
    raise TypeError(value)


def pickled(value: Any) -> bytes:
    return b"\x80\x02" + code(value) + b"."


def storage(
    key: str = "0", size: int = 6, kind: str = "FloatStorage", module: str = "torch"
) -> Reference:
    return Reference(("storage", Global(module, kind), key, "cpu", size))


def stream_storage(view: tuple[str, int, int] | None = None) -> Reference:
    """As streams refer to them; `view` is (name, first element, elements)."""
    return Reference((*storage().id, view))


def tensor(shape=(2, 3), stride=(3, 1), offset=0, of: Any = None) -> Call:
    arguments = (of or storage(), offset, shape, stride, False, {})
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), arguments)


def array(values: np.ndarray) -> Call:
    """A NumPy array as Python 2 wrote it."""
    dtype = Call(Global("numpy", "dtype"), (values.dtype.str[1:], 0, 1), (3, "<", *[None] * 3))
    state = (1, values.shape, dtype, False, values.tobytes())
    make = Global("numpy.core.multiarray", "_reconstruct")
    return Call(make, (Global("numpy", "ndarray"), (0,), b"b"), state)


SIX = np.arange(6, dtype=np.float32).tobytes()


def torch_zip(value: Any, storages: dict[str, bytes] | None = None, **entries: bytes) -> bytes:
    """An archive of torch.save; `value` may be the pickle itself."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        content = value if isinstance(value, bytes) else pickled(value)
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", b"3\n")
        for key, numbers in ({"0": SIX} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", numbers)
        for name, content in entries.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def torch_stream(
    value: Any, head: tuple = (MAGIC, 1001, {"little_endian": True}), keys: Any = ("0",)
) -> bytes:
    """The format before torch 1.6, of storages of six floats."""
    content = value if isinstance(value, bytes) else pickled(value)
    count = len(keys) if isinstance(keys, tuple) else 1
    keys = list(keys) if isinstance(keys, tuple) else keys
    storages = (struct.pack("<q", 6) + SIX) * count
    return b"".join(map(pickled, head)) + content + pickled(keys) + storages
