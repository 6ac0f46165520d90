"""What `benchmarks/compile_step.py` compiled, and what it projects: as it is written and shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from benchmarks import fitting, models, projection
from benchmarks.journal import Journal
from benchmarks.projection import CHIPS
from benchmarks.targets import Target


class Place(NamedTuple):
    """Devices to compile for.

    Attributes:
      chip: of `projection.CHIPS`.
      devices: how many.
      links: share of a chip's links that the devices with the fewest neighbours have.
      like: the place whose batch is taken over; "": it is looked for here.
    """

    chip: str
    target: Target
    devices: int
    links: float = 1.0
    like: str = ""


# Slices of TPU v5e smaller than 16 x 16 are no tori: the chips in their corners have two of four links.
PLACES: Mapping[str, Place] = {
    "v5e-2x2": Place("TPU v5e", Target("tpu", "v5e:2x2"), 4, 0.5),
    "v5e-4x4": Place("TPU v5e", Target("tpu", "v5e:4x4"), 16, 0.5, "v5e-2x2"),
    "v5e-16x16": Place("TPU v5e", Target("tpu", "v5e:16x16"), 256, 1.0, "v5e-2x2"),
    "h200-1": Place("NVIDIA H200", Target("cuda", "1x1x1"), 1),
    "h200-8": Place("NVIDIA H200", Target("cuda", "1x1x8"), 8, 1.0, "h200-1"),
}
HOSTS = 16  # of 8 H200, that a step over InfiniBand is projected for


def points(rows: Mapping[str, Any], place: str, method: str) -> dict[int, int | None]:
    """Bytes planned by images a device, of all that were tried, and its arguments for none; see `fitting`."""
    found = {}
    for key, row in rows.items():
        words = key.split()
        if words[:2] == [place, method] and "error" not in row:
            found[int(words[2])] = row.get("planned_bytes")
            if "argument_bytes" in row:
                found[0] = row["argument_bytes"]
    return found


def to_result(journals: Iterable[Journal]) -> dict[str, Any]:
    """As it is written: a row for each compilation, the batches that fit, and the projections."""
    head: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for journal in journals:
        kept = dict(journal.rows)
        head |= {k: v for k, v in kept.pop("context", {}).items() if v is not None}
        rows |= kept
    compiled = [
        dict(zip(("place", "method", "images"), _words(key), strict=True)) | row
        for key, row in rows.items()
        if not key.startswith("model ")
    ]
    compiled.sort(key=_order)
    counted = {key.split()[1]: row for key, row in rows.items() if key.startswith("model ")}
    flops = {method: row.get("flops") for method, row in counted.items()}
    return {
        "benchmark": "compile_step",
        "kind": "compiled for devices that were not there; nothing was run",
        **head,
        "model_flops_an_image": flops,
        "xla_flops_an_image": {method: row.get("xla_flops") for method, row in counted.items()},
        "rows": compiled,
        "fits": _fits(rows, compiled),
        "not_compiled": _left(compiled),
        "projections": _projections(compiled, flops),
    }


def _order(row: Mapping[str, Any]) -> tuple[int, int, int]:
    places, methods = list(PLACES), [*models.METHODS, row["method"]]  # or one that there was before
    return places.index(row["place"]), methods.index(row["method"]), row["images"]


def _words(key: str) -> tuple[str, str, int]:
    place, method, images = key.split()
    return place, method, int(images)


def _fits(rows: Mapping[str, Any], compiled: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    pairs = dict.fromkeys((row["place"], row["method"]) for row in compiled)
    return {
        f"{place} {method}": fitting.largest(
            points(rows, place, method), CHIPS[PLACES[place].chip].memory
        )
        for place, method in pairs
    }


def _left(compiled: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """By place, the methods that have no program there yet."""
    done = {(row["place"], row["method"]) for row in compiled if "collectives" in row}
    left = {place: [m for m in models.METHODS if (place, m) not in done] for place in PLACES}
    return {place: names for place, names in left.items() if names}


def _projections(
    compiled: Iterable[Mapping[str, Any]], flops: Mapping[str, float | None]
) -> list[dict[str, Any]]:
    found = [p for row in compiled for p in project(row, flops.get(row["method"]))]
    return sorted(found, key=lambda p: (list(PLACES).index(p["place"]), p["devices"]))


def project(row: Mapping[str, Any], flops: float | None) -> list[dict[str, Any]]:
    """What a compiled row's bytes would cost: nothing for one device."""
    place = PLACES[row["place"]]
    if "collectives" not in row or flops is None or place.devices == 1:
        return []
    chip = CHIPS[place.chip]
    sent = sum(kind["sent"] for kind in row["collectives"].values())
    found = [_projection(row, place.devices, sent, chip.link * place.links, flops)]
    if chip.between is not None:
        total = HOSTS * place.devices
        sent = projection.over_hosts(sent, place.devices, total)
        found.append(_projection(row, total, sent, chip.between, flops))
    return found


