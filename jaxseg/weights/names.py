"""Tables of names: which module of ours is which of theirs, and what kind of layer it is.

A row such as

  Row("fpn/lateral{l}", "backbone.fpn.inner_blocks.{l-2}.0", "conv")

stands for every number that fits: `fpn/lateral4` is `backbone.fpn.inner_blocks.2.0`. The kinds are those of `KINDS`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxseg.modeling import criteria
from jaxseg.weights import transforms
from jaxseg.weights.classes import Classes
from jaxseg.weights.transforms import Transform

# The last part of a name, ours to theirs.
LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
KINDS = {  # the transform of `kernel`; vectors stay as they are
    "stem": transforms.CONV,
    "conv": transforms.CONV,
    "linear": transforms.LINEAR,
    "linear_of_map": None,  # needs the size of the map
    "deconv": transforms.DECONV,
    "classes": transforms.LINEAR,  # one row a class and background
    "boxes": transforms.LINEAR,  # four rows a class
    "masks": transforms.PREDICTOR,  # one row a class
    "norm": transforms.VECTOR,
}
CLASS_KINDS = ("classes", "boxes", "masks")


@dataclasses.dataclass(frozen=True)
class Row:
    ours: str
    theirs: str
    kind: str

    def find(self, module: str) -> str | None:
        """Their name of one of our modules; None if the row is about others."""
        found = _pattern(self.ours).fullmatch(module)
        return _fill(self.theirs, found.groupdict()) if found else None


@dataclasses.dataclass(frozen=True)
class Entry:
    """An array of ours in their file."""

    name: str
    kind: str
    leaf: str  # the last part of our path
    transform: Transform
    rows: np.ndarray | None = None  # of a class layer: those of theirs that are ours


@dataclasses.dataclass(frozen=True)
class Layout:
    """A family of files.

    Attributes:
      name: what `recognise` returns.
      rows: see `Row`; the first that fits counts.
      ignored: (pattern of whole names, why they are not needed).
      background_first: class 0 is background there, and has rows of boxes and masks that nothing reads.
      channels: order of the stem's input channels, rgb or bgr.
      modern: maps older spellings to the names of `rows`, and leaves others alone.
      of_backbone: the file has nothing but a backbone.
      folded: its norms may be scale and bias only, the statistics being folded into these.
      exported: there is a way back, which needs what the model has no place for.
    """

    name: str
    rows: Sequence[Row]
    ignored: Sequence[tuple[str, str]] = ()
    background_first: bool = False
    channels: str = "rgb"
    modern: Callable[[str], str] = lambda name: name
    of_backbone: bool = False
    folded: bool = False
    exported: bool = False

    def why_ignored(self, name: str) -> str | None:
        return next((why for p, why in self.ignored if re.fullmatch(p, name)), None)


def head_counts(config: ConfigDict) -> tuple[int, int]:
    """The number of box heads and of mask heads that are counted in their names; 0: one without a number."""
    if config.method != "cascade_mask_rcnn":
        return 0, 0
    cascade = config.model.cascade
    return len(cascade.ious), cascade.mask_heads if cascade.mask_heads > 1 else 0


def staged(rows: Sequence[Row], config: ConfigDict) -> tuple[Row, ...]:
    """Rows of heads, those of a cascade once a stage.

    Ours are `roi_heads/box_head_1/...`; theirs have the number after what the heads are in, as in
    `roi_heads.box_head.1.fc1` and `roi_head.bbox_head.1.fc_cls`.
    """
    box_heads, mask_heads = head_counts(config)
    found = []
    for row in rows:
        head = re.match(r"roi_heads/(box|mask)_head(?=/)", row.ours)
        count = 0 if head is None else {"box": box_heads, "mask": mask_heads}[head[1]]
        if not count:
            found.append(row)
        for stage in range(count):
            ours = f"{head[0]}_{stage}{row.ours[head.end() :]}"
            group, kind, rest = row.theirs.split(".", 2)
            found.append(Row(ours, f"{group}.{kind}.{stage}.{rest}", row.kind))
    return tuple(found)


def entries(
    layout: Layout,
    paths: Sequence[str],
    config: ConfigDict,
    *,
    channels: str,
    classes: Classes | None,
) -> Mapping[str, Entry | None]:
    """Where each array of ours is in a file of `layout`; None for those that such files do not have.

    Args:
      paths: of our arrays, `params/fpn/lateral2/kernel`.
      channels: rgb or bgr, of the file.
      classes: which rows of the class layers; None: these layers are not taken.
    """
    found: dict[str, Entry | None] = {}
    for path in paths:
        module, _, leaf = path.partition("/")[2].rpartition("/")
        row = next((r for r in layout.rows if r.find(module)), None)
        of_classes = (
            row is not None and row.kind in CLASS_KINDS and not class_agnostic(row.kind, config)
        )
        if row is None or (classes is None and of_classes):
            found[path] = None
            continue
        transform, rows = _transform(row.kind, leaf, config, channels), None
        if of_classes:
            rows, count = classes.rows(row.kind)
            if row.kind == "classes" and not has_background(config):
                rows = rows[:-1]
            transform = transforms.take_rows(transform, rows, count)
        name = f"{row.find(module)}.{LEAVES[leaf]}"
        found[path] = Entry(name, row.kind, leaf, transform, rows)
    return found


def has_background(config: ConfigDict) -> bool:
    """Whether the classifier of RoIs has an output for background, as those of other libraries; it is the last."""
    criterion = criteria.CRITERIA[config.model.criterion.name](config.model)
    return criterion.roi.num_logits(1) == 2


def class_agnostic(kind: str, config: ConfigDict) -> bool:
    """Whether a class layer has one box or map for all classes."""
    heads = {"boxes": config.model.box_head, "masks": config.model.mask_head}
    return kind in heads and heads[kind].class_agnostic


def _transform(kind: str, leaf: str, config: ConfigDict, channels: str) -> Transform:
    if leaf != "kernel":
        return transforms.VECTOR
    if kind == "linear_of_map":
        return transforms.linear_of_map(config.model.box_head.pool)
    transform = KINDS[kind]
    return transforms.flip_input(transform) if kind == "stem" and channels == "bgr" else transform


@functools.cache
def _pattern(template: str) -> re.Pattern:
    return re.compile(re.sub(r"\{(\w)\}", r"(?P<\1>\\d+)", template))


def _fill(template: str, numbers: Mapping[str, str]) -> str:
    """Replaces `{i}`, `{i+1}` and `{i-2}`."""
    return re.sub(
        r"\{(\w)([+-]\d+)?\}", lambda m: str(int(numbers[m[1]]) + int(m[2] or 0)), template
    )
