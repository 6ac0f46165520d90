"""The tables of table.md and report.html, as text cells, from the contents of results.json and timings.json.

AP is shown in percent with two decimals, as differences of a few seeds need them; published numbers as published.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

NOTHING = "-"


class Cell(NamedTuple):
    """One cell. `strong`: to be set off; `published`: not ours."""

    text: str
    strong: bool = False
    published: bool = False


@dataclasses.dataclass(frozen=True)
class Grid:
    """A table: `header` and `rows` of equal length. From column `numbers` on, cells are set flush right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numbers: int = 1
    note: str = ""


def overview(found: Mapping[str, Any]) -> Grid:
    """Mean and standard deviation of every row and column, what was published beside."""
    keys = found["columns"]
    shown = {key for row in found["rows"] for key in row["published"]}
    header, rows = ["", "seeds"], []
    for key in keys:
        header += [column_name(key), *(["published"] if key in shown else [])]
    for row in found["rows"]:
        cells = [Cell(row["label"]), Cell(seeds_of(row))]
        for key in keys:
            cells.append(Cell(_mean(row["metrics"].get(key))))
            if key in shown:
                cells.append(Cell(_published(row["published"].get(key)), published=True))
        rows.append(tuple(cells))
    counts = {m["count"] for row in found["rows"] for m in row["metrics"].values() if m}
    several = max(counts, default=1) > 1
    notes = ["Mean ± standard deviation over the seeds, in percent." if several else "In percent."]
    if 1 in counts:
        one = "A row with one seed" if several else "One seed"
        notes.append(f"{one} has no spread: it says nothing about chance.")
    return Grid("Results", tuple(header), tuple(rows), note=" ".join(notes))


def differences(found: Mapping[str, Any], key: str) -> Grid | None:
    """What sets the rows off against their baselines in one metric; None if no row has a difference in it."""
    labels = {row["name"]: row["label"] for row in found["rows"]}
    compared = [row for row in found["rows"] if row["difference"]]
    several = len({row["difference"]["baseline"] for row in compared}) > 1
    printed = any(key in row["difference"]["published"] for row in compared)
    rows = []
    for row in compared:
        other = row["difference"]
        pair, published = other["metrics"].get(key), other["published"].get(key)
        if pair is None and published is None:
            continue
        cells = [Cell(row["label"])]
        cells += [Cell(labels[other["baseline"]])] if several else []
        cells += _pair(pair)
        cells += [Cell(_published(published, "+"), published=True)] if printed else []
        rows.append(tuple(cells))
    if not rows:
        return None
    header = ["", *(["compared with"] if several else []), "pairs", "difference", "95 % interval"]
    header += ["smallest detectable", *(["published"] if printed else [])]
    against = "" if several else f" to {labels[compared[0]['difference']['baseline']]}"
    return Grid(
        f"{column_name(key)}: difference{against}",
        tuple(header),
        tuple(rows),
        numbers=2 if several else 1,
        note=_note_on_pairs(compared),
    )


def single_runs(found: Mapping[str, Any]) -> Grid:
    """The numbers of every run."""
    keys = found["columns"]
    rows = tuple(
        (
            Cell(row["label"]),
            Cell(str(run["seed"])),
            *(Cell(percent(run["metrics"].get(key))) for key in keys),
            Cell(run["status"]),
        )
        for row in found["rows"]
        for run in row["runs"]
    )
    header = ("", "seed", *map(column_name, keys), "status")
    return Grid("Every run", header, rows, note="In percent.")


class Problem(NamedTuple):
    """Runs of one row that have no result for the same reason."""

    label: str
    seeds: str  # "0, 2"; empty for a row that was not run at all
    status: str
    error: str


def problems(found: Mapping[str, Any]) -> list[Problem]:
    """Rows and runs without a result, and why."""
    told: list[Problem] = []
    for row in found["rows"]:
        if not row["runs"]:
            told.append(Problem(row["label"], "", "not run", ""))
        reasons: dict[tuple[str, str], list[str]] = {}
        for run in row["runs"]:
            if run["status"] != "finished":
                reasons.setdefault((run["status"], run["error"]), []).append(str(run["seed"]))
        told += [Problem(row["label"], ", ".join(seeds), *why) for why, seeds in reasons.items()]
    return told


def unfinished(found: Mapping[str, Any]) -> Grid | None:
    """`problems` as a table; None if there are none."""
    rows = tuple(
        (
            Cell(p.label),
            Cell(p.seeds or NOTHING),
            Cell(p.status, p.status == "failed"),
            Cell(p.error),
        )
        for p in problems(found)
    )
    if not rows:
        return None
    return Grid("Without a result", ("", "seeds", "status", "error"), rows, numbers=4)


