"""Stops a run that can read none of its images, instead of training on empty batches."""

from __future__ import annotations

from jaxseg.data import pipeline


class Guard:
    """Counts images that could not be read since the last that could.

    Args:
      images: how many this process meets in an epoch.
    """

    def __init__(self, images: int):
        self._images = max(1, images)
        self._unreadable: set[int] = set()
        self._first: tuple[str, str] | None = None

    def add(self, host: pipeline.HostBatch) -> None:
        """Looks at a batch.

        Raises:
          ValueError: a whole epoch of images could not be read.
        """
        if host.batch.valid.any():
            self._unreadable.clear()
            return
        self._unreadable.update(host.image_ids.tolist())
        if self._first is None and host.problems:
            self._first = host.problems[0]
        if len(self._unreadable) >= self._images:
            example = f" (e.g. {self._first[1]}: {self._first[0]})" if self._first else ""
            raise ValueError(
                f"None of the {self._images} training images of an epoch could be read{example}. "
                "Is the disk still there, and does data.train.images name the right folder?"
            )
