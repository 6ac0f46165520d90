"""Files that are either the old one or the new one, whole, also after a kill or on a full disk."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import IO

_ABANDONED = 86400.0  # seconds after which nobody writes to a temporary file any more


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "w") -> Iterator[IO]:
    """A file to write, UTF-8 unless `mode` is "wb"; it takes the place of `path` when the block ends well.

    Raises:
      OSError: it could not be written; `path` is as it was, and named in the message.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _tidy(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise type(error)(f"Could not write {path}: {error.strerror or error}.") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def try_to_write(folder: str | os.PathLike) -> None:
    """Raises OSError, as the system reports it, where no file of a page can be written in a folder; leaves none."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(4096))
        file.flush()


def _tidy(path: pathlib.Path) -> None:
    """Removes what writers of the same file left behind when they were killed; recent ones may still be at it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.tmp*"):
        with contextlib.suppress(OSError):  # another one tidies, too
            if (
                left.name.rpartition(".tmp")[2].isdecimal()
                and time.time() - left.stat().st_mtime > _ABANDONED
            ):
                left.unlink()
