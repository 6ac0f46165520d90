"""Which object was found by which detection, and what follows: confusions, the quality of images, sizes found.

An object and a detection can be one pair if the IoU of their masks is at least 0.5. Detections choose in the order of
their scores: first each takes the free object of its own class that it overlaps most ("right"); then those that got
none take the free object of another class that they overlap most ("wrong"). The first round goes first, since objects
of different classes may cover each other: a window must not count as confused with the wall around it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.evaluation import coco_input

IOU = 0.5
SCORES = tuple(round(0.05 * k, 2) for k in range(1, 20))
FOUND, OTHER_CLASS, MISSED = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Image:
    """Objects and detections of one image; classes are indices.

    Attributes:
      id: of the image.
      truth: (n,) class of each object, without crowds.
      areas: (n,) pixels of each object's mask.
      scores, classes: (d,) of the detections, by falling score.
      on_crowd: (d,) whether at least half of a detection lies on a crowd: if it has no object, it is not counted.
      pairs: (p, 2) all (detection, object) whose masks have an IoU of at least 0.5, by detection.
      ious: (p,)
    """

    id: int
    truth: np.ndarray
    areas: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    on_crowd: np.ndarray
    pairs: np.ndarray
    ious: np.ndarray


@dataclasses.dataclass(frozen=True)
class Assigned:
    """How the detections of an image over some score are paired: lists of (detection, object, IoU), and the rest."""

    right: list[tuple[int, int, float]]
    wrong: list[tuple[int, int, float]]
    missed: list[int]  # objects
    background: list[int]  # detections that have no object and lie on no crowd

    @property
    def quality(self) -> float:
        """The image's panoptic quality: summed IoU of the right pairs / (right + half of what lacks or is too much).

        1 is perfect, 0 is nothing right; NaN where there is neither an object nor a detection. After Kirillov et al.,
        "Panoptic Segmentation" (2019), over all classes of the image together.
        """
        lacking = len(self.missed) + len(self.wrong)
        surplus = len(self.background) + len(self.wrong)
        count = len(self.right) + (lacking + surplus) / 2
        return sum(iou for *_, iou in self.right) / count if count else float("nan")


def images(ground_truth: Mapping, results: Sequence[Mapping]) -> list[Image]:
    """The images of a COCO ground truth with their pairs.

    Args:
      ground_truth: a COCO dict; class indices are the positions in its `categories`.
      results: COCO results with `segmentation`. Those of unknown images or categories are left out.

    Raises:
      ValueError: a mask belongs to an image of another size.
    """
    index = {category["id"]: i for i, category in enumerate(ground_truth["categories"])}
    objects = _by_image(ground_truth["annotations"], index)
    found = _by_image(results, index)
    return [
        _image(image, objects.get(image["id"], []), found.get(image["id"], []), index)
        for image in ground_truth["images"]
    ]


def assign(image: Image, score: float) -> Assigned:
    """Pairs the detections of at least `score`."""
    kept = int(np.searchsorted(-image.scores, -score, side="right"))
    pairs = [(d, g, iou) for (d, g), iou in _pairs(image) if d < kept]
    right = _take([p for p in pairs if image.classes[p[0]] == image.truth[p[1]]])
    done, taken = {d for d, *_ in right}, {g for _, g, _ in right}
    wrong = _take([p for p in pairs if p[0] not in done and p[1] not in taken])
    done |= {d for d, *_ in wrong}
    taken |= {g for _, g, _ in wrong}
    return Assigned(
        right,
        wrong,
        [g for g in range(len(image.truth)) if g not in taken],
        [d for d in range(kept) if d not in done and not image.on_crowd[d]],
    )


def best_score(
    all_images: Sequence[Image], score: float | None = None
) -> tuple[float, dict[str, float]]:
    """The score of `SCORES` with the best F1 of objects found in their own class, and what it gives.

    Args:
      all_images: of a data set.
      score: a score to take instead.

    Returns:
      The score (0.5 where no object is found at any), and `f1`, `precision`, `recall` as fractions.
    """
    objects = sum(len(image.truth) for image in all_images)
    scores, right = [], []
    for image in all_images:
        # A pair with a higher score is never undone by a lower one: one assignment does for all scores.
        hits = {d for d, *_ in assign(image, -np.inf).right}
        counted = [d for d in range(len(image.scores)) if d in hits or not image.on_crowd[d]]
        scores += image.scores[counted].tolist()
        right += [d in hits for d in counted]
    scores, right = np.array(scores), np.array(right, bool)

    def numbers(least: float) -> dict[str, float]:
        kept = scores >= least
        hits, found = int(right[kept].sum()), int(kept.sum())
        return dict(
            f1=2 * hits / max(1, found + objects),
            precision=hits / max(1, found),
            recall=hits / max(1, objects),
        )

    if score is None:
        score = max(SCORES, key=lambda least: (numbers(least)["f1"], -abs(least - 0.5)))
    return score, numbers(score)


def confusion(
    all_images: Sequence[Image], assigned: Sequence[Assigned], classes: int
) -> np.ndarray:
    """(classes + 1, classes + 1) counts: [i, j] objects of class i found as class j.

    The last column holds the objects that were missed, the last row the detections on background.
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for image, pairs in zip(all_images, assigned, strict=True):
        for d, g, _ in (*pairs.right, *pairs.wrong):
            counts[image.truth[g], image.classes[d]] += 1
        np.add.at(counts, (image.truth[pairs.missed], classes), 1)
        np.add.at(counts, (classes, image.classes[pairs.background]), 1)
    return counts


