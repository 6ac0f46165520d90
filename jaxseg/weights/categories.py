"""The names of an imported model's classes: from the file if it has them, or from how many there are."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxseg.data.source import Category
from jaxseg.weights.coco_categories import COCO80, TORCHVISION90
from jaxseg.weights.convert import Imported


def of_file(metadata: Mapping[str, Any], count: int) -> tuple[Category, ...] | None:
    """The `count` classes of a file in its order; None if nothing is known of them.

    MMDetection writes names into `meta`. 80 classes are taken for COCO's and 90 for torchvision's labels of COCO.
    """
    names = _meta_names(metadata.get("meta"))
    if names is not None and len(names) == count:
        if names == [c.name for c in COCO80]:
            return COCO80
        return tuple(Category(i, name) for i, name in enumerate(names, 1))
    return {len(COCO80): COCO80, len(TORCHVISION90): TORCHVISION90}.get(count)


def of_imported(metadata: Mapping[str, Any], imported: Imported) -> tuple[Category, ...]:
    """The classes of an imported model: the chosen ones of the file; "class 1" and so on where there are no names."""
    chosen = imported.classes
    known = of_file(metadata, chosen.count) if chosen is not None else None
    if known is None:
        count = imported.config.model.num_classes
        return tuple(Category(i, f"class {i}") for i in range(1, count + 1))
    return tuple(known[i] for i in chosen.chosen)


def read(path: str) -> tuple[Category, ...]:
    """The categories of a file in COCO's format, or of a list of {"id", "name"}, by ascending id.

    Raises:
      ValueError: it holds none, or an id or a name is missing or there twice.
      OSError: it cannot be read.
    """
    try:
        content = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
        entries = content["categories"] if isinstance(content, dict) else content
        found = sorted(
            (Category(int(e["id"]), str(e["name"])) for e in entries), key=lambda c: c.id
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} has no categories ({error!r}): expected is COCO\'s format, or [{{"id": 1, "name": "cat"}}, ...].'
        ) from error
    if (
        not found
        or len({c.id for c in found}) < len(found)
        or len({c.name for c in found}) < len(found)
    ):
        raise ValueError(
            f"{path}: there must be categories, with different ids and different names."
        )
    return tuple(found)


def _meta_names(meta: Any) -> list[str] | None:
    """MMDetection's class names: of 2.x in `CLASSES`, of 3.x in `dataset_meta`."""
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    inner = inner if isinstance(inner, Mapping) else {}
    options = (meta.get("CLASSES"), inner.get("classes"), inner.get("CLASSES"))
    names = next((n for n in options if isinstance(n, list | tuple) and n), None)
    return [str(name) for name in names] if names is not None else None
