"""What stands in the results beyond the tables: curves, classes, confusions, sizes, the best and the worst images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jaxseg.report import analysis, charts, pictures, tables
from jaxseg.report.evaluated import Evaluated
from jaxseg.report.folder import RunFolder

BARS = (
    40  # classes that are shown as bars: all of them, or half as many of the best and of the worst
)
CONFUSED = 20  # classes of a confusion matrix
EDGES = (
    8,
    16,
    32,
    56,
    96,
    192,
    384,
)  # of the histogram of sizes; COCO's bounds 32 and 96 are among them
WORST, BEST, APART = 6, 4, 4  # images that are shown


def precision_recall(
    found: Mapping[str, Evaluated], order: Sequence[str]
) -> list[tuple[str, list[Markup]]]:
    """(kind, charts at IoU 0.5, 0.75 and their mean)."""
    titles = {"AP50": "IoU 0.50", "AP75": "IoU 0.75", "AP": "Mean over IoU 0.50 to 0.95"}
    made = []
    for kind in dict.fromkeys(kind for one in found.values() for kind in one.curves):
        series = {label: e.curves[kind] for label, e in found.items() if kind in e.curves}
        if series:
            made.append(
                (
                    tables.title(kind),
                    [
                        charts.lines(
                            {label: [(c["recall"], c[name])] for label, c in series.items()},
                            title=title,
                            xlabel="recall",
                            ylabel="precision",
                            order=order,
                            legend=False,
                            xlim=(0, 1),
                            ylim=(0, 1.02),
                        )
                        for name, title in titles.items()
                    ],
                )
            )
    return made


def class_bars(runs: Mapping[str, RunFolder], order: Sequence[str]) -> list[Markup]:
    """Bars of the classes' mask AP: all, or the best and the worst by the mean over the runs. [] with one class."""
    kind = next(iter(tables.kinds(list(runs.values()))), None)
    if kind is None:
        return []
    values = {
        label: {n: 100 * v["AP"] for n, v in tables.per_class(run, kind).items() if v["AP"] >= 0}
        for label, run in runs.items()
    }
    values = {label: found for label, found in values.items() if found}
    means = {
        name: np.mean([found[name] for found in values.values() if name in found])
        for name in dict.fromkeys(name for found in values.values() for name in found)
    }
    if len(means) < 2:
        return []
    ranked = sorted(means, key=lambda name: -means[name])
    parts = {f"{tables.title(kind)} AP of each class": ranked}
    if len(ranked) > BARS:
        parts = {
            f"The best {BARS // 2} of {len(ranked):,} classes": ranked[: BARS // 2],
            f"The worst {BARS // 2} of {len(ranked):,} classes": ranked[-BARS // 2 :],
        }
    top = max(1.0, *means.values(), *(v for found in values.values() for v in found.values()))
    return [
        charts.bars(
            {label: {n: found[n] for n in names if n in found} for label, found in values.items()},
            names=names,
            title=title,
            xlabel=f"{kind} AP, %",
            order=order,
            legend=False,
            digits=1,
            xlim=(0, min(112, top * 1.12)),
        )
        for title, names in parts.items()
    ]


def confusion(found: Evaluated) -> dict[str, Any]:
    """A table of the classes: `header`, `rows` of (name, cells), `pairs` (the most frequent confusions), `shown`.

    A cell is (count, its share of the row, whether it is right). With many classes those that are most often taken for
    another are shown, and the others together.
    """
    names = found.names
    counts = analysis.confusion(found.images, found.assigned, len(names))
    swaps = counts[:-1, :-1].copy()
    np.fill_diagonal(swaps, 0)
    weight = swaps.sum(0) + swaps.sum(1)
    chosen = list(range(len(names)))
    words = names
    if len(names) > CONFUSED:
        # Those that are confused most; without confusions the most frequent.
        most = np.lexsort((-counts[:-1].sum(1), -weight))[:CONFUSED]
        chosen = sorted(most.tolist())
        counts = _lumped(counts, chosen)
        words = [*(names[i] for i in chosen), "other classes"]
    totals = counts.sum(1)
    rows = []
    for i, row in enumerate(counts):
        name = words[i] if i < len(words) else "background"
        cells = [
            (int(n), float(n / max(1, totals[i])), i == j and i < len(chosen))
            for j, n in enumerate(row)
        ]
        rows.append((name, cells))
    flat = np.argsort(-swaps, axis=None, kind="stable")[:CONFUSED]
    pairs = [divmod(int(k), len(names)) for k in flat if swaps.flat[k]]
    return dict(
        header=[*words, "missed"],
        rows=rows,
        pairs=[[names[i], names[j], f"{swaps[i, j]:,}"] for i, j in pairs],
        shown=len(chosen),
        classes=len(names),
    )


def _lumped(counts: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """(k + 2, k + 2): the chosen classes, all others together, missed or background."""
    groups = np.full(len(counts), len(chosen))
    groups[list(chosen)] = np.arange(len(chosen))
    groups[-1] = len(chosen) + 1
    size = len(chosen) + 2
    lumped = np.zeros((size, size), counts.dtype)
    np.add.at(lumped, (groups[:, None], groups[None, :]), counts)
    return lumped


def sizes(found: Mapping[str, Evaluated], order: Sequence[str]) -> list[Markup]:
    """Charts of found and missed objects by size: the share found of all runs together, then counts of each run."""
    shares, made = {}, []
    for label, one in found.items():
        sides, states = analysis.outcomes(one.images, one.assigned)
        bins = np.searchsorted(EDGES, sides, side="right")
        counts = np.array(
            [np.bincount(bins[states == s], minlength=len(EDGES) + 1) for s in range(3)]
        )
        total = counts.sum(0)
        good = np.flatnonzero(total)
        shares[label] = [(good, 100 * counts[0, good] / total[good])]
        parts = dict(zip(("found", "found as another class", "missed"), counts, strict=True))
        made.append(
            charts.stacked(
                EDGES,
                parts,
                title=charts.shortened(label, 40) if len(found) > 1 else "Objects by size",
                xlabel="square root of the object's area, pixels",
                ylabel="objects",
                color=order.index(label),
            )
        )
    if len(found) > 1:
        share = charts.lines(
            shares,
            title="Share of objects found",
            xlabel="square root of the object's area, pixels",
            ylabel="found, %",
            order=order,
            ylim=(0, 102),
            xticks=(np.arange(len(EDGES)) + 0.5, [charts.number(e) for e in EDGES]),
        )
        made.insert(0, share)
    return made


def image_sheets(found: Mapping[str, Evaluated], budget: int) -> list[dict[str, Any]]:
    """`title` and `sheet` of pictures of images that all these runs, of the same data, were evaluated on.

    All of them together have at most `budget` bytes.

    With annotations: where the images' quality, the mean over the runs, is worst and best, and where the runs are
    furthest apart. Else images evenly spread.
    """
    first = next(iter(found.values()))
    chosen = {"Some images": pictures.choose(first.source, WORST, len(first.infos))}
    quality = {label: e.quality() for label, e in found.items()}
    if first.source.annotated:
        chosen = _extremes(list(quality.values()), {i.id: len(i.truth) for i in first.images})
    columns = len(found) + bool(first.source.annotated)
    count = max(1, sum(map(len, chosen.values())) * columns)
    made = []
    for title, ids in chosen.items():
        share = budget * len(ids) * columns // count
        sheet = pictures.sheet(
            first.source,
            ids,
            {label: e.results for label, e in found.items()},
            score={label: e.score for label, e in found.items()},
            budget=share,
        )
        for entry in sheet:
            value = quality.get(entry["label"], {}).get(entry["image"])
            if value is not None:
                entry["note"] = f"quality {value:.2f}"
        if sheet:
            made.append(dict(title=title, sheet=sheet))
    return made


def _extremes(
    qualities: Sequence[Mapping[int, float]], objects: Mapping[int, int]
) -> dict[str, list[int]]:
    """Titles and image ids; no image twice. Of images that are equally bad or good those with more objects go first."""
    shared = [i for i in qualities[0] if all(i in q for q in qualities)]
    mean = {i: np.mean([q[i] for q in qualities]) for i in shared}
    by_rank = sorted(shared, key=lambda i: (mean[i], -objects[i]))
    worst = by_rank[: min(WORST, (len(by_rank) + 1) // 2)]
    rest = sorted(set(shared) - set(worst), key=lambda i: (-mean[i], -objects[i]))
    chosen = {"Worst": worst, "Best": rest[:BEST]}
    if len(qualities) > 1:
        spread = {i: max(q[i] for q in qualities) - min(q[i] for q in qualities) for i in shared}
        left = [i for i in shared if i not in {*worst, *rest[:BEST]} and spread[i] > 0]
        left.sort(key=lambda i: (-spread[i], -objects[i]))
        chosen["Where the runs differ most"] = left[:APART]
    return {title: ids for title, ids in chosen.items() if ids}
