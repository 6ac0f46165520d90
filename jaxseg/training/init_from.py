"""What a new run starts from: reads `config.init_from`, a run or a file of weights, and checks that it fits.

What each variable takes of it is said in `starting`.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from jaxseg import methods, paths
from jaxseg.data import sources
from jaxseg.training import checkpoints, class_rows, integrity, starting, workdir


def start(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], categories: Sequence[Any]
) -> starting.Start | None:
    """What `config.init_from` gives to the variables of a new run, if it fits; None without it.

    Args:
      config: of the new run.
      shapes: of its variables by path, `params/...` and `batch_stats/...`.
      categories: its classes.

    Raises:
      OSError: there is no such file or run, or no finished checkpoint in it; or it cannot be reached.
      ImportError: what reads its place is not installed.
      ValueError: it does not fit the model, the classes, `config.needs_heads` or `config.freeze`.
    """
    found = _read(config, shapes, categories) if config.init_from else None
    _check_heads(config, found)
    if found is None and config.get("init_classes", ""):
        raise ValueError(
            f"config.init_classes={config.init_classes!r} is about the classes of config.init_from, which is empty. "
            "Give --config.init_from=..., a run or a file of weights (Cityscapes is published from a model of COCO), "
            "or --config.init_classes= to start without."
        )
    if found is not None:
        _check_frozen(config, found)
    return found


def read_run(
    folder: str | pathlib.Path,
    config: ConfigDict,
    like: Mapping[str, tuple[int, ...]],
    categories: Sequence[sources.Category],
    *,
    class_layers: Sequence[str],
    copies: Mapping[str, str] = MappingProxyType({}),
    dispensable: Mapping[str, str] = MappingProxyType({}),
) -> starting.Start:
    """What a new run takes over from another run's newest checkpoint.

    Where the classes differ from that run's, the layers that `class_layers` names start anew, or take rows over as
    `config.init_classes` says, see `class_rows`. Modules that the run lacks are copies of others as `copies` says, see
    `methods.copies` and `paths.copies_of`. What is `dispensable` stays behind where the new model has none, see
    `methods.dispensable`.

    Args:
      folder: the other run's work directory.
      config: of the new run.
      like: the shapes of its variables by path, `params/...` and `batch_stats/...`.
      categories: its classes.

    Raises:
      FileNotFoundError: no run, or none with a finished checkpoint.
      ValueError: the models differ elsewhere; what differs is named, in the parameters and in the settings. Or
        `config.init_classes` does not fit the classes.
    """
    before, theirs, variables, step = checkpoints.restore_for_eval(folder)
    saved = integrity.flat(variables)
    layers = [p for p in like if paths.matches(p.partition("/")[2], class_layers)]
    ours, their_names = ([c.name for c in group] for group in (categories, theirs))
    wish, differ = config.get("init_classes", ""), ours != their_names
    rows, lines = {}, []
    if differ and wish:
        own = {p: like[p] for p in layers}
        rows, lines = class_rows.between(wish, ours, their_names, own, saved)
    try:
        found = starting.of_run(
            saved,
            like,
            renewed=layers if differ and not wish else (),
            copies=copies,
            dispensable=dispensable,
            rows=rows,
        )
        return dataclasses.replace(found, told=[*found.told, *lines])
    except ValueError as error:
        there = f"checkpoint {step} of config.init_from={str(folder)!r}"
        # A method that may start from runs of another one says so by its copies.
        related = before.get("method") == config.method or any(copies.values())
        told = f"{error}{_settings_that_differ(before, config)}"
        raise ValueError(_unlike(there, before, config, told, related)) from error


def _read(
    config: ConfigDict, shapes: Mapping[str, tuple[int, ...]], categories: Sequence[Any]
) -> starting.Start:
    """What is in `config.init_from`, a file or a run, for variables of these shapes."""
    from jaxseg.weights import start as weights_start  # which is above this layer

    if weights_start.is_file(config.init_from):
        return weights_start.read(config.init_from, config, shapes, categories)
    found = read_run(
        config.init_from,
        config,
        shapes,
        categories,
        class_layers=methods.class_layers(config),
        copies=methods.copies(config),
        dispensable=methods.dispensable(config),
    )
    untrained = weights_start.untrained(config.init_from) & set(found.values)
    told = (*found.told, *starting.untrained_lines(untrained, found), *_conventions(config))
    return dataclasses.replace(found, untrained=untrained, told=told)


def _conventions(config: ConfigDict) -> list[str]:
    """Warnings about settings with which the run in `config.init_from` gave its weights another meaning."""
    before, _ = workdir.load_run(config.init_from)
    parts = ("backbone.", "pixel_", "roi_sampling.", "rpn.", "fpn.")
    parts = tuple(
        f"model.{part}" for part in (*parts, "criterion.rpn.coder", "criterion.roi.coder")
    )
    return [
        f"Warning: the weights were made with {key}={old!r}, and this config has {new!r}."
        for key, (old, new) in workdir.differences(before, config).items()
        if key.startswith(parts) and old != "absent"
    ]


def _check_heads(config: ConfigDict, found: starting.Start | None) -> None:
    """Raises ValueError where trained parts are needed (`config.needs_heads`) and not given."""
    parts = config.get("needs_heads", ())
    if isinstance(parts, bool):  # of a run from before there were names
        parts = ("rpn", "roi_heads/box_head", "roi_heads/mask_head") if parts else ()
    trained = set(found.values).difference(found.untrained) if found else ()
    lacking = [p for p in parts if not any(re.match(rf"params/{p}(_\d+)?/", t) for t in trained)]
    if not lacking:
        return
    got = f"{config.init_from!r}, which has no trained {', '.join(lacking)}" if found else "empty"
    raise ValueError(
        f"config.init_from is {got}, and this config goes on from a trained detector (config.needs_heads): its "
        f"{config.train.steps:,} steps from a learning rate of {config.optim.lr:g} train none from nothing. Give "
        "--config.init_from=RUN, the work directory of a trained run, or a file of such a detector's weights. "
        "configs/mr_rcnn.py trains everything with the argument end_to_end, and with runlocal, without freeze_vanilla, "
        "only shows that it runs; configs/atmask_rcnn.py trains everything with freeze=none."
    )


def _check_frozen(config: ConfigDict, found: starting.Start) -> None:
    """Raises ValueError where what starts from random values is frozen, and would stay random."""
    fresh = [path.partition("/")[2] for path in found.fresh if path.startswith("params/")]
    frozen = [
        path
        for path in fresh
        if paths.matches(path, config.freeze) and not paths.matches(path, _neutral(config))
    ]
    if frozen:
        names = ", ".join(dict.fromkeys(path.rpartition("/")[0] for path in frozen))
        raise ValueError(
            f"config.freeze holds layers that config.init_from={config.init_from!r} has no values for, because its "
            f"classes are others or it lacks them; they would stay random: {names}. Leave them out of config.freeze "
            "(freeze_vanilla of configs/mr_rcnn.py and freeze=... of configs/atmask_rcnn.py put them there), or start "
            "from weights that have them, for the same classes."
        )


def _neutral(config: ConfigDict) -> tuple[str, ...]:
    """Patterns of the parameters whose initialiser is a constant that means something, so that they may be frozen.

    Biases add nothing and scales change nothing; with zero offsets a deformable convolution is the plain one (v1; v2
    halves it).
    """
    vectors = (".*/bias", ".*/scale")
    return (*vectors, ".*/offset") if config.model.backbone.deform == "v1" else vectors


def _unlike(found: str, before: ConfigDict, config: ConfigDict, differ: str, related: bool) -> str:
    """Why a run with the config `before` cannot be the start, and what can."""
    if related:
        return (
            f"The model of this config differs from {found}: {differ} Make the settings of the model equal, or "
            "start from another run."
        )
    first = before.get("init_from")
    return (
        f"{found[0].upper()}{found[1:]} is of method={before.get('method')!r}, and this config has "
        f"method={config.method!r}. Use a config of that method, or start from a run of this one"
        f"{f', as that run did from {first}' if first else ''}. What differs: {differ}"
    )


# Settings that make no other layers: of the criterion, the name alone says how many outputs a classifier has.
_OF_NO_LAYER = (
    "model.test.",
    *(f"model.criterion.{k}" for k in ("rpn.", "roi.", "rank_sort.", "weights.", "crowd_iof")),
)


def _settings_that_differ(before: ConfigDict, config: ConfigDict) -> str:
    """A sentence about those that make another model than the run with the config `before` has."""
    differ = {
        key: (old, new)
        for key, (old, new) in workdir.differences(before, config).items()
        if key.startswith("model.") and not key.startswith(_OF_NO_LAYER)
        # A key that came later says nothing about the run's model.
        if old != "absent" and key not in ("model.num_classes", "model.dtype", "model.roi_align")
    }
    return f" {workdir.told(differ)}." if differ else ""
