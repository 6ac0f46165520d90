"""The source `shapes`: drawn scenes for demos and tests that need no download.

As a command it writes them as a COCO data set: `python -m jaxseg.data.shapes --out=DIR --train=200 --val=50`.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import os
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, UInt8
from pycocotools import mask as mask_utils

from jaxseg.data import problems as problems_lib
from jaxseg.data import settings, source
from jaxseg.data import shapes_drawing as drawing

_SPLITS = {"train": 0, "val": 1}
_EMPTY = 0.04  # share of scenes without objects
_SIDE = (0.1, 1.0)  # an object's diameter, in parts of the scene's shorter side
HUDDLED = 0.35
_MIN_VISIBLE = 0.35  # an object stays in sight at least this much
_INSIDE = 0.6  # an object's centre is this far inside the scene, in parts of its radius
_MIN_PIXELS = 12
_TRIES = 20
_CACHED = 4


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn scene: the picture, and each object's class and visible mask."""

    image: UInt8[np.ndarray, "H W 3"]
    classes: tuple[int, ...]
    masks: tuple[Bool[np.ndarray, "H W"], ...]


class Shapes:
    """Scenes of textured discs, squares, triangles, rings, stars and crosses, see `source.Source`.

    A scene is a pure function of (seed, split, index) and drawn when it is asked for. Objects overlap and
    huddle; a mask is what is visible, so rings and covered objects have holes. Diameters are drawn from 10% to
    100% of the shorter side: with sides of 128 pixels and more there are small, medium and large objects by COCO's
    measure. Some scenes are empty.

    Args:
      count: number of scenes.
      size: smallest and largest side in pixels; height and width are drawn apart.
      objects: fewest and most objects in a scene that is not empty.
      seed: another seed gives other scenes.
      split: "train" or "val".
      huddled: share of objects that are put beside the one before, touching or overlapping it.
    """

    annotated = True

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        objects: tuple[int, int],
        seed: int,
        split: str,
        huddled: float = HUDDLED,
    ):
        self.categories = tuple(source.Category(i + 1, n) for i, n in enumerate(drawing.NAMES))
        self.problems = problems_lib.Problems()
        self._size, self._objects, self._huddled = tuple(size), tuple(objects), huddled
        self._key = (seed, _SPLITS[split])
        self.infos = tuple(self._info(index) for index in range(count))
        self._cache: collections.OrderedDict[int, Scene] = collections.OrderedDict()
        self._truth: dict[str, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": collections.OrderedDict(), "_truth": None}

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(seed=[*self._key, index, stream]))

    def _info(self, index: int) -> source.ImageInfo:
        rng = self._rng(index, 0)
        height, width = map(int, rng.integers(self._size[0], self._size[1] + 1, 2))
        count = int(rng.integers(self._objects[0], self._objects[1] + 1))
        count = 0 if rng.random() < _EMPTY else count
        return source.ImageInfo(index + 1, f"{index + 1:06d}.png", height, width, count)

    def __len__(self) -> int:
        return len(self.infos)

    def scene(self, index: int) -> Scene:
        """Draws scene `index`; the last few are kept."""
        if index not in self._cache:
            self._cache[index] = _draw(self.infos[index], self._rng(index, 1), self._huddled)
            while len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return self._cache[index]

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        return self.scene(index).image

    def instances(self, index: int) -> list[source.Instance]:
        scene = self.scene(index)
        return [
            source.Instance(cls, drawing.extent(mask), _rle(mask), float(mask.sum()), False)
            for cls, mask in zip(scene.classes, scene.masks, strict=True)
        ]

    def coco(self) -> dict[str, Any]:
        if self._truth is None:
            self._truth = self._draw_truth()
        return self._truth

    def _draw_truth(self) -> dict[str, Any]:
        annotations = []
        for index, info in enumerate(self.infos):
            for item in self.instances(index):
                x0, y0, x1, y1 = map(float, item.box)
                counts = item.segmentation["counts"].decode("ascii")
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": info.id,
                        "category_id": self.categories[item.class_index].id,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": item.area,
                        "iscrowd": 0,
                        "segmentation": {"size": [info.height, info.width], "counts": counts},
                    }
                )
        keys = ("id", "file_name", "height", "width")
        return {
            "info": {"description": "drawn scenes"},
            "images": [{key: getattr(info, key) for key in keys} for info in self.infos],
            "annotations": annotations,
            "categories": [dataclasses.asdict(category) for category in self.categories],
        }


def open_split(config: Any, split: str) -> Shapes:
    """Opens `config.data.shapes`; raises ValueError for an unknown split or impossible values."""
    if split not in _SPLITS:
        raise ValueError(
            f"Unknown split {split!r} of the source shapes: allowed are train and val."
        )
    settings.check_shapes(config)
    if config[split] < 1:
        raise ValueError(
            f"data.shapes.{split}={config[split]}: the number of scenes must be at least 1."
        )
    return Shapes(
        config[split],
        config.size,
        config.objects,
        config.seed,
        split,
        config.get("huddled", HUDDLED),
    )


