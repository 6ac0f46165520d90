"""Predicting the images of a folder: overlays and a COCO results file."""

from __future__ import annotations

import glob
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich.progress import track

from jaxseg.data.problems import Problems
from jaxseg.data.source import ImageError
from jaxseg.evaluation import results as results_lib
from jaxseg.evaluation.report import make_folder, write_text
from jaxseg.visualization import write_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(patterns: Iterable[str | os.PathLike]) -> list[pathlib.Path]:
    """Image files named by files, folders (searched to the bottom) and globs, sorted, each once.

    A file that is named itself counts whatever its ending; in folders and globs the ending decides.

    Raises:
      FileNotFoundError: a pattern matches nothing, or no image is found at all.
    """
    found: dict[pathlib.Path, None] = {}
    for pattern in patterns:
        path = pathlib.Path(pattern).expanduser()
        if path.is_file():
            matches = [path]
        elif path.is_dir():
            matches = [p for p in sorted(path.rglob("*")) if _is_image(p)]
        else:
            paths = sorted(glob.glob(os.fspath(path), recursive=True))
            matches = [p for p in map(pathlib.Path, paths) if _is_image(p)]
        if not matches:
            raise FileNotFoundError(
                f"No image matches {os.fspath(pattern)!r}. Name files, folders or globs of "
                f"{', '.join(SUFFIXES)} images."
            )
        found.update(dict.fromkeys(matches))
    if not found:
        raise FileNotFoundError("No images were named. Name files, folders or globs.")
    return list(found)


def predict_files(
    predict: Callable[[str], Any],
    files: Sequence[pathlib.Path],
    out: str | os.PathLike,
    categories: Sequence[Any],
    *,
    maps: Sequence[int] = (),
    progress: bool = True,
) -> tuple[int, Problems]:
    """Predicts each file and writes overlays/*.jpg, maps/*.png, results.json and images.json into `out`.

    images.json is a COCO file without annotations: it ties the image ids of results.json, counted
    from 1, to the files. Both are written at the end, also at an early one; overlays as they come.

    Args:
      predict: path -> an object with `image`, `save(path)` and `to_coco(image_id)`, e.g. a
        Predictor.
      files: the images.
      out: a folder; made if need be.
      categories: `id` and `name` of the classes.
      maps: ranks of detections (0: the best) whose maps are drawn; of those that an image has.
      progress: shows a bar with the time left.

    Returns:
      The number of detections, and the images that were skipped, counted by reason.

    Raises:
      OSError: `out` cannot be written.
      ValueError: none of the images could be read.
    """
    out = make_folder(out)
    overlays = make_folder(out / "overlays")
    problems, names = Problems(), _names(files)
    images: list[dict] = []
    results: list[dict] = []
    try:
        for i, path in enumerate(track(files, "Predicting", disable=not progress)):
            try:
                prediction = predict(os.fspath(path))
            except ImageError as error:  # must not end a long run
                problems.add(error.reason, path)
                continue
            prediction.save(overlays / f"{names[i]}.jpg")
            if chosen := [rank for rank in dict.fromkeys(maps) if rank < len(prediction)]:
                write_image(out / "maps" / f"{names[i]}.png", prediction.plot_maps(chosen))
            height, width = prediction.image.shape[:2]
            name = os.fspath(path)
            images.append({"id": i + 1, "file_name": name, "height": height, "width": width})
            results += prediction.to_coco(i + 1)
    finally:
        listing = {
            "images": images,
            "annotations": [],
            "categories": [{"id": c.id, "name": c.name} for c in categories],
        }
        write_text(out / "images.json", json.dumps(listing, indent=1))
        results_lib.save(out / "results.json", results)
    if not images:
        raise ValueError(f"None of the {len(files)} images could be read: {problems.summary()}.")
    return len(results), problems


def _is_image(path: pathlib.Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _names(files: Sequence[pathlib.Path]) -> list[str]:
    """A file name for each overlay; files of one name in several folders get a number."""
    names, taken = [], set()
    for i, path in enumerate(files):
        name = path.stem if path.stem not in taken else f"{path.stem}-{i + 1}"
        taken.add(name)
        names.append(name)
    return names
