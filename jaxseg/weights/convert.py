"""From the arrays of a file to our variables and back, by the tables of `names`. Nothing is left out without a word."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from jaxseg import methods, paths
from jaxseg.training import freeze, starting
from jaxseg.training import state as states
from jaxseg.weights import classes as classes_lib
from jaxseg.weights import names, transforms
from jaxseg.weights.classes import Choice, Classes
from jaxseg.weights.names import Entry, Layout
from jaxseg.weights.recognise import strip_prefix
from jaxseg.weights.report import Report

SHOWN = 10  # faults that an error lists
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Imported:
    """Variables out of a file.

    Attributes:
      params, batch_stats: complete trees of NumPy arrays, as the model of `config` wants them.
      report: what became of every array.
      config: the config, with `model.num_classes` filled in where it was 0.
      classes: which of the file's classes; None where the class layers keep initial values.
      rest: what the model has no place for but a file of this layout has: by their names, background's rows of boxes
        and masks (in arrays whose other rows are 0) and counters. `to_torchvision` puts them back.
    """

    params: Any
    batch_stats: Any
    report: Report
    config: ConfigDict
    classes: Classes | None
    rest: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Filled:
    """The arrays of a file in our form, by our paths.

    What has no value yet is in `report.initial`, or in `report.copied` as a copy of something there.
    """

    values: Mapping[str, np.ndarray]
    report: Report
    config: ConfigDict
    classes: Classes | None
    rest: Mapping[str, np.ndarray]

    def complete(self, initial: Mapping[str, Any]) -> Imported:
        """With `initial` values, by our paths, for the others."""
        params, batch_stats = starting.trees(
            self.values, self.report.copied, self.report.initial, initial
        )
        return Imported(params, batch_stats, self.report, self.config, self.classes, self.rest)


def fill(
    source: Arrays,
    layout: Layout,
    config: ConfigDict,
    *,
    classes: Choice,
    channels: str,
    ignore: Sequence[str],
    notes: Sequence[str],
    like: Mapping[str, tuple[int, ...]] | None,
) -> Filled:
    """Puts a file's arrays where they belong; see `layouts.fill`.

    Args:
      source: arrays by their names.
      layout: what the file is.
      config: the whole config; with `model.num_classes` 0, the number of the chosen classes is put there.
      classes: see `classes.choose`.
      channels: order of the stem's input channels in the file: rgb or bgr.
      ignore: patterns (regular expressions for whole names) of arrays that are not wanted.
      notes: for the report.
      like: the shapes of our variables; None: they are found out.

    Raises:
      ValueError: arrays are missing, superfluous, or of another shape (one error lists up to ten of them), or the
        classes do not fit.
    """
    _check_patterns(ignore)
    modern = {name: layout.modern(strip_prefix(name)) for name in source}
    found = {today: name for name, today in modern.items()}
    count = count_classes(source, layout)
    first, wanted = layout.background_first, config.model.num_classes
    chosen = None if count is None else classes_lib.choose(classes, count, wanted, first)
    config = _with_classes(config, chosen)
    like = like or shapes(config)
    entries = names.entries(layout, tuple(like), config, channels=channels, classes=chosen)
    initial = {p: _why_initial(p, layout, classes) for p, entry in entries.items() if entry is None}
    initial |= dict.fromkeys(_mask_heads_of_none(entries, found), "the file has no mask head")
    entries = {path: None if path in initial else entry for path, entry in entries.items()}
    faults = [f"{n} is there in two spellings" for n in source if found[modern[n]] != n]
    values, used, constant, unfit = _assign(source, found, entries, like, layout, config)
    faults += unfit
    ignored, superfluous = _leftovers(found, used, layout, ignore, chosen, config)
    left_out = _left_out(layout, config)
    for name in superfluous:
        why = next((f": {why}" for x, why in left_out.items() if modern[name].startswith(x)), "")
        faults.append(f"{name} {source[name].shape} has no place in this model{why}")
    if faults:
        raise ValueError(_complain(layout, faults))
    if channels == "bgr":
        notes = [*notes, "The input channels of the first convolution were turned from BGR to RGB."]
    sources = paths.copies_of(tuple(entries), values, methods.copies(config))
    copied = {path: source for path, source in sources.items() if source}
    values |= {path: values[source] for path, source in copied.items() if source in values}
    report = Report(
        layout.name,
        used,
        ignored,
        constant,
        copied,
        {path: why for path, why in initial.items() if path not in copied},
        tuple(notes),
    )
    rest = _rest(source, found, entries, chosen) if layout.exported else {}
    return Filled(values, report, config, chosen, rest)


def _assign(
    source: Arrays,
    found: Mapping[str, str],
    entries: Mapping[str, Entry | None],
    like: Mapping[str, tuple[int, ...]],
    layout: Layout,
    config: ConfigDict,
) -> tuple[dict[str, np.ndarray], dict[str, str], dict[str, str], list[str]]:
    """(values by our paths, our path of each array used, which values are constants and why, faults)."""
    folded = layout.folded and not any(name.endswith(".running_mean") for name in found)
    values, used, constant, faults = {}, {}, {}, []
    for path, entry in entries.items():
        if entry is None:
            continue
        wanted, name = entry.transform.shape(like[path]), found.get(entry.name)
        if name is not None:
            used[name] = path
            fault = _fault(source[name], wanted, entry.leaf)
            if fault is None:
                values[path] = np.ascontiguousarray(entry.transform.take(source[name]), np.float32)
            else:
                faults.append(f"{name} {fault}; {path} needs {wanted}")
        elif folded and entry.kind == "norm" and entry.leaf in ("mean", "var"):
            values[path], constant[path] = _folded(entry.leaf, like[path], config)
        else:
            faults.append(f"{entry.name} is missing; {path} needs it, of shape {wanted}")
    return values, used, constant, faults


def count_classes(source: Arrays, layout: Layout) -> int | None:
    """The number of a file's classes, without background; None if it is of a backbone.

    Raises:
      ValueError: the layer that tells it is missing.
    """
    if layout.of_backbone:
        return None
    row = next(r for r in layout.rows if r.kind == "classes")
    for name, array in source.items():
        if layout.modern(strip_prefix(name)) == f"{row.theirs}.bias" and array.ndim == 1:
            return len(array) - 1
    raise ValueError(_complain(layout, [f"{row.theirs}.bias, one number a class, is missing"]))


def export_layout(
    params: Any,
    batch_stats: Any,
    layout: Layout,
    config: ConfigDict,
    *,
    channels: str = "auto",
    rest: Arrays | None = None,
) -> dict[str, np.ndarray]:
    """The inverse of `fill` with all classes: our variables under their names.

    Args:
      rest: of an `Imported`; without it, rows of background that nothing reads are 0.

    Raises:
      ValueError: parameters that such files do not have, or a `rest` of another shape.
    """
    ours = flat({"params": params, "batch_stats": batch_stats})
    every = classes_lib.everything(config.model.num_classes, layout.background_first)
    channels = layout.channels if channels == "auto" else channels
    entries = names.entries(layout, tuple(ours), config, channels=channels, classes=every)
    homeless = [path for path, entry in entries.items() if entry is None]
    if homeless:
        raise ValueError(
            f"Files of {layout.name}'s layout have no place for {_few(homeless)} of this model."
        )
    theirs = {
        entry.name: np.ascontiguousarray(entry.transform.give(np.asarray(ours[path])))
        for path, entry in entries.items()
    }
    for name, array in (rest or {}).items():
        if name not in theirs:
            theirs[name] = array
        elif theirs[name].shape != array.shape:
            raise ValueError(
                f"What the file had beside our parameters is not of this model: {name} is {array.shape} there and "
                f"{theirs[name].shape} here."
            )
        else:
            ours_there = next(e.rows for e in entries.values() if e.name == name)
            unused = np.setdiff1d(np.arange(len(array)), ours_there)
            theirs[name][unused] = array[unused]
    return theirs


def flat(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, `params/backbone/...`."""
    return {freeze.path_string(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def shapes(config: ConfigDict) -> Mapping[str, tuple[int, ...]]:
    """The shape of every variable that training has, by its path; nothing is computed.

    Raises:
      ValueError: a setting of the model is not allowed.
    """
    return _shapes(FrozenConfigDict(config))


@functools.lru_cache(maxsize=8)
def _shapes(config: FrozenConfigDict) -> Mapping[str, tuple[int, ...]]:
    model, batch = methods.build(config), states.example_batch(config)
    params, stats = jax.eval_shape(lambda: states.init_variables(model, batch, config.seed))
    made = {"params": params} | ({"batch_stats": stats} if stats else {})
    return {path: leaf.shape for path, leaf in flat(made).items()}


def initial_values(config: ConfigDict, wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Values that training would start from, of these paths."""
    if not wanted:
        return {}
    model, batch = methods.build(config), states.example_batch(config)

    def values():
        params, stats = states.init_variables(model, batch, config.seed)
        made = flat({"params": params, "batch_stats": stats})
        return {path: made[path] for path in wanted}

    return jax.tree.map(np.asarray, jax.jit(values)())


def _with_classes(config: ConfigDict, chosen: Classes | None) -> ConfigDict:
    if config.model.num_classes or chosen is None:
        return config
    config = config.copy_and_resolve_references()
    config.model.num_classes = len(chosen.chosen)
    return config


def _fault(array: np.ndarray, wanted: tuple[int, ...], leaf: str) -> str | None:
    """What is wrong with an array of a file."""
    if array.shape != wanted:
        return f"is {array.shape} in the file"
    if array.dtype.kind not in "fiu":
        return f"is of {array.dtype} in the file"
    if not np.isfinite(array).all():
        return "has numbers in the file that are not finite"
    if leaf == "var" and (array < 0).any():
        return "has negative variances in the file"
    return None


def _why_initial(path: str, layout: Layout, classes: Choice) -> str:
    if layout.of_backbone and not path.partition("/")[2].startswith("backbone/"):
        return "the file has a backbone only"
    module = path.partition("/")[2].rpartition("/")[0]
    if any(row.find(module) for row in layout.rows):
        return f"classes={classes!r}"
    return f"files of {layout.name} have no such layer"


def _mask_heads_of_none(entries: Mapping[str, Entry | None], found: Mapping[str, str]) -> list[str]:
    """Our paths of mask heads, if the file has nothing at all of them: it is a Faster R-CNN's."""
    own = {p: e for p, e in entries.items() if e and re.match(r"\w+/roi_heads/mask_head", p)}
    return [] if any(entry.name in found for entry in own.values()) else list(own)


def _rest(
    source: Arrays,
    found: Mapping[str, str],
    entries: Mapping[str, Entry | None],
    chosen: Classes | None,
) -> dict[str, np.ndarray]:
    """What the model has no place for: counters, and of class layers the rows that are not ours, the others 0."""
    rest = {n: source[name] for n, name in found.items() if n.endswith(".num_batches_tracked")}
    if chosen is None or len(chosen.chosen) < chosen.count:
        return rest  # a file of other classes is written without them
    for entry in entries.values():
        if entry is None or entry.rows is None:
            continue
        array = source[found[entry.name]].astype(np.float32)
        if len(entry.rows) < len(array):
            array[entry.rows] = 0
            rest[entry.name] = array
    return rest


def _folded(leaf: str, shape, config: ConfigDict) -> tuple[np.ndarray, str]:
    if leaf == "mean":
        return np.zeros(shape, np.float32), "0: the file's norms are scale * x + bias"
    variance = transforms.folded_variance(config.model.backbone.norm_epsilon)
    return np.full(shape, variance), "1 - epsilon: the file's norms are scale * x + bias"


def _check_patterns(patterns: Sequence[str]) -> None:
    if isinstance(patterns, str):
        raise ValueError(f"ignore={patterns!r}: allowed is a sequence of regular expressions.")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"ignore: {pattern!r} is no regular expression ({error}).") from error


def _leftovers(
    found: Mapping[str, str],
    used: Mapping[str, str],
    layout: Layout,
    ignore: Sequence[str],
    chosen: Classes | None,
    config: ConfigDict,
) -> tuple[dict[str, str], list[str]]:
    """(ignored names with the reason, names that nobody expects), of the file's arrays that are not used."""
    ignored: dict[str, str] = {}
    superfluous: list[str] = []
    class_layers = {f"{r.theirs}." for r in layout.rows if r.kind in names.CLASS_KINDS}
    for modern, name in found.items():
        if name in used:
            continue
        why = layout.why_ignored(modern)
        if why is None and any(re.fullmatch(pattern, name) for pattern in ignore):
            why = "it is not wanted (ignore)"
        if why is None and chosen is None and modern.startswith(tuple(class_layers)):
            why = "a class layer, and its classes are not ours"
        if why is None:
            why = _why_dispensable(modern, layout, config)
        if why is None:
            superfluous.append(name)
        else:
            ignored[name] = why
    return ignored, superfluous


def _why_dispensable(modern: str, layout: Layout, config: ConfigDict) -> str | None:
    for row in layout.rows:
        if modern.startswith(f"{row.theirs}."):
            for pattern, why in methods.dispensable(config).items():
                if paths.matches(row.ours, (pattern,)):
                    return why
    return None


def _left_out(layout: Layout, config: ConfigDict) -> dict[str, str]:
    """How names of layers begin in such files that a setting of the config leaves out, and what is said of them."""
    return {
        f"{theirs}.": f"{setting} leaves it out"
        for module, setting in methods.left_out(config).items()
        if (theirs := next(filter(None, (row.find(module) for row in layout.rows)), None))
    }


def _complain(layout: Layout, faults: Sequence[str]) -> str:
    more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return (
        f"The file ({layout.name}'s layout) does not fit the model of the config:\n  "
        + "\n  ".join(faults[:SHOWN])
        + more
        + "\nSee whether the config describes the file's model (depth, norms, numbers of convolutions and channels), "
        "and whether the file is complete; arrays that are not wanted can be named by `ignore`."
    )


def _few(items: Sequence[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")
