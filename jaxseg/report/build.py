"""The page of one run or of several: which sections it has, and what it says where something is not there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jaxseg.evaluation import measure
from jaxseg.report import charts, curves, evaluated, findings, page, tables
from jaxseg.report.evaluated import Evaluated
from jaxseg.report.folder import RunFolder

_FAILED = {"failed": "failed", "skipped": "not been started"}  # states of a job, after "has"
_PICTURES = 4_500_000  # bytes of all pictures of a page
_SECTIONS = (  # anchor, what it is made of, title
    ("ap", "ap_tables", "Average precision"),
    ("curves", "curves", "Training"),
    ("pr", "precision_recall", "Precision and recall"),
    ("classes", "class_table", "Classes"),
    ("found", "scores", "What was found"),
    ("images", "galleries", "Images"),
    ("run", "facts", "What was run"),
)


def build(
    runs: Mapping[str, RunFolder],
    *,
    score: float | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """The page as HTML.

    Args:
      runs: label -> run, in the order in which they are shown.
      score: the score from which detections count as found, and are drawn; None: for each run the one where most
        objects are found for the least surplus.
      say: is told what is being done.
    """
    order = list(runs)
    found: dict[str, Evaluated] = {}
    notes = _notes_on_state(runs)
    for label, run in runs.items():
        say(f"{label}: comparing detections with the ground truth ...")
        one, reason = evaluated.evaluate(run, score, list(found.values()))
        if one is None and (run.results is not None or run.final):
            notes.append(
                f"{label}: no pictures, confusions and curves of precision, since {reason}."
            )
        elif one is not None:
            found[label] = one
            if not one.source.annotated:
                notes.append(
                    f"{label}: the split {run.split} has no annotations, so nothing is measured."
                )
    limits = _notes_on_comparison(runs, found)
    measured = {label: one for label, one in found.items() if one.source.annotated}
    say("Drawing ...")
    context = dict(
        title=order[0] if len(order) == 1 else f"{len(order)} runs compared",
        several=len(order) > 1,
        colors={
            label: f"var(--s{i % len(charts.figures.SERIES)})" for i, label in enumerate(order)
        },
        key=charts.key(order),
        notes=notes + limits,
        tiles=tables.tiles(runs),
        ap_tables=tables.ap_tables(runs, comparable=not limits),
        curves=curves.groups(runs, order),
        folded_curves=(curves.MORE, curves.SPEED),
        precision_recall=findings.precision_recall(measured, order),
        class_bars=findings.class_bars(runs, order),
        class_table=tables.class_table(runs),
        confusions={label: findings.confusion(one) for label, one in measured.items()},
        scores=_scores(measured, score),
        sizes=findings.sizes(measured, order) if measured else [],
        galleries=_galleries(found),
        facts={label: tables.facts(run) for label, run in runs.items()},
        configs={
            label: tables.flatten(run.config) if run.config is not None else {}
            for label, run in runs.items()
        },
        differences=tables.differences(runs) if len(order) > 1 else [],
    )
    sections = [(anchor, title) for anchor, part, title in _SECTIONS if context[part]]
    return page.render("run.html", "jaxseg.report", sections=sections, **context)


def _notes_on_state(runs: Mapping[str, RunFolder]) -> list[str]:
    notes = []
    for label, run in runs.items():
        if run.failed:
            notes.append(
                f"{label} has {_FAILED[run.status]}: {run.error or 'no reason was recorded.'}"
            )
        if run.damaged:
            words = ", ".join(str(path.relative_to(run.path)) for path in run.damaged)
            notes.append(f"{label}: left out, since damaged: {words}.")
        if run.results is None and not run.final:
            what = (
                "shows its curves" if run.train or run.val else "has nothing to show but its config"
            )
            notes.append(f"{label} is not finished ({tables.state(run)}): the page {what}.")
        elif run.results is not None and not run.results:
            notes.append(f"{label} has no detections at all: its AP is 0.")
    return notes


def _notes_on_comparison(
    runs: Mapping[str, RunFolder], found: Mapping[str, Evaluated]
) -> list[str]:
    """What a reader must not compare."""
    notes = []
    classes = {
        label: {c.name for c in run.categories} for label, run in runs.items() if run.categories
    }
    union, shared = set().union(*classes.values()), set.intersection(*classes.values() or [set()])
    if len(classes) > 1 and union != shared:
        notes.append(
            f"The runs have different classes ({len(shared)} of {len(union)} are common to all): their APs over all "
            "classes are means over different classes and must not be compared; those of a class may be."
        )
    if len({one.data for one in found.values()}) > 1:
        notes.append(
            "The runs were evaluated on different images or objects: differences between their numbers may come from "
            "the data."
        )
    configs = [run.evaluated for run in runs.values() if run.evaluated is not None]
    protocols = {run.final.get("protocol", "coco") for run in runs.values() if run.final}
    if len(protocols) > 1:
        words = " and ".join(sorted(measure.PROTOCOLS[p].title for p in protocols))
        notes.append(
            f"The runs were evaluated by different protocols, {words}: their APs must not be compared."
        )
    sizes = {config.eval.max_detections for config in configs}
    if len(sizes) > 1:
        words = ", ".join(map(str, sorted(sizes)))
        notes.append(
            f"The runs were evaluated with different numbers of detections an image: {words}."
        )
    return notes


def _scores(found: Mapping[str, Evaluated], score: float | None) -> list[list[str]]:
    return [
        [
            label,
            f"{one.score:.2f}",
            *(page.percent(one.at[name]) for name in ("precision", "recall", "f1")),
        ]
        for label, one in found.items()
    ]


def _galleries(found: Mapping[str, Evaluated]) -> list[dict[str, Any]]:
    """The sheets of pictures of each data set: runs that share one stand beside each other."""
    groups: dict[tuple, dict[str, Evaluated]] = {}
    for label, one in found.items():
        groups.setdefault(one.data, {})[label] = one
    return [
        dict(runs=list(group), sheets=findings.image_sheets(group, _PICTURES // len(groups)))
        for group in groups.values()
    ]