def costs(found: Mapping[str, Any], times: Mapping[str, Any]) -> Grid | None:
    """Time and memory of the rows; None if nothing is known."""
    rows = []
    for row in found["rows"]:
        own = times["rows"].get(row["name"], {})
        cells = (
            Cell(row["label"]),
            Cell(seconds_per_step(own.get("seconds_per_step"))),
            Cell(gib(own.get("device_gib"))),
            Cell(gib(own.get("host_gib"))),
            Cell(duration(own.get("seconds"))),
        )
        if any(cell.text != NOTHING for cell in cells[1:]):
            rows.append(cells)
    if not rows:
        return None
    note = (
        "A step's time is the median over the log, without compilation and validation, averaged over the seeds. "
        "Memory is the peak: of one device, where the backend tells it (CPUs do not), and of the program on the host. "
        "The total is of all seeds, with everything."
    )
    header = ("", "time per step", "device memory", "host memory", "total")
    return Grid("Time and memory", header, tuple(rows), note=note)


def changes(row: Mapping[str, Any]) -> Grid | None:
    """In which keys the config of a row differs from its baseline's; None if it does not."""
    other = row["difference"]
    if other and other["config"]:
        pairs = other["config"].items()
        header = ("key", f"in {other['baseline']}", "here")
        rows = tuple((Cell(key), Cell(plain(old)), Cell(plain(new))) for key, (old, new) in pairs)
    elif row["overrides"]:
        header = ("key", "here")
        rows = tuple((Cell(key), Cell(plain(value))) for key, value in row["overrides"].items())
    else:
        return None
    return Grid(row["label"], header, rows, numbers=3)


def seeds_of(row: Mapping[str, Any]) -> str:
    """`3`, `2 of 3` where some have no result, or `not run`."""
    done = sum(run["status"] == "finished" for run in row["runs"])
    if not row["runs"]:
        return "not run"
    return str(done) if done == len(row["runs"]) else f"{done} of {len(row['runs'])}"


def column_name(key: str) -> str:
    """`mask/APs` -> `mask AP S`."""
    kind, _, name = key.partition("/")
    if len(name) == 3 and name[-1] in "sml":
        name = f"{name[:2]} {name[2].upper()}"
    return f"{kind} {name}"


def percent(value: float | None, sign: str = "") -> str:
    """0.34213 -> `34.21`; `-` for None. `sign="+"` shows the sign of positive numbers, too."""
    if value is None:
        return NOTHING
    rounded = round(100 * value, 2)
    return f"{rounded:{sign}.2f}" if rounded else "0.00"  # without a sign


def seconds_per_step(value: float | None) -> str:
    """`0.213 s`."""
    return NOTHING if value is None else f"{value:.3g} s"


def gib(value: float | None) -> str:
    """`11.2 GiB`."""
    return NOTHING if value is None else f"{value:.1f} GiB"


def duration(seconds: float | None) -> str:
    """`2 d 3 h`, `3 h 20 min`, `4 min` or `12 s`."""
    if seconds is None:
        return NOTHING
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def plain(value: Any) -> str:
    """A config's value, as JSON."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _mean(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return NOTHING
    spread = "" if summary["sd"] is None else f" ± {percent(summary['sd'])}"
    return percent(summary["mean"]) + spread


def _pair(pair: Mapping[str, Any] | None) -> list[Cell]:
    """Pairs, difference, interval, smallest detectable; the difference stands out where the interval leaves out 0."""
    if pair is None:
        return [Cell("0"), *[Cell(NOTHING)] * 3]
    difference = percent(pair["mean"], "+")
    if pair["low"] is None:
        return [Cell(str(pair["count"])), Cell(difference), Cell(NOTHING), Cell(NOTHING)]
    seen = pair["low"] > 0 or pair["high"] < 0
    return [
        Cell(str(pair["count"])),
        Cell(difference, strong=seen),
        Cell(f"[{percent(pair['low'], '+')}, {percent(pair['high'], '+')}]"),
        Cell(percent(pair["detectable"])),
    ]


def _note_on_pairs(compared: Sequence[Mapping[str, Any]]) -> str:
    pairs = [pair for row in compared for pair in row["difference"]["metrics"].values()]
    notes = ["In points of percent, paired by seed."]
    if any(pair["count"] == 1 for pair in pairs):
        notes.append(
            "A single pair has no interval: whether its difference is chance cannot be said."
        )
    if any(pair["sd"] == 0 for pair in pairs):
        notes.append(
            "There is no interval where all pairs differ by the same: no spread was measured."
        )
    return " ".join(notes)


def _published(value: float | None, sign: str = "") -> str:
    if value is None:
        return NOTHING
    digits = ".1f" if round(value, 1) == value else "g"  # 15.0, and 34.25 as it is
    return f"{value:{sign if value else ''}{digits}}"
