"""Cityscapes' test server, instance-level task: a folder with a text file an image and a PNG a detection.

The rules are those of cityscapesscripts' `evalInstanceLevelSemanticLabeling.py`, which the server runs: for each image
exactly one `<city>_<sequence>_<frame>*.txt`, empty where nothing was found, whose lines are
`relative/mask.png labelID confidence`; a mask has the image's size, its pixels are 0 or one other value; labelID is one
of the 8 classes with instances, the id and not the train id. Empty masks are skipped there, and left out here.

A folder `cityscapes_[name]_results` holds `<city>_<sequence>_<frame>.txt` and `masks/<the same>_<number>.png`.
"""

from __future__ import annotations

import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from jaxseg.data.cityscapes_classes import CLASSES
from jaxseg.evaluation.submission import cityscapes_folder, entries, folders, masks, names
from jaxseg.evaluation.submission.listing import Listing
from jaxseg.evaluation.submission.summary import Summary

_FRAME = re.compile(r"([A-Za-z-]+_\d{6}_\d{6})(_[A-Za-z0-9_-]+)?\.[A-Za-z]+")
_THREADS = 4  # a mask takes some milliseconds outside of Python
_AHEAD = 256  # masks handed to them at once


def frames(listing: Listing) -> dict[int, str]:
    """`<city>_<sequence>_<frame>` of each image id.

    Raises:
      ValueError: a file is not named so, or two are of one frame.
    """
    found: dict[str, int] = {}
    for image, file in listing.files.items():
        match = _FRAME.fullmatch(pathlib.PurePath(file).name)
        if not match:
            raise ValueError(
                f"Image {image}, {file!r}: Cityscapes' files are named <city>_123456_123456_leftImg8bit.png, and the "
                "server finds results by that."
            )
        if match[1] in found:
            raise ValueError(
                f"Images {found[match[1]]} and {image} are both of the frame {match[1]}; one image a frame is allowed."
            )
        found[match[1]] = image
    return {image: frame for frame, image in found.items()}


def labels(listing: Listing) -> dict[int, int]:
    """Cityscapes' label id of each category id, by the classes' names.

    Raises:
      ValueError: a class is none of Cityscapes'.
    """
    known = {name: label for label, name in CLASSES}
    for number, name in listing.categories.items():
        if name not in known:
            raise ValueError(
                f"The class {name!r} (id {number}) is none of the {len(CLASSES)} that Cityscapes evaluates: "
                f"{', '.join(known)}."
            )
    return {number: known[name] for number, name in listing.categories.items()}


def folder_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Where the submission of a name lies in a folder.

    Raises:
      ValueError: the name is not allowed, or something else lies there.
    """
    target = folder / f"cityscapes_{names.check(name)}_results"
    cityscapes_folder.check_replaceable(target)
    return target


def write(
    results: Iterable[Mapping[str, Any]], listing: Listing, folder: pathlib.Path, *, name: str
) -> Summary:
    """Checks results and writes the folder `cityscapes_[name]_results`.

    It is read again and checked before it takes the place of an earlier one of the same name.

    Args:
      results: COCO results, gone through twice; a list or a `ResultsFile`.
      listing: the images and classes of the split.
      folder: where the folder goes.
      name: of the algorithm.

    Raises:
      ValueError: results that break a rule; names that are not allowed; the folder holds other things.
      OSError: it cannot be written; nothing of it is left.
    """
    frame, label = frames(listing), labels(listing)
    target = folder_of(folder, name)
    for number, entry in enumerate(results):
        entries.check(entry, number, listing)
    lines: dict[str, list[str]] = defaultdict(list)
    empty = 0
    with folders.replacing(target) as temporary:
        (temporary / masks.FOLDER).mkdir()
        for path, entry in _written(results, frame, temporary):
            if path is None:
                empty += 1
                continue
            line = f"{path} {label[entry['category_id']]} {float(entry['score'])!r}"
            lines[frame[entry["image_id"]]].append(line)
        for stem in frame.values():
            text = "".join(f"{line}\n" for line in lines[stem])
            (temporary / f"{stem}.txt").write_text(text, encoding="ascii")
        found, _ = cityscapes_folder.count(temporary, listing, frame)
    notes = (f"{empty} detections left out: their masks are empty",) if empty else ()
    return _summary(target, found, listing, notes)


def check(path: pathlib.Path, listing: Listing) -> Summary:
    """Checks a folder that is to be uploaded, by the rules above.

    Raises:
      NotADirectoryError: no such folder.
      ValueError: it breaks a rule.
    """
    labels(listing)
    found, empty = cityscapes_folder.count(path, listing, frames(listing))
    notes = (f"{empty} of these masks are empty, and skipped by the server",) if empty else ()
    return _summary(path, found, listing, notes)


def _summary(path: pathlib.Path, found: Counter, listing: Listing, notes: tuple) -> Summary:
    if not found:
        notes = (*notes, "there is no detection at all: the AP will be 0")
    return Summary((path,), len(listing), len(found), found.total(), notes)


def _written(
    results: Iterable[Mapping[str, Any]], frame: Mapping[int, str], folder: pathlib.Path
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Writes masks; yields each one's path relative to the folder, None for an empty one, and its result."""
    numbers: Counter[int] = Counter()

    def save(job: tuple[str, Mapping[str, Any]]) -> tuple[str | None, Mapping[str, Any]]:
        path, entry = job
        return path if masks.write(folder / path, entry["segmentation"]) else None, entry

    def jobs() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for entry in results:
            image = entry["image_id"]
            yield f"{masks.FOLDER}/{frame[image]}_{numbers[image]:04d}.png", entry
            numbers[image] += 1

    todo = jobs()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="masks") as pool:
        while some := list(islice(todo, _AHEAD)):
            yield from pool.map(save, some)
