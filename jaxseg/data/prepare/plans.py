"""What a split is made from, on paper before anything is written: a run that goes on must have the same."""

from __future__ import annotations

import os
from typing import Any

from jaxseg.data.prepare import catalogue, checks, index, inputs, layout, shards
from jaxseg.data.prepare.options import Options

_KEPT = {  # what may not change between two runs, and how it is called
    "sha256": "the annotations",
    "shard_mb": "--shard_mb",
    "missing": "which images are missing",
    "shards": "the images' sizes",
}


def make(options: Options, given: inputs.Input, sizes: list[int]) -> dict[str, Any]:
    """The plan of a split; `shards` has how many records are in each.

    Args:
      sizes: of the image files in bytes; -1 where there is none.
    """
    order = given.by_id()
    sorted_sizes = [sizes[position] for position in order]
    sorted_ids = [given.ids[position] for position in order]
    return {
        "format": index.FORMAT,
        "kind": options.kind,
        "split": given.split,
        "annotation_file": os.path.basename(os.path.normpath(given.origin)),
        "sha256": given.sha256,
        "published": catalogue.published(options.kind, given.split),
        "partial": bool(checks.lacking(options.kind, given, sizes)),
        "shard_mb": options.shard_mb,
        "missing": [i for i, size in zip(sorted_ids, sorted_sizes, strict=True) if size < 0],
        "shards": shards.cut([max(size, 0) for size in sorted_sizes], options.shard_mb * 10**6),
    }


def keep_to(folder: str, plan: dict[str, Any], *, begun: bool) -> None:
    """Writes the plan; where shards were written by another one, it must have been the same.

    Args:
      begun: whether there are shards of the plan.

    Raises:
      ValueError: what the split is made from has changed.
    """
    path = layout.plan(folder, plan["split"])
    before = index.read_json(path)
    if before is not None and (begun or before["shards"] != plan["shards"]):
        _compare(folder, path, before, plan)
    index.write_json(path, plan)


def _files(folder: str, split: str) -> str:
    """The files of a split, as a shell writes them."""
    name = os.path.basename(os.path.dirname(folder))
    patterns = [layout.plan("", split), layout.index("", split)]
    for part in (split, layout.annotations_split(split)):
        patterns.append(f"{name}-{part}.array_record-*")
    return ", ".join(patterns)


def _compare(folder: str, path: str, before: dict[str, Any], plan: dict[str, Any]) -> None:
    for key, meaning in _KEPT.items():
        was, now = before[key], plan[key]
        if was == now:
            continue
        values = ""
        if key == "sha256":
            values = f" ({before['annotation_file']}, SHA-256 {was[:12]}; now {plan['annotation_file']}, {now[:12]})"
        elif key == "shard_mb":
            values = f" ({was}; now {now})"
        raise ValueError(
            f"Split {plan['split']} in {folder} was begun with other files or settings: {meaning} changed{values}. Go "
            "on with what it was begun with, give another --data_dir, or begin anew: delete the files of the split, "
            f"{_files(folder, plan['split'])}."
        )
