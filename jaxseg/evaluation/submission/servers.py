"""Which test server a split belongs to, and what it takes."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from jaxseg.data.source import Source
from jaxseg.evaluation.submission import cityscapes, coco, listing, names
from jaxseg.evaluation.submission.summary import Summary

SERVERS = ("coco", "cityscapes")


@dataclasses.dataclass(frozen=True)
class Submission:
    """A submission to be: everything but the results."""

    server: str  # one of SERVERS
    listing: listing.Listing
    folder: pathlib.Path
    name: str
    split: str  # a key of coco.TESTSETS; cityscapes has one only

    def write(self, results: Iterable[Mapping[str, Any]], *, boxes: bool = False) -> Summary:
        """Writes the files; see `coco.write` and `cityscapes.write`."""
        if self.server == "cityscapes":
            return cityscapes.write(results, self.listing, self.folder, name=self.name)
        testset = coco.TESTSETS[self.split]
        return coco.write(
            results, self.listing, self.folder, testset=testset, name=self.name, boxes=boxes
        )

    def check(self) -> None:
        """Finds what can be wrong before there are results.

        Raises:
          ValueError: the name, the classes or the images are not as the server wants them, or the folder is taken.
        """
        names.check(self.name)
        if self.server == "coco":
            coco.check_listing(self.listing)
        else:
            cityscapes.labels(self.listing)
            cityscapes.frames(self.listing)
            cityscapes.folder_of(self.folder, self.name)


def of_split(split: str, source: Source) -> str | None:
    """The server of a split, None if it is of none: `test_dev` and `test_challenge` are COCO's; Cityscapes' is a split
    `test` without objects, with Cityscapes' classes and file names.
    """
    if split in coco.TESTSETS:
        return "coco"
    if split != "test" or any(info.num_objects for info in source.infos):
        return None
    found = listing.of_source(source)
    try:
        cityscapes.labels(found)
        cityscapes.frames(found)
    except ValueError:
        return None
    return "cityscapes"


def plan(
    split: str,
    source: Source,
    folder: str | os.PathLike,
    *,
    name: str | None,
    workdir: str | os.PathLike,
    method: str,
) -> Submission | None:
    """The submission of an evaluation, checked as far as it can be without results; None where no server takes it.

    Args:
      split: key of the split.
      source: its images.
      folder: where the files go.
      name: of the algorithm; None: that of the work directory, or the method's.
      workdir: of the run.
      method: of the run.

    Raises:
      ValueError: as `Submission.check`; or a name was given for a split of no server.
    """
    server = of_split(split, source)
    if server is None:
        if name is not None:
            raise ValueError(
                f"--submission={name}: the split {split!r} is of no test server. Those are test-dev and test-challenge "
                "of COCO, and test of Cityscapes."
            )
        return None
    if name is None:
        name = names.default(workdir, method)
    folder = pathlib.Path(folder).expanduser()
    submission = Submission(server, listing.of_source(source), folder, name, split)
    submission.check()
    return submission
