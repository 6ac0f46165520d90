"""COCO's test server: one JSON file of results, in a zip.

The rules, from https://cocodataset.org/#upload and #format-results, and from what pycocotools' `loadRes`, which the
server runs, takes: `detections_[testset]_[name]_results.json` alone in a zip of the same name; a list of at least one
detection, each with image_id, category_id, score and segmentation (a compressed RLE), ids of the test set and of the
80 classes. At most 100 detections an image count, all classes together; the best are kept.

`bbox` is optional: beside a mask the server takes the sizes of detections, small, medium and large, from it.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import re
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import IO, Any

import numpy as np

from jaxseg import atomic
from jaxseg.data.coco_classes import COCO80
from jaxseg.evaluation.submission import entries, names
from jaxseg.evaluation.submission.listing import Listing
from jaxseg.evaluation.submission.results_file import ResultsFile, member
from jaxseg.evaluation.submission.summary import Summary

TESTSETS = {"test_dev": "test-dev2017", "test_challenge": "test2017"}  # split: name on the server
SIZES = {"test-dev2017": 20_288, "test2017": 40_670}  # images
MAX_DETECTIONS = 100
_NAME = re.compile(rf"detections_({'|'.join(SIZES)})_([{names.LETTERS}]+)_results\.(json|zip)")


def check_listing(listing: Listing) -> None:
    """Sees to it that the classes of a split have COCO's ids.

    Raises:
      ValueError: one has not.
    """
    official = {category.id: category.name for category in COCO80}
    for number, name in listing.categories.items():
        if official.get(number) != name:
            raise ValueError(
                f"The class {name!r} has the id {number}, which is {official.get(number, 'none')!r} on COCO's server: "
                "take the image list that COCO publishes, e.g. image_info_test-dev2017.json."
            )


def write(
    results: Iterable[Mapping[str, Any]],
    listing: Listing,
    folder: pathlib.Path,
    *,
    testset: str,
    name: str,
    boxes: bool = False,
) -> Summary:
    """Checks results and writes `detections_[testset]_[name]_results.json` and `.zip`.

    Both are read again and checked before they take the place of files of the same names; the zip of an earlier JSON
    is removed before that JSON is replaced.

    Args:
      results: COCO results, gone through twice; a list or a `ResultsFile`.
      listing: the images and classes of the split.
      folder: where the files go.
      testset: a value of `TESTSETS`.
      name: of the algorithm.
      boxes: write `bbox`, too; each result needs one.

    Raises:
      ValueError: results that break a rule; there are none; names that are not allowed.
      OSError: the files cannot be written; nothing of them is left.
    """
    check_listing(listing)
    stem = f"detections_{_testset(testset)}_{names.check(name)}_results"
    kept = _best(results, listing, boxes)
    path, archive = folder / f"{stem}.json", folder / f"{stem}.zip"
    with atomic.replacing(path) as file:
        _dump((entry for entry, keep in zip(results, kept, strict=True) if keep), file, boxes)
        file.flush()
        found = _count(ResultsFile(file.name), listing)
        archive.unlink(missing_ok=True)
    with atomic.replacing(archive, "wb") as file:
        _pack(path, file)
        file.flush()
        _check_packed(file.name, path)
    notes = _notes(testset, listing)
    if dropped := len(kept) - int(kept.sum()):
        notes = (
            f"{dropped} detections left out: not of the {MAX_DETECTIONS} best of their image",
            *notes,
        )
    return Summary((path, archive), len(listing), len(found), found.total(), notes)


def check(path: pathlib.Path, listing: Listing) -> Summary:
    """Checks a JSON or zip file that is to be uploaded, by the rules above.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it breaks a rule.
    """
    named = _NAME.fullmatch(path.name)
    if not named:
        raise ValueError(
            f"{path.name}: the server wants the name detections_[testset]_[name]_results.zip, or .json in it, with the "
            f"test set {' or '.join(SIZES)} and a name of letters, digits, - and _."
        )
    check_listing(listing)
    found = _count(ResultsFile(path), listing)
    return Summary(
        (path,), len(listing), len(found), found.total(), _notes(named.group(1), listing)
    )


def _testset(testset: str) -> str:
    if testset not in SIZES:
        raise ValueError(f"The test set {testset!r}: allowed are {' and '.join(SIZES)}.")
    return testset


def _best(results: Iterable[Any], listing: Listing, boxes: bool) -> np.ndarray:
    """Checks all results, and says which are kept, bool (N,): of an image those with the highest scores; of equal
    ones the first, as in COCO's evaluation.
    """
    images, scores = array("q"), array("d")
    for number, entry in enumerate(results):
        entries.check(entry, number, listing)
        if boxes and "bbox" not in entry:
            raise ValueError(f"Entry {number}: no 'bbox', which is asked for.")
        images.append(entry["image_id"])
        scores.append(entry["score"])
    if not images:
        raise ValueError(
            "There are no detections, and COCO's server cannot read an empty list: nothing to submit. Train longer, or "
            "lower model.test.score."
        )
    of_image, score = np.asarray(images), np.asarray(scores)
    order = np.lexsort((-score, of_image))
    ordered = of_image[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = np.empty(len(order), bool)
    kept[order] = rank < MAX_DETECTIONS
    return kept


def _dump(results: Iterable[Mapping[str, Any]], file: IO[str], boxes: bool) -> None:
    """Writes a JSON list, one entry a line."""
    keys = (*entries.KEYS, "bbox") if boxes else entries.KEYS
    separator = "[\n"
    for entry in results:
        mask = {key: entry["segmentation"][key] for key in ("size", "counts")}
        chosen = {key: entry[key] for key in keys} | {"segmentation": mask}
        file.write(separator + json.dumps(chosen, separators=(",", ":"), allow_nan=False))
        separator = ",\n"
    file.write("\n]\n")


def _count(results: Iterable[Any], listing: Listing) -> Counter[int]:
    """Detections by image id of a file that is to be uploaded, all of them checked."""
    found: Counter[int] = Counter()
    boxed = 0
    for number, entry in enumerate(results):
        entries.check(entry, number, listing)
        if other := set(entry) - {*entries.KEYS, "bbox"}:
            raise ValueError(
                f"Entry {number}: the keys {', '.join(sorted(map(str, other)))}; allowed are "
                f"{', '.join(entries.KEYS)} and bbox."
            )
        boxed += "bbox" in entry
        if boxed not in (0, number + 1):
            raise ValueError(
                f"Entry {number}: {'a' if 'bbox' in entry else 'no'} bbox, unlike the entries before: all or none must "
                "have one."
            )
        found[entry["image_id"]] += 1
        if found[entry["image_id"]] > MAX_DETECTIONS:
            raise ValueError(
                f"Entry {number}: detection {found[entry['image_id']]} of image {entry['image_id']}; at most "
                f"{MAX_DETECTIONS} an image are allowed, all classes together."
            )
    if not found:
        raise ValueError("The list is empty: COCO's server needs at least one detection.")
    return found


def _pack(path: pathlib.Path, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)


def _check_packed(packed: str, path: pathlib.Path) -> None:
    """Compares what is in the zip with the file."""
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(packed))
        inner = stack.enter_context(archive.open(member(archive, path.with_suffix(".zip"))))
        file = stack.enter_context(open(path, "rb"))
        chunks = iter(functools.partial(file.read, 1 << 20), b"")
        if not all(inner.read(len(chunk)) == chunk for chunk in chunks) or inner.read(1):
            raise OSError(f"the zip does not hold what is in {path.name}")


def _notes(testset: str, listing: Listing) -> tuple[str, ...]:
    if len(listing) == SIZES[testset]:
        return ()
    return (
        f"the image list has {len(listing)} images, and {testset} has {SIZES[testset]:,}: the server expects all of it",
    )
