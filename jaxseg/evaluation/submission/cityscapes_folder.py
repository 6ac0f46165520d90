"""Reading a folder that is to go to Cityscapes' server, the way its script does, and checking it."""

from __future__ import annotations

import math
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from jaxseg.data.cityscapes_classes import CLASSES
from jaxseg.evaluation.submission import masks
from jaxseg.evaluation.submission.listing import Listing

_LINE = "relative/mask.png labelID confidence, with single spaces"
_THREADS = 4


def check_replaceable(path: pathlib.Path) -> None:
    """Sees to it that a path holds nothing, or a submission that may be replaced.

    Raises:
      ValueError: it holds something else.
    """
    if not path.exists():
        return
    inner = [path] if not path.is_dir() else path.rglob("*")
    for found in inner:
        place = found.relative_to(path).as_posix()
        ours = found.suffix == ".txt" and "/" not in place
        ours |= place == masks.FOLDER or (
            found.suffix == ".png" and place.startswith(f"{masks.FOLDER}/")
        )
        if not ours:
            raise ValueError(
                f"{path} holds {found.name}, which is not of a submission, and would be lost: choose another --out or "
                "name, or move it away."
            )


def count(
    folder: pathlib.Path, listing: Listing, frames: Mapping[int, str]
) -> tuple[Counter[int], int]:
    """Checks all files of a folder.

    Args:
      folder: the root of the submission.
      listing: the images of the split.
      frames: `<city>_<sequence>_<frame>` of each image id.

    Returns:
      Detections by image id, and how many of them have empty masks.

    Raises:
      NotADirectoryError: no such folder.
      ValueError: a rule is broken; the message has the file and line, the value and the rule.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"There is no folder {folder} with results for Cityscapes.")
    texts = _texts(folder, frames)
    used: dict[pathlib.Path, str] = {}
    found: Counter[int] = Counter()
    for image, path in texts.items():
        for place, mask in _read(path, folder):
            if mask in used:
                raise ValueError(
                    f"{place}: the mask {mask} is that of {used[mask]}; each line needs its own."
                )
            used[mask] = place
            found[image] += 1
    sizes = [listing.sizes[image] for image, n in found.items() for _ in range(n)]
    return found, _check_masks(used, sizes)


def _texts(folder: pathlib.Path, frames: Mapping[int, str]) -> dict[int, pathlib.Path]:
    """The text file of each image id."""
    images = {frame: image for image, frame in frames.items()}
    found: dict[int, pathlib.Path] = {}
    for path in sorted(folder.rglob("*.txt")):
        city, sequence, rest = [*path.stem.split("_", 2), "", ""][:3]
        frame = f"{city}_{sequence}_{rest[:6]}"
        if frame not in images:
            raise ValueError(
                f"{path} is of none of the split's {len(frames)} images, e.g. {min(images, default='')}."
            )
        if images[frame] in found:
            raise ValueError(
                f"{found[images[frame]]} and {path} are both of {frame}; the server wants one text file an image."
            )
        found[images[frame]] = path
    missing = [frame for frame, image in images.items() if image not in found]
    if missing:
        raise ValueError(
            f"{folder} has no text file for {len(missing)} of {len(frames)} images, e.g. {missing[0]}.txt; it must be "
            "there, empty where nothing was found."
        )
    return {image: found[image] for image in frames}


def _read(path: pathlib.Path, folder: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Each line's place, for messages, and its mask file."""
    allowed = {label for label, _ in CLASSES}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}.") from None
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        place = f"{path}, line {number}"
        parts = line.split(" ")
        if len(parts) != 3:
            raise ValueError(f"{place}: {line!r:.120} must be {_LINE}.")
        label, confidence = _number(parts[1]), _number(parts[2])
        if label not in allowed:
            raise ValueError(
                f"{place}: label id {parts[1]!r} must be one of "
                f"{', '.join(f'{label} ({name})' for label, name in CLASSES)}."
            )
        if not 0 <= confidence <= 1:
            raise ValueError(f"{place}: confidence {parts[2]!r} must be a number from 0 to 1.")
        yield place, _mask_of(parts[0], path, folder, place)


def _mask_of(name: str, path: pathlib.Path, folder: pathlib.Path, place: str) -> pathlib.Path:
    mask = path.parent.absolute() / name
    if pathlib.PurePath(name).is_absolute() or not mask.resolve().is_relative_to(folder.resolve()):
        raise ValueError(
            f"{place}: the mask {name!r} must be a path relative to the text file, within {folder}."
        )
    if not mask.is_file():
        raise ValueError(f"{place}: there is no mask {name!r}.")
    return mask.resolve()


def _check_masks(used: Mapping[pathlib.Path, str], sizes: Iterable[tuple[int, int]]) -> int:
    """Checks mask files; returns how many are empty."""
    empty = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="masks") as pool:
        found = pool.map(masks.fault, used, sizes)
        for (mask, place), (fault, is_empty) in zip(used.items(), found, strict=True):
            if fault:
                pool.shutdown(wait=False, cancel_futures=True)
                raise ValueError(f"{place}: the mask {mask} {fault}.")
            empty += is_empty
    return empty


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
