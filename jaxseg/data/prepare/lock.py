"""One writer at a place."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def only_writer(folder: str) -> Iterator[None]:
    """Holds the lock of a folder; it is free again when the process has ended, however it did.

    Raises:
      OSError: another process holds it.
    """
    path = os.path.join(folder, ".lock")
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"Another process is writing to {folder} (it holds {path}). Wait for it, or end it."
            ) from None
        except OSError as error:  # some mounted buckets and old NFS cannot lock
            logging.warning(
                "%s cannot be locked (%s): see to it that nobody else writes.",
                folder,
                error.strerror,
            )
        yield
