"""Folders that are either the old one or the new one, whole."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import shutil
import time
from collections.abc import Iterator

_ABANDONED = 86400.0  # seconds after which nobody writes to a temporary folder any more


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder to fill; it takes the place of `path` when the block ends well.

    A kill between the two renamings of the end leaves the old folder under the name `.{name}.old{pid}`.

    Raises:
      OSError: it could not be written; `path` is as it was, and named in the message.
    """
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    old = path.with_name(f".{path.name}.old{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that had the same number
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(temporary, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise type(error)(f"Could not write {path}: {error.strerror or error}.") from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)
    _tidy(path)


def _tidy(path: pathlib.Path) -> None:
    """Removes what writers of the same folder left behind when they were killed; recent ones may still be at it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.tmp*"):
        with contextlib.suppress(OSError):
            if (
                left.name.rpartition(".tmp")[2].isdecimal()
                and time.time() - left.stat().st_mtime > _ABANDONED
            ):
                shutil.rmtree(left)
