"""What a submission holds, in words."""

from __future__ import annotations

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class Summary:
    """A submission that kept every rule."""

    paths: tuple[pathlib.Path, ...]  # its files or its folder
    listed: int  # images of the split
    images: int  # of them, with detections
    detections: int
    notes: tuple[str, ...] = ()  # what else should be known, e.g. what was left out

    def __str__(self) -> str:
        lines = [f"{self.detections} detections in {self.images} of {self.listed} images"]
        if self.images < self.listed:
            lines.append(
                f"images without detections, which are allowed: {self.listed - self.images}"
            )
        return "\n".join([*lines, *self.notes, *map(str, self.paths)])