def _rle(mask: np.ndarray) -> dict[str, Any]:
    return mask_utils.encode(np.asfortranarray(mask, np.uint8))


def _draw(info: source.ImageInfo, rng: np.random.Generator, huddled: float) -> Scene:
    image = drawing.background(rng, info.height, info.width)
    owner = np.full((info.height, info.width), -1, np.int16)  # which object is seen at a pixel
    classes: list[int] = []
    visible = least = np.zeros(
        0, np.int64
    )  # pixels of each object: in sight, and at least to stay so
    last = None
    for radius in _radii(rng, info):
        for attempt in range(_TRIES):
            shape = _place(rng, info, last, float(radius) * 0.9**attempt, huddled)
            window, inside = drawing.silhouette(shape, info.height, info.width)
            loss = _loss(owner[window], inside, len(classes))
            if inside.sum() >= _MIN_PIXELS and np.all(visible - loss >= least):
                break
        else:
            continue
        drawing.paint(rng, image[window], inside, shape)
        owner[window][inside] = len(classes)
        classes.append(shape.class_index)
        area = int(inside.sum())
        visible = np.append(visible - loss, area)
        least = np.append(least, max(_MIN_PIXELS, _MIN_VISIBLE * area))
        last = shape
    masks = tuple(owner == number for number in range(len(classes)))
    return Scene(drawing.finish(rng, image), tuple(classes), masks)


def _radii(rng: np.random.Generator, info: source.ImageInfo) -> np.ndarray:
    """Draws the objects' radii, by and large the biggest first: they would cover what is there already."""
    low, high = np.log(_SIDE)
    radii = 0.5 * min(info.height, info.width) * np.exp(rng.uniform(low, high, info.num_objects))
    return radii[np.argsort(-radii * np.exp(rng.normal(0, 0.7, radii.size)))]


def _place(
    rng: np.random.Generator,
    info: source.ImageInfo,
    last: drawing.Shape | None,
    radius: float,
    huddled: float,
) -> drawing.Shape:
    """Draws all of an object but its radius. `last` is the one that it may be put beside."""
    radius = max(3.5, radius)
    sides = np.array((info.height, info.width))
    margin = np.minimum(_INSIDE * radius, sides / 2)
    centre = margin + rng.uniform(0, 1, 2) * (sides - 2 * margin)
    if last is not None and rng.random() < huddled:
        angle = rng.uniform(0, 2 * np.pi)
        distance = (radius + last.radius) * rng.uniform(0.7, 1.0)
        beside = np.array(last.centre) + distance * np.array((np.sin(angle), np.cos(angle)))
        centre = np.clip(beside, 0, sides)
    return drawing.Shape(
        class_index=int(rng.integers(len(drawing.NAMES))),
        centre=(float(centre[0]), float(centre[1])),
        radius=radius,
        angle=float(rng.uniform(0, 2 * np.pi)),
        stretch=float(rng.uniform(0.8, 1.0)),
    )


def _loss(owner: np.ndarray, inside: np.ndarray, count: int) -> np.ndarray:
    """How many visible pixels each of the `count` objects loses to a new one; `owner` is its window."""
    return np.bincount(owner[inside] + 1, minlength=count + 1)[1:]


def write(source_: Shapes, folder: str, split: str, image_format: str = "png") -> None:
    """Writes scenes as `folder/split/*.png` and `folder/annotations/instances_split.json`."""
    os.makedirs(os.path.join(folder, split), exist_ok=True)
    os.makedirs(os.path.join(folder, "annotations"), exist_ok=True)
    data = source_.coco()
    entries = []
    for index, info in enumerate(data["images"]):
        name = os.path.splitext(info["file_name"])[0] + "." + image_format
        entries.append(entry := {**info, "file_name": name})
        path = os.path.join(folder, split, entry["file_name"])
        if not cv2.imwrite(path, cv2.cvtColor(source_.image(index), cv2.COLOR_RGB2BGR)):
            raise OSError(f"Cannot write {path}.")
    with open(os.path.join(folder, "annotations", f"instances_{split}.json"), "w") as file:
        json.dump({**data, "images": entries}, file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=200, help="scenes of the split train")
    parser.add_argument("--val", type=int, default=50, help="scenes of the split val")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 160), metavar=("MIN", "MAX"))
    parser.add_argument("--objects", type=int, nargs=2, default=(1, 8), metavar=("MIN", "MAX"))
    parser.add_argument("--huddled", type=float, default=HUDDLED, help="share put side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--format", choices=("png", "jpg"), default="png")
    args = parser.parse_args()
    try:
        settings.check_shapes(vars(args), prefix="--")
        if not args.train and not args.val:
            raise ValueError("--train=0 --val=0: nothing to write.")
    except ValueError as error:
        parser.error(str(error))
    for split in _SPLITS:
        count = getattr(args, split)
        if count:
            scenes = Shapes(count, args.size, args.objects, args.seed, split, args.huddled)
            write(scenes, args.out, split, args.format)
            print(f"{count} scenes in {os.path.join(args.out, split)}")


if __name__ == "__main__":
    main()