def _projection(row, devices: int, sent: float, speed: float, flops: float) -> dict[str, Any]:
    chip = CHIPS[PLACES[row["place"]].chip]
    sending = projection.seconds_sending(sent, speed)
    own = flops * row["images"]
    return {
        "place": row["place"],
        "method": row["method"],
        "images": row["images"],
        "devices": devices,
        "sent_bytes": sent,
        "bytes_a_second": speed,
        "sending_seconds": sending,
        **{
            name: projection.efficiency(projection.seconds_computing(own, chip, share), sending)
            for name, share in (("at_peak", 1.0), ("as_assumed", projection.UTILISATION))
        },
    }


def table(result: Mapping[str, Any]) -> str:
    """In Markdown: what was compiled for the batch that fits (else the smallest), and the projections."""
    versions = ", ".join(
        f"{n} {result[n]}"
        for n in ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
        if result.get(n)
    )
    # Rows of before they had one are of the folder's.
    commits = dict.fromkeys(str(row.get("commit", result.get("commit"))) for row in result["rows"])
    lines = [
        f"{result.get('date')}, commit {', '.join(commits)}, {versions}; {result['kind']}.",
        "",
        "| devices | method | images a device | GB a device | model TFLOPs a device | XLA's TFLOPs "
        "| collectives | MB in them | MB a device sends | compile, s |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    shown = _shown(result)
    counts = ("model_flops_an_image", "xla_flops_an_image")
    lines += [_line(row, *(result[name].get(row["method"]) for name in counts)) for row in shown]
    chosen = {(row["place"], row["method"], row["images"]) for row in shown}
    of_chosen = [
        p for p in result["projections"] if (p["place"], p["method"], p["images"]) in chosen
    ]
    if of_chosen:
        assumed = f"{projection.UTILISATION:.0%}"
        lines += [
            "",
            "| projected | method | images a device | sent at, GB/s | ms sending "
            f"| efficiency at {assumed} of the peak | at the peak |",
            "|---|---|---:|---:|---:|---:|---:|",
            *map(_projected, of_chosen),
        ]
    if result["not_compiled"]:
        left = (f"{place}: {', '.join(names)}" for place, names in result["not_compiled"].items())
        lines += ["", f"Not compiled so far: {'; '.join(left)}."]
    return "\n".join(lines)


def _shown(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """For each place and method the largest batch that fits, or what came instead."""
    best: dict[tuple[str, str], Mapping[str, Any]] = {}
    for row in result["rows"]:
        pair = (row["place"], row["method"])
        fits = row["images"] == result["fits"][f"{pair[0]} {pair[1]}"]
        if fits or pair not in best:
            best[pair] = row
    return list(best.values())


def _line(row: Mapping[str, Any], flops: float | None, xla_flops: float | None) -> str:
    start = f"| {row['place']} | {row['method']} | {row['images']} |"
    if "collectives" not in row:
        return f"{start} {row.get('error') or row.get('refused')} | | | | | | |"
    kinds = row["collectives"].values()
    cells = [
        f"{row['planned_bytes'] / 1e9:.2f}",
        f"{flops * row['images'] / 1e12:.2f}" if flops else "",
        f"{xla_flops * row['images'] / 1e12:.2f}" if xla_flops else "",
        _told(row["collectives"]),
        f"{sum(k['bytes'] for k in kinds) / 1e6:,.1f}",
        f"{sum(k['sent'] for k in kinds) / 1e6:,.1f}",
        f"{row['compile_seconds']:.0f}",
    ]
    return f"{start} {' | '.join(cells)} |"


def _told(kinds: Mapping[str, Mapping[str, float]]) -> str:
    return ", ".join(f"{row['number']} {kind}" for kind, row in kinds.items()) or "none"


def _projected(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['devices']} {PLACES[row['place']].chip} | {row['method']} | {row['images']} | "
        f"{row['bytes_a_second'] / 1e9:,.0f} | {row['sending_seconds'] * 1e3:.2f} | {row['as_assumed']:.1%} | "
        f"{row['at_peak']:.1%} |"
    )
