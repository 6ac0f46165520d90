"""Generated ground truth and detections, of the sizes and numbers of COCO's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.data.pipeline import HostBatch
from jaxseg.evaluation import results as results_lib
from jaxseg.structures import Batch, Detections

_SIZE = (480, 640)
_SCALE = 800 / 480  # of the network's input
_OBJECTS = 7.3  # an image, COCO's mean
_SIDES = (8, 460)  # of boxes, in pixels: about 40 % are small, 25 % large
_SHAPES, _CELLS = 512, 28
_CORRECT = 0.5  # share of detections that lie on an object
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set that is the same whenever it is made anew, so that processes need not send it to each other."""

    images: int
    detections: int  # an image
    classes: int
    seed: int = 0

    def batches(self) -> Iterator[tuple[HostBatch, Detections]]:
        """What is evaluated, and what a network would find in it."""
        shapes = mask_shapes(self.seed)
        for start in range(0, self.images, BATCH):
            ids = np.arange(start, start + BATCH)
            ids[ids >= self.images] = -1
            size = np.tile(np.asarray(_SIZE, np.int32), (BATCH, 1))
            batch = Batch(np.zeros((BATCH, 1, 1, 3), np.uint8), size * np.float32(_SCALE), ids >= 0)
            found = [self._detections(int(i)) for i in np.maximum(ids, 0)]
            boxes, scores, classes, chosen = (np.stack(x) for x in zip(*found, strict=True))
            valid = np.broadcast_to((ids >= 0)[:, None], scores.shape)
            masks = shapes[chosen]
            yield (
                HostBatch(batch, ids, size),
                Detections(boxes * np.float32(_SCALE), scores, classes, valid, masks),
            )

    def ground_truth(self) -> dict:
        """COCO ground truth with masks as RLE."""
        shapes = mask_shapes(self.seed)
        height, width = _SIZE
        annotations = []
        for i in range(self.images):
            boxes, classes, chosen = self._objects(i)
            found = results_lib.image_results(
                boxes,
                np.ones(len(boxes)),
                classes,
                shapes[chosen],
                image_id=i,
                image_size=_SIZE,
                original_size=_SIZE,
                category_ids=range(1, self.classes + 1),
            )
            for entry in found:
                area = int(mask_utils.area(entry["segmentation"]))
                entry |= {"id": len(annotations) + 1, "iscrowd": 0, "area": area}
                annotations.append(entry)
        return {
            "images": [{"id": i, "height": height, "width": width} for i in range(self.images)],
            "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(self.classes)],
            "annotations": annotations,
        }

    def _objects(self, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4) float32, classes (N,) and shapes (N,) of an image's objects."""
        rng = np.random.default_rng((self.seed, image))
        count = int(rng.poisson(_OBJECTS))
        classes = rng.integers(0, self.classes, count)
        return _boxes(rng, count), classes, rng.integers(0, _SHAPES, count)

    def _detections(self, image: int) -> tuple[np.ndarray, ...]:
        """Boxes (D, 4), scores, classes and shapes (D,): some on objects, the others anywhere; best first."""
        boxes, classes, shapes = self._objects(image)
        rng = np.random.default_rng((self.seed, image, 1))
        count = self.detections
        found = _boxes(rng, count)
        kinds = rng.integers(0, self.classes, count)
        chosen = rng.integers(0, _SHAPES, count)
        scores = rng.beta(0.5, 4, count)
        if len(boxes):
            on = np.flatnonzero(rng.random(count) < _CORRECT)
            of = rng.integers(0, len(boxes), len(on))
            side = (boxes[of, 2:] - boxes[of, :2])[:, [0, 1, 0, 1]]
            found[on] = boxes[of] + side * rng.normal(0, 0.08, side.shape)
            kinds[on], chosen[on] = classes[of], shapes[of]
            scores[on] = rng.beta(2, 2, len(on))
        order = np.argsort(-scores)
        return (
            found[order].astype(np.float32),
            scores[order].astype(np.float32),
            kinds[order].astype(np.int32),
            chosen[order],
        )


def mask_shapes(seed: int) -> np.ndarray:
    """(512, 28, 28) float32 probabilities of blobs whose edge waves around their centre."""
    rng = np.random.default_rng(seed)
    grid = (np.arange(_CELLS) + 0.5) / _CELLS * 2 - 1
    angle = np.arctan2(grid[:, None], grid[None])
    distance = np.hypot(grid[:, None], grid[None])
    waves = np.arange(1, 7)
    size = rng.normal(0, 0.25 / waves, (_SHAPES, len(waves)))
    phase = rng.uniform(0, 2 * np.pi, (_SHAPES, len(waves)))
    edge = np.einsum(
        "sk,skyx->syx", size, np.cos(waves[:, None, None] * angle + phase[..., None, None])
    )
    return (1 / (1 + np.exp(-12 * (0.85 + edge - distance)))).astype(np.float32)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) float32 xyxy within the image, sides spread evenly over their logarithm."""
    height, width = _SIZE
    side = np.exp(rng.uniform(*np.log(_SIDES), count))
    stretch = np.exp(rng.normal(0, 0.4, count))
    sides = np.minimum(np.stack([side * stretch, side / stretch], 1), (width, height))
    corner = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    return np.concatenate([corner, corner + sides], 1).astype(np.float32)