def outcomes(
    all_images: Sequence[Image], assigned: Sequence[Assigned]
) -> tuple[np.ndarray, np.ndarray]:
    """Of all objects: (n,) the square root of the mask's area in pixels, (n,) FOUND, OTHER_CLASS or MISSED."""
    sides, states = [np.zeros(0)], [np.zeros(0, int)]
    for image, pairs in zip(all_images, assigned, strict=True):
        state = np.full(len(image.truth), MISSED)
        state[[g for _, g, _ in pairs.right]] = FOUND
        state[[g for _, g, _ in pairs.wrong]] = OTHER_CLASS
        sides.append(np.sqrt(image.areas))
        states.append(state)
    return np.concatenate(sides), np.concatenate(states)


def _by_image(entries: Sequence[Mapping], index: Mapping[int, int]) -> dict[int, list[Mapping]]:
    found: dict[int, list[Mapping]] = {}
    for entry in entries:
        if entry["category_id"] in index and (entry.get("segmentation") or entry.get("iscrowd")):
            found.setdefault(entry["image_id"], []).append(entry)
    return found


def _image(
    image: Mapping, objects: list[Mapping], found: list[Mapping], index: Mapping[int, int]
) -> Image:
    found = sorted(found, key=lambda entry: -entry["score"])
    crowds = [entry for entry in objects if entry.get("iscrowd")]
    objects = [entry for entry in objects if not entry.get("iscrowd")]
    size = (image["height"], image["width"])
    rles, targets = [_rle(e, size) for e in found], [_rle(e, size) for e in objects]
    ious = _overlaps(rles, targets, crowd=False)
    pairs = np.argwhere(ious >= IOU)
    return Image(
        id=image["id"],
        truth=np.array([index[e["category_id"]] for e in objects], int),
        areas=np.array([mask_utils.area(rle) for rle in targets], float),
        scores=np.array([e["score"] for e in found], float),
        classes=np.array([index[e["category_id"]] for e in found], int),
        on_crowd=(_overlaps(rles, [_rle(e, size) for e in crowds], crowd=True) >= 0.5).any(1),
        pairs=pairs,
        ious=ious[tuple(pairs.T)],
    )


def _rle(entry: Mapping, size: tuple[int, int]) -> dict:
    """Its mask; of a crowd that is a box alone, the box."""
    if not entry.get("segmentation"):
        x, y, w, h = entry["bbox"]
        return coco_input.to_rle([[x, y, x + w, y, x + w, y + h, x, y + h]], *size)
    return coco_input.to_rle(entry["segmentation"], *size)


def _overlaps(rles: list[dict], targets: list[dict], *, crowd: bool) -> np.ndarray:
    """(d, n) IoUs; with `crowd`, the share of each mask that lies on a target."""
    if not rles or not targets:
        return np.zeros((len(rles), len(targets)))
    return np.asarray(mask_utils.iou(rles, targets, [int(crowd)] * len(targets)))


def _pairs(image: Image) -> list[tuple[tuple[int, int], float]]:
    return list(zip(map(tuple, image.pairs.tolist()), image.ious.tolist(), strict=True))


def _take(pairs: list[tuple[int, int, float]]) -> list[tuple[int, int, float]]:
    """Each detection in turn takes the free object that it overlaps most."""
    taken: set[int] = set()
    done: set[int] = set()
    chosen = []
    for d, g, iou in sorted(pairs, key=lambda pair: (pair[0], -pair[2])):
        if d not in done and g not in taken:
            chosen.append((d, g, iou))
            done.add(d)
            taken.add(g)
    return chosen
