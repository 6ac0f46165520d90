"""Reading the files of a work directory, none of which is trusted: one that is damaged is left out, and named."""

from __future__ import annotations

import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxseg.evaluation import measure

_RESULT = {"image_id", "category_id", "score", "bbox", "segmentation"}
_KINDS = ("box", "mask")


class Files:
    """Reads JSON files. `damaged` has the paths of those that were there but did not hold what they should."""

    def __init__(self) -> None:
        self.damaged: list[pathlib.Path] = []

    def read(self, path: pathlib.Path, valid: Callable[[Any], bool]) -> Any:
        """What a file holds; None where there is none, or where it is not `valid`."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError):
            value = None
        if value is not None and valid(value):
            return value
        if path not in self.damaged:
            self.damaged.append(path)
        return None


def is_mapping(value: Any) -> bool:
    """Whether a file holds an object, whatever its keys."""
    return isinstance(value, Mapping)


def is_metrics(value: Any) -> bool:
    """Whether it is what `Report.to_dict` gives, as far as a page needs it. Further kinds of AP are welcome."""
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("split"), str)
        and value.get("protocol", "coco") in tuple(measure.PROTOCOLS)
        and all(is_count(value.get(key)) for key in ("images", "detections"))
        and all(is_count(value[key]) for key in ("step",) if value.get(key) is not None)
        and is_number(value.get("seconds", 0))
        and all(_are(is_count, value.get(key) or {}) for key in ("skipped", "objects"))
        and all(key in value for key in _KINDS)
        and all(_is_kind(found) for key, found in value.items() if key in _KINDS or _has_ap(found))
    )


def is_finished(value: Any) -> bool:
    """Whether it is what a finished run leaves: metrics and their step."""
    return is_metrics(value) and is_count(value.get("step"))


def is_results(value: Any) -> bool:
    """Whether it is a list of COCO results with boxes and masks."""
    return isinstance(value, list) and all(
        isinstance(entry, Mapping) and entry.keys() >= _RESULT for entry in value
    )


def is_number(value: Any) -> bool:
    """Whether it is a number: True is none, NaN and infinity are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: Any) -> bool:
    """Whether it is a whole number, 0 or more."""
    return is_number(value) and math.isfinite(value) and value == int(value) and value >= 0


def numbers(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The lines of a log that tell their step, without what is no number in them."""
    return [
        {key: value for key, value in line.items() if key == "split" or is_number(value)}
        for line in lines
        if is_count(line["step"])
    ]


def mapping(value: Any) -> dict[str, Any]:
    """The value if it is an object, else {}."""
    return dict(value) if isinstance(value, Mapping) else {}


def holds_list(path: pathlib.Path) -> bool:
    """Whether a JSON file holds a list, by its first character: results may be large."""
    return _first_character(path) == "["


def holds_object(path: pathlib.Path) -> bool:
    """Whether a JSON file holds an object, by its first character."""
    return _first_character(path) == "{"


def _first_character(path: pathlib.Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(256).lstrip()[:1]
    except OSError:
        return ""


def _has_ap(value: Any) -> bool:
    return isinstance(value, Mapping) and "summary" in value


def _is_kind(value: Any) -> bool:
    """The numbers of one kind of AP; None is a split without annotations."""
    if value is None:
        return True
    return (
        _has_ap(value)
        and _are(is_number, value["summary"])
        and "AP" in value["summary"]
        and _are(lambda found: _are(is_number, found) and "AP" in found, value.get("per_class"))
    )


def _are(valid: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(valid, value.values()))
