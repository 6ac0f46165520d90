"""A training run that starts from a file of another framework: `config.init_from`."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from jaxseg import methods, paths
from jaxseg.data.source import Category
from jaxseg.training import claims, class_rows, starting, storage
from jaxseg.weights import categories as categories_lib
from jaxseg.weights import convert, files, hub, layouts, run
from jaxseg.weights.classes import Choice
from jaxseg.weights.convert import Filled

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pkl")


def is_file(source: str) -> bool:
    """Whether `config.init_from` means a file of weights, and not the work directory of a run."""
    path = pathlib.Path(source).expanduser()
    return "://" in source or path.is_file() or (path.suffix in SUFFIXES and not path.is_dir())


def read(
    source: str,
    config: ConfigDict,
    like: Mapping[str, tuple[int, ...]],
    categories: Sequence[Category],
) -> starting.Start:
    """The weights of a detector or a backbone, for a data set of these classes.

    The class layers are taken if the file's classes are known to be those of the data set, by name; otherwise they keep
    their initial values, or take rows over as `config.init_classes` says.

    Args:
      like: the shapes of our variables by their paths.

    Raises:
      ValueError: the file cannot be read or does not fit the model, or `config.init_classes` does not fit the classes.
      OSError: there is no such file.
    """
    state_dict = files.load_file(hub.resolve(source))
    try:
        return _of_arrays(state_dict, config, like, [c.name for c in categories])
    except ValueError as error:
        raise ValueError(f"config.init_from={source!r}: {error}") from error


def _of_arrays(
    state_dict: files.StateDict,
    config: ConfigDict,
    like: Mapping[str, tuple[int, ...]],
    names: Sequence[str],
) -> starting.Start:
    count = convert.count_classes(state_dict, layouts.layout_of(state_dict, config))
    theirs = None if count is None else categories_lib.of_file(state_dict.metadata, count)
    wish = config.get("init_classes", "")
    classes = _same_classes(theirs, names)
    if classes != "none" or not wish or count is None:
        return _start(layouts.fill(state_dict, config, classes=classes, like=like))
    if theirs is None:
        raise ValueError(
            f"the file has {count} classes without names, and {class_rows.KEY}={wish!r} goes by names. Say what they "
            "are by an import, `python -m jaxseg.weights FILE --categories=annotations.json ...`, and start from that "
            f"work directory; or set {class_rows.KEY}= for new class layers."
        )
    used = [i for i, category in enumerate(theirs) if not category.unused]
    their_names = [theirs[i].name for i in used]
    patterns = methods.class_layers(config)
    own = {p: shape for p, shape in like.items() if paths.matches(p.partition("/")[2], patterns)}
    # The file is read as a model of its own classes, whose rows are then taken as those of a run's are.
    config = ConfigDict(config.to_dict())
    config.model.num_classes = len(used)
    whole = class_rows.resized(like, own, len(names), len(used))
    filled = layouts.fill(state_dict, config, classes=tuple(used), like=whole)
    there = {p: x for p, x in filled.values.items() if p not in filled.report.copied}
    rows, lines = class_rows.between(wish, names, their_names, own, there)
    start = _start(filled)
    return dataclasses.replace(start, rows=rows, told=[*start.told, *lines])


def _start(filled: Filled) -> starting.Start:
    report = filled.report
    told = str(report).splitlines()
    return starting.Start(filled.values, report.copied, report.initial, told)


def untrained(folder: str | pathlib.Path) -> set[str]:
    """Paths of what is an initialiser's value in a run that was imported from a file and not trained since."""
    if storage.finished_steps(claims.where(folder)) != [0]:
        return set()
    path = pathlib.Path(folder).expanduser() / run.REPORT_FILE
    report = json.loads(path.read_text()) if path.exists() else {}
    initial = set(report.get("initial", ()))
    return initial | {p for p, source in report.get("copied", {}).items() if source in initial}


def _same_classes(theirs: Sequence[Category] | None, names: Sequence[str]) -> Choice:
    """The numbers of the file's classes, unless they are not `names` in this order."""
    used = [i for i, category in enumerate(theirs or ()) if not category.unused]
    same = theirs is not None and [theirs[i].name for i in used] == list(names)
    return tuple(used) if same else "none"
