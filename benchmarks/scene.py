"""Random images with objects, in the forms that jaxseg's and torchvision's models take. No files are read.

Times hardly depend on what is drawn: shapes are static here, and torchvision is given as many proposals and detections.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jaxseg.structures import Batch, Targets

OBJECTS = 7  # an image; train2017 has 7.3


class Scene(NamedTuple):
    """B images with N objects each: ellipses that fill their boxes.

    Attributes:
      images: (B, H, W, 3) uint8.
      boxes: (B, N, 4) float32, xyxy in pixels.
      classes: (B, N) int32, 0..K-1.
    """

    images: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


def make(batch: int, size: tuple[int, int], classes: int, seed: int = 0) -> Scene:
    """Boxes have sides from a twentieth to a half of the image's, evenly on a logarithmic scale."""
    rng = np.random.default_rng(seed)
    height, width = size
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.5), (batch, OBJECTS, 2)))
    sides *= (width, height)
    corner = rng.uniform(0, 1, sides.shape) * ((width, height) - sides)
    return Scene(
        images=rng.integers(0, 256, (batch, height, width, 3), np.uint8),
        boxes=np.concatenate([corner, corner + sides], -1).astype(np.float32),
        classes=rng.integers(0, classes, (batch, OBJECTS), np.int32),
    )


def batch_of(scene: Scene, *, instances: int, crowds: int, mask_size: int) -> Batch:
    """As jaxseg takes it: `instances` and `crowds` slots an image, mask crops of `mask_size`."""
    count, objects = scene.classes.shape
    if objects > instances:
        raise ValueError(
            f"The scene has {objects} objects an image, and data.max_instances is {instances}: at least "
            f"{objects} are needed."
        )

    def padded(x):
        return np.pad(x, ((0, 0), (0, instances - objects), *((0, 0),) * (x.ndim - 2)))

    disc = np.packbits(_ellipse(mask_size, mask_size), axis=-1)
    height, width = scene.images.shape[1:3]
    return Batch(
        images=scene.images,
        image_size=np.tile(np.asarray([height, width], np.float32), (count, 1)),
        valid=np.ones(count, bool),
        targets=Targets(
            boxes=padded(scene.boxes),
            classes=padded(scene.classes),
            valid=padded(np.ones((count, objects), bool)),
            masks=padded(np.broadcast_to(disc, (count, objects, *disc.shape))),
            crowd_boxes=np.zeros((count, crowds, 4), np.float32),
            crowd_valid=np.zeros((count, crowds), bool),
        ),
    )


def full_masks(scene: Scene, index: int) -> np.ndarray:
    """(N, H, W) uint8 of an image, as torchvision takes them."""
    masks = np.zeros((scene.boxes.shape[1], *scene.images.shape[1:3]), np.uint8)
    for mask, box in zip(masks, scene.boxes[index], strict=True):
        x1, y1, x2, y2 = np.round(box).astype(int)
        mask[y1:y2, x1:x2] = _ellipse(y2 - y1, x2 - x1)
    return masks


def _ellipse(height: int, width: int) -> np.ndarray:
    y, x = ((np.arange(n) + 0.5) / n * 2 - 1 for n in (height, width))
    return (y[:, None] ** 2 + x**2 <= 1).astype(np.uint8)
