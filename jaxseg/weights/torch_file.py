"""Files of `torch.save`, read without torch: the zip archives since torch 1.6 and the streams before.

Either is a pickle whose tensors refer to storages by number; the storages lie beside the pickle as raw bytes. A tensor
is a strided view of a storage, which several tensors may share.

zip: `<name>/data.pkl`, `<name>/data/<number>` for each storage, `<name>/byteorder` ("little" if missing); the entries
are not compressed. Stream: four pickles one after the other (a magic number, the version 1001, facts of the machine,
the object), a pickle with the list of the storages' names, and of each storage its number of elements (int64) and
content; always little endian.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from jaxseg.weights import arrays, pickles, torch_objects

MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


@contextlib.contextmanager
def open_zip(path: pathlib.Path) -> Iterator[Any]:
    """The saved object of a zip archive; its tensors can be read inside of the context.

    Raises:
      ValueError: it is no archive of `torch.save`, is damaged or holds what is no data.
    """
    with contextlib.ExitStack() as stack:
        with _damaged_zip():
            archive = stack.enter_context(zipfile.ZipFile(path))
        prefix = _prefix(archive)
        order = _member(archive, f"{prefix}byteorder", b"little")
        pickled = _member(archive, f"{prefix}data.pkl")
        if order not in (b"little", b"big"):
            raise ValueError(f"it is damaged: the byte order is {order[:20]!r}")

        left = os.path.getsize(path)

        def content(key: str) -> bytes:
            nonlocal left
            read = _member(archive, f"{prefix}data/{key}")
            left -= len(read)
            if left < 0:
                raise ValueError("it is damaged: its storages overlap")
            return read

        yield torch_objects.load(
            pickles.bounded(pickled), _cached(content), big_endian=order == b"big"
        )


@contextlib.contextmanager
def open_stream(path: pathlib.Path) -> Iterator[Any]:
    """As `open_zip` for files from before torch 1.6, or saved with `_use_new_zipfile_serialization=False`."""
    size = os.path.getsize(path)
    with open(path, "rb") as raw:
        file = pickles.Bounded(raw, size)
        plain = pickles.containers()
        if pickles.load(file, plain) != MAGIC:
            raise ValueError("it is not a file of torch.save")
        version = pickles.load(file, plain)
        if version != _VERSION:
            raise ValueError(f"version {arrays.short(version)} of torch's format is not {_VERSION}")
        pickles.load(file, plain)  # facts of the machine, which the storages do not depend on
        itemsizes: dict[str, int] = {}
        places: dict[str, tuple[int, int]] = {}
        value = torch_objects.load(
            file, _cached(lambda key: _at(raw, *places[key])), itemsizes=itemsizes
        )
        places.update(_places(raw, size, pickles.load(file, plain), itemsizes))
        yield value


def _cached(content: Callable[[str], bytes]) -> torch_objects.Reader:
    """Reads each storage once, of the size that the tensors expect."""
    known: dict[str, bytes] = {}

    def read(key: str, size: int) -> bytes:
        if key not in known:
            known[key] = content(key)
        if len(known[key]) < size:
            raise ValueError(
                f"it is truncated or damaged: storage {key!r} has {len(known[key])} of {size} bytes"
            )
        return known[key]

    return read


# Streams.


def _places(
    file: BinaryIO, size: int, keys: Any, itemsizes: dict[str, int]
) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (position, bytes)) of the storages; all of them must be there."""
    if not isinstance(keys, list) or not set(itemsizes) <= {k for k in keys if isinstance(k, str)}:
        raise ValueError("it is damaged: its list of storages is not complete")
    for key in keys:
        if key not in itemsizes:
            raise ValueError(f"it is damaged: nothing says what storage {arrays.short(key)} is of")
        header = file.read(8)
        elements = struct.unpack("<q", header)[0] if len(header) == 8 else 0
        start, length = file.tell(), elements * itemsizes[key]
        if len(header) < 8 or not 0 <= length <= size - start:
            raise ValueError(
                f"it is truncated or damaged: storage {key!r} is to take {length} bytes of {size - start} that remain"
            )
        yield key, (start, length)
        file.seek(length, os.SEEK_CUR)


def _at(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


# Archives.


@contextlib.contextmanager
def _damaged_zip() -> Iterator[None]:
    """Errors of zipfile in the words of the others. It raises many kinds for files that are no longer whole."""
    try:
        yield
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
        struct.error,
        OverflowError,
        ValueError,
    ) as error:
        raise ValueError(f"it is a truncated or damaged zip archive ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # that is a forged position
            raise
        raise ValueError("it is a damaged zip archive (entries outside of the file)") from error


def _member(archive: zipfile.ZipFile, name: str, default: bytes | None = None) -> bytes:
    """The content of an entry."""
    if name not in archive.NameToInfo:
        if default is None:
            raise ValueError(f"it is damaged: {name!r} is missing in its archive")
        return default
    entry = archive.getinfo(name)
    # torch never compresses; and what is not compressed is no larger than the file.
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        raise ValueError(f"{name!r} is compressed in its archive, which torch.save never does")
    with _damaged_zip():
        return archive.read(entry)


def _prefix(archive: zipfile.ZipFile) -> str:
    """The folder of the archive that everything lies in, with its slash."""
    names = archive.NameToInfo
    found = [
        n.removesuffix("data.pkl") for n in names if n.count("/") == 1 and n.endswith("/data.pkl")
    ]
    if len(found) != 1:
        raise ValueError(
            "it is a zip archive, and not one of torch.save: it has no single data.pkl"
        )
    if f"{found[0]}constants.pkl" in names or any(n.startswith(f"{found[0]}code/") for n in names):
        raise ValueError(
            "it is a TorchScript program, not weights. With torch, save its weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    return found[0]
