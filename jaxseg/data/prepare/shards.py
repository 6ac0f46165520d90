"""Files of records: which records make up which file, and writing one that is whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence

from jaxseg.data.prepare import library

TEMPORARY = ".incomplete"
# One record a group, so that one can be read without its neighbours. Image files are compressed already.
IMAGES, ANNOTATIONS = "group_size:1,uncompressed", "group_size:1,zstd:3"
# With no buffers and threads of its own; group size and compression are in the file.
_READER = "readahead_buffer_size:0,max_parallelism:0"


def cut(sizes: Sequence[int], limit: int) -> list[int]:
    """How many records go into each file: a file ends with the record that brings it to `limit` bytes."""
    counts, records, filled = [], 0, 0
    for size in sizes:
        records, filled = records + 1, filled + size
        if filled >= limit:
            counts.append(records)
            records = filled = 0
    return counts + [records] * bool(records)


def write(path: str, records: Iterable[bytes], options: str) -> None:
    """Writes a file under a temporary name, brings it to the disk, and gives it its name.

    Raises:
      OSError: it could not be written, for one because the disk is full; nothing of it is left.
    """
    temporary = path + TEMPORARY
    try:
        _write(temporary, records, options)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(os.path.dirname(path))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _write(path: str, records: Iterable[bytes], options: str) -> None:
    writer = None
    records = iter(records)
    try:
        writer = library.array_record().ArrayRecordWriter(path, options)
        while (record := next(records, None)) is not None:
            _put(writer, record, path)
    finally:
        if writer is not None:
            _close(writer, path)


def _put(writer, record: bytes, path: str) -> None:
    try:
        writer.write(record)
    except RuntimeError as error:
        raise _unwritable(path, error) from None


def _close(writer, path: str) -> None:
    try:
        writer.close()
    except RuntimeError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: str, error: RuntimeError) -> OSError:
    return OSError(
        f"Could not write {path.removesuffix(TEMPORARY)}: {str(error).partition(';')[0]}. What is whole is kept: mend "
        "it (a full disk: make room) and run the same command again."
    )


def _sync_folder(folder: str) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def remove_unfinished(folder: str) -> None:
    """Removes what an interrupted run was writing."""
    for name in os.listdir(folder):
        if name.endswith(TEMPORARY):
            os.unlink(os.path.join(folder, name))


def check(path: str, records: int, size: int | None = None) -> None:
    """Sees to it that a file is whole.

    Args:
      records: how many it must hold; only looked at where the size is not known.
      size: in bytes.

    Raises:
      FileNotFoundError, ValueError: it is not there, or cut off.
    """
    again = "run jaxseg.data.prepare again as before: it writes what is not there"
    if not os.path.isfile(path):
        raise FileNotFoundError(f"Shard {path} is not there; {again}.")
    actual = os.path.getsize(path)
    if size is not None:
        if actual != size:
            raise ValueError(
                f"Shard {path} is damaged: it has {actual:,} bytes instead of {size:,}. Delete it and {again}."
            )
        return
    held = _count(path)
    if held != records:
        raise ValueError(
            f"Shard {path} is damaged: it holds {held:,} records instead of {records:,}. Delete it and {again}."
        )


def _count(path: str) -> int:
    """How many records a file holds; 0 if its end is not there."""
    try:
        reader = library.array_record().ArrayRecordReader(path, _READER)
        held = reader.num_records()
        reader.close()
    except RuntimeError:
        return 0
    return held


def read(path: str) -> list[bytes]:
    """All records of a file.

    Raises:
      ValueError: it is damaged.
    """
    reader = library.array_record().ArrayRecordReader(path)
    try:
        return reader.read_all()
    except RuntimeError as error:
        raise ValueError(
            f"Shard {path} is damaged ({str(error).partition(';')[0]}). Delete it and run jaxseg.data.prepare again."
        ) from None
    finally:
        with contextlib.suppress(RuntimeError):
            reader.close()
