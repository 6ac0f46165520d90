"""A run's detections together with the data that they are about."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxseg.data import sources
from jaxseg.evaluation import coco, measure
from jaxseg.report import analysis
from jaxseg.report.folder import RunFolder, open_data


@dataclasses.dataclass
class Evaluated:
    """A run with its data.

    Attributes:
      source: the data set; `data` is the same for runs that were evaluated on the same images and objects.
      infos: the images that were evaluated.
      score: detections under it are not counted in what follows, and not drawn; `at` has what it gives.
      images, assigned: of the images, by position; empty without annotations.
      curves: kind of AP -> precision by recall, see `coco.Metrics`; masks first.
    """

    source: sources.Source
    data: tuple
    infos: Sequence[sources.ImageInfo]
    results: list[dict]
    score: float = 0.5
    at: dict[str, float] = dataclasses.field(default_factory=dict)
    images: list[analysis.Image] = dataclasses.field(default_factory=list)
    assigned: list[analysis.Assigned] = dataclasses.field(default_factory=list)
    curves: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of the classes; a name that several share has its id added."""
        return coco.labels([dataclasses.asdict(c) for c in self.source.categories])

    def quality(self) -> dict[int, float]:
        """Image id -> quality of the image; only images that have an object or a detection."""
        found = {i.id: a.quality for i, a in zip(self.images, self.assigned, strict=True)}
        return {image: quality for image, quality in found.items() if quality == quality}


def evaluate(
    run: RunFolder, score: float | None = None, known: Sequence[Evaluated] = ()
) -> tuple[Evaluated | None, str]:
    """(Evaluated, "") of a run, or (None, why there is none).

    Args:
      run: the run.
      score: the score from which detections count; None: where most objects are found for the least surplus.
      known: other runs; a data set that one of them has is not held twice.
    """
    if run.results is None:
        if run.results_path is not None:
            return None, f"{run.results_path.name} is damaged"
        waits = run.training and not run.finished
        return None, "it has no detections yet" if waits else "its results are gone"
    source, reason = open_data(run)
    if source is None:
        return None, f"its data cannot be opened: {reason}"
    infos = _evaluated_infos(run, source)
    data = _fingerprint(infos, source.categories)
    source = next((other.source for other in known if other.data == data), source)
    found = Evaluated(source, data, infos, run.results)
    if source.annotated:
        try:
            _measure(found, run, score)
        except ValueError as error:
            return None, f"its results do not fit its data: {error}"
    elif score is not None:
        found.score = score
    return found, ""


def _measure(found: Evaluated, run: RunFolder, score: float | None) -> None:
    truth = _about(found.source.coco(), found.infos)
    given = measure.settings(run.evaluated.eval)
    if run.final:  # one of a version that knew no other protocol is of COCO's
        given = dataclasses.replace(given, protocol=run.final.get("protocol", "coco"))
    used = measure.chosen(given, truth)
    measured = measure.measure(truth, found.results, used)
    found.curves = {kind: measured[kind].curves for kind in dict.fromkeys(("mask", *measured))}
    found.images = analysis.images(truth, found.results)
    found.score, found.at = analysis.best_score(found.images, score)
    found.assigned = [analysis.assign(image, found.score) for image in found.images]


def _evaluated_infos(run: RunFolder, source: sources.Source) -> Sequence[sources.ImageInfo]:
    """With `eval.max_images`, only the first images were evaluated."""
    count = run.final["images"] if run.final else run.evaluated.eval.max_images
    return source.infos[: count or None]


def _about(truth: Mapping[str, Any], infos: Sequence[sources.ImageInfo]) -> dict[str, Any]:
    ids = {info.id for info in infos}
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in ids],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
    }


def _fingerprint(
    infos: Sequence[sources.ImageInfo], categories: Sequence[sources.Category]
) -> tuple:
    return tuple(infos), tuple(categories)
