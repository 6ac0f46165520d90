"""Numbers and words about runs: headlines, AP tables, what was run, and in what the configs differ."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg.evaluation import measure
from jaxseg.report import curves, page
from jaxseg.report.folder import RunFolder
from jaxseg.training import workdir


def kinds(runs: Sequence[RunFolder]) -> list[str]:
    """The kinds of AP that any of the runs has: mask, box, and others after them."""
    found = {
        kind
        for run in runs
        for kind, value in (run.final or {}).items()
        if isinstance(value, Mapping) and "summary" in value
    }
    return sorted(found, key=lambda kind: ({"mask": 0, "box": 1}.get(kind, 2), kind))


def title(kind: str) -> str:
    """A kind of AP at the head of a table: `Mask`, `Mask (COCO)`."""
    words = measure.KINDS.get(kind, kind)
    return words[:1].upper() + words[1:]


def summary(run: RunFolder, kind: str) -> Mapping[str, float]:
    """The numbers over all classes; {} where the run has none."""
    return ((run.final or {}).get(kind) or {}).get("summary", {})


def per_class(run: RunFolder, kind: str) -> Mapping[str, Mapping[str, float]]:
    """Class -> numbers; {} where the run has none."""
    return ((run.final or {}).get(kind) or {}).get("per_class", {})


def state(run: RunFolder) -> str:
    """How far the run is, in words."""
    if not run.training or (run.final and not run.train and not run.val):
        known = (run.final or run.evaluation).get("step") is not None
        return "evaluation" + (f" of step {run.step:,}" if known else "")
    done = f"step {run.step:,} of {run.steps:,}"
    if run.failed:
        return f"{run.status}, {done}"
    return f"finished, {done}" if run.finished else f"not finished, {done}"


def tiles(runs: Mapping[str, RunFolder]) -> list[dict[str, Any]]:
    """For each run its `label`, `numbers` (name, percent) and `about`, a sentence or two."""
    made = []
    for label, run in runs.items():
        numbers = [
            (f"{measure.KINDS.get(kind, kind)} AP", page.percent(summary(run, kind)["AP"]))
            for kind in kinds([run])
        ]
        about = [state(run)]
        if run.final:
            found = f"{run.final['detections']:,} detections in {run.final['images']:,} images"
            about.append(f"{run.split}: {found}")
            about += [f"skipped: {n:,} {reason}" for reason, n in run.final["skipped"].items()]
            if run.final.get("step") not in (None, run.step):
                about.append(f"evaluated at step {run.final['step']:,}")
        elif run.results is not None:
            about.append(f"{run.split}: {len(run.results):,} detections, no annotations")
        if not run.final and run.val:
            last = run.val[-1]
            numbers = [
                (f"{kind} AP", page.percent(last[f"{kind}/AP"]))
                for kind in ("mask", "box")
                if f"{kind}/AP" in last
            ]
            about.append(f"validation at step {last['step']:,}")
        made.append(dict(label=label, numbers=numbers, about=about))
    return made


def ap_tables(runs: Mapping[str, RunFolder], comparable: bool = True) -> list[dict[str, Any]]:
    """Tables (`caption`, `header`, `rows`, `best`): of one run all kinds, of several one table for each kind.

    `best` marks the best of each column, if the runs are `comparable`.
    """
    found = kinds(list(runs.values()))
    if len(runs) == 1:
        ((_, run),) = runs.items()
        rows = {measure.KINDS.get(kind, kind): summary(run, kind) for kind in found}
        return [_ap_table("", "", rows)] if rows else []
    made = []
    for kind in found:
        rows = {label: summary(run, kind) for label, run in runs.items() if summary(run, kind)}
        made.append(_ap_table(title(kind), "run", rows, comparable and len(rows) > 1))
    return made


def _ap_table(
    caption: str, corner: str, rows: Mapping[str, Mapping[str, float]], mark: bool = False
) -> dict[str, Any]:
    names = list(dict.fromkeys(name for numbers in rows.values() for name in numbers))
    cells = [
        [label, *(page.percent(numbers.get(name)) for name in names)]
        for label, numbers in rows.items()
    ]
    best = []
    for column, name in enumerate(names if mark else [], 1):
        values = [numbers.get(name, -1) for numbers in rows.values()]
        best += [(i, column) for i, v in enumerate(values) if v == max(values) and v > 0]
    return dict(caption=caption, header=[corner, *names], rows=cells, best=best)


def class_table(runs: Mapping[str, RunFolder]) -> dict[str, Any] | None:
    """Every class with its objects and its APs; None where no run has any."""
    found = kinds(list(runs.values()))
    names = list(
        dict.fromkeys(n for run in runs.values() for kind in found for n in per_class(run, kind))
    )
    if not names:
        return None
    columns = [(label, run, kind) for label, run in runs.items() for kind in kinds([run])]
    words = [measure.KINDS.get(kind, kind) for _, _, kind in columns]
    several = len(runs) > 1
    header = ["class", "objects"]
    header += [
        f"{label}: {kind} AP" if several else f"{kind} AP"
        for (label, _, _), kind in zip(columns, words, strict=True)
    ]
    objects: dict[str, int] = {}
    for run in runs.values():
        objects = {**((run.final or {}).get("objects") or {}), **objects}
    rows = [
        [
            name,
            f"{objects[name]:,}" if name in objects else "",
            *(page.percent(per_class(run, k).get(name, {}).get("AP")) for _, run, k in columns),
        ]
        for name in names
    ]
    return dict(caption="", header=header, rows=rows, best=[])


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """What was run: pairs of (word, what it is)."""
    found = [("work directory", str(run.path)), ("state", state(run))]
    if run.failed:
        found.append(("error", run.error or "not recorded"))
    command = shlex.join(run.command) if run.command else "not recorded"
    found.append(("command", command))
    found.append(("commit", run.commit or "not recorded"))
    found.append(("device", _device(run.device)))
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    found.append(("versions", versions or "not recorded"))
    if run.config is not None:
        found.append(("data", _data(run.evaluated, run.split)))
        found.append(("method", str(run.config.method)))
        if run.config.get("init_from"):
            found.append(("started from", str(run.config.init_from)))
        found.append(("seed", str(run.config.seed)))
    found += _evaluation(run)
    found += _measured(run)
    return found


def differences(runs: Mapping[str, RunFolder]) -> list[list[str]]:
    """[key, value of each run] for every key of the configs that is not the same in all of them."""
    flat = [flatten(run.config) if run.config is not None else {} for run in runs.values()]
    keys = dict.fromkeys(key for values in flat for key in values)
    return [
        [key, *(values.get(key, "–") for values in flat)]  # noqa: RUF001
        for key in keys
        if len({values.get(key) for values in flat}) > 1
    ]


def flatten(config: ConfigDict) -> dict[str, str]:
    """Every key of a config with its value, as it is written on the command line."""
    flat: dict[str, str] = {}

    def add(group: Mapping[str, Any], prefix: str) -> None:
        for key, value in group.items():
            if isinstance(value, Mapping):
                add(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = repr(value) if isinstance(value, str) else str(value)

    add(config.to_dict(), "")
    return flat


def _evaluation(run: RunFolder) -> list[tuple[str, str]]:
    """Of results that eval.py has made: of which run, and of a run's own evaluations how."""
    if not run.evaluation:
        return []
    if not run.training:
        return [("evaluated run", str(run.evaluation.get("workdir", "not recorded")))]
    changed = workdir.differences(run.config, run.evaluated)
    words = [f"{key}={new!r} (the run: {old!r})" for key, (old, new) in changed.items()]
    command = run.evaluation.get("command") or ["not recorded"]
    found = [("evaluated by", shlex.join(map(str, command)))]
    return found + ([("evaluated with", ", ".join(words))] if words else [])


def _device(device: Mapping[str, Any] | None) -> str:
    if not device:
        return "not recorded"
    words = f"{device.get('count', '?')} x {device.get('kind') or device.get('platform', '?')}"
    processes = device.get("processes", 1)
    return words + (f" in {processes} processes" if processes != 1 else "")


def _data(config: ConfigDict, split: str | None) -> str:
    data = config.data
    if data.source == "shapes":
        return f"drawn scenes (shapes), evaluated on {split}"
    where = data.get("root") or "the current folder"
    chosen = data.get(split or "", {})
    file = chosen.get("annotations", "") if chosen else ""
    return f"{where}, evaluated on {split}" + (f" ({file})" if file else "")


def _measured(run: RunFolder) -> list[tuple[str, str]]:
    found = []
    speeds = curves.points(run.train, "images_per_second")[1]
    if speeds:
        found.append(("speed", f"{statistics.median(speeds):.3g} images a second (median)"))
    memory = curves.points(run.train, "memory_gib")[1]
    if memory:
        found.append(("memory", f"{max(memory):.2f} GiB of the device at its peak"))
    if run.final and run.final.get("seconds"):
        found.append(
            ("evaluation", f"{run.final['seconds']:.1f} s for {run.final['images']:,} images")
        )
    return found
