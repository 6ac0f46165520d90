"""A trained model for programs and notebooks: an image in, instances in the image's own pixels out.

predictor = jaxseg.Predictor.from_workdir("runs/demo")
prediction = predictor("photo.jpg")
prediction.boxes, prediction.scores, prediction.class_names, prediction.masks
prediction.save("overlay.png")
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxseg import methods, visualization
from jaxseg.data import geometry, views
from jaxseg.data import images as images_lib
from jaxseg.evaluation import results as results_lib
from jaxseg.modeling import mask_head
from jaxseg.structures import Batch, Detections, Views
from jaxseg.training import checkpoints, sharding
from jaxseg.training import step as step_lib
from jaxseg.training import workdir as workdir_lib


class Predictor:
    """Detects instances in single images. One compilation for each of the config's buckets."""

    def __init__(
        self,
        detect: Callable[[Batch | Views], Detections],
        config: ConfigDict,
        categories: Sequence[Any],
        *,
        score_threshold: float = 0.5,
    ):
        """Args:
        detect: maps a batch of one image to detections in pixels of the network input, of the first view if
          `config.eval.tta` asks for several.
        config: the whole config of the run; `data`, `eval.tta` and `model.test` are used.
        categories: `id` and `name` of each class index.
        score_threshold: detections below it are left out.

        Raises:
          ValueError: the threshold is not in [0, 1], or `config.eval.tta` is without sense.
        """
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold={score_threshold!r}: it must be from 0 to 1.")
        self.config = config
        self.categories = tuple(categories)
        self.score_threshold = score_threshold
        self._views = views.of(config)
        self._detect = detect

    @classmethod
    def from_workdir(
        cls,
        workdir: str | os.PathLike,
        step: str | int = "latest",
        *,
        score_threshold: float = 0.5,
        maps: bool = False,
        tta_scales: Sequence[int | float] | None = None,
        tta_flip: bool | None = None,
    ) -> Predictor:
        """Restores a run from its work directory; nothing else is needed, not even its data.

        Args:
          workdir: what `train.py --workdir` was given.
          step: "latest", "best" (by validation AP) or a step's number.
          score_threshold: see `Predictor`.
          maps: also gives predictions all maps of the mask head, for `Prediction.plot_maps`.
          tta_scales, tta_flip: test-time augmentation, as `eval.tta` in configs/common; None: as the run's config says.

        Raises:
          FileNotFoundError: there is no run or no checkpoint.
          ValueError: no such step, or views without sense.
        """
        run, _ = workdir_lib.load_run(workdir)
        views.with_asked(run, tta_scales, tta_flip)  # a mistake is told before anything is read
        config, categories, variables, _ = checkpoints.restore_for_eval(workdir, step)
        config = views.with_asked(config, tta_scales, tta_flip)
        mesh = sharding.make_mesh(jax.local_devices()[:1])  # a single image cannot be split
        detect = step_lib.make_detect(methods.build(config), mesh, maps=maps)
        variables = jax.device_put(variables, sharding.replicated(mesh))
        return cls(
            functools.partial(detect, variables),
            config,
            categories,
            score_threshold=score_threshold,
        )

    def __call__(self, image: Any) -> Prediction | list[Prediction]:
        """Detects in one image, or in each of a list.

        Args:
          image: RGB uint8 (H, W, 3), the path of an image file, or a list of these.

        Raises:
          ValueError: an array that is no such image, or a file that cannot be read.
        """
        if isinstance(image, list | tuple):
            return [self(one) for one in image]
        pixels = load(image)
        batch = self._batch(pixels)
        found = jax.device_get(self._detect(batch))
        keep = np.asarray(found.valid[0]) & (np.asarray(found.scores[0]) >= self.score_threshold)
        size = pixels.shape[:2]
        boxes = results_lib.to_original(found.boxes[0][keep], batch.image_size[0], size)
        inside = results_lib.clip(boxes, size)
        inside = (inside[:, 2:] > inside[:, :2]).all(axis=1)
        return Prediction(
            image=pixels,
            mask_boxes=boxes[inside],
            scores=np.asarray(found.scores[0])[keep][inside],
            classes=np.asarray(found.classes[0])[keep][inside],
            probabilities=np.asarray(found.masks[0], np.float32)[keep][inside],
            categories=self.categories,
            mask_threshold=self.config.model.test.mask_threshold,
            paste=self.config.model.test.paste,
            maps={
                name: np.asarray(values[0], np.float32)[keep][inside]
                for name, values in found.maps.items()
            },
        )

    def _batch(self, pixels: np.ndarray) -> Batch | Views:
        """The image as evaluation shows it to the network: resized and padded into its bucket, in every view."""
        bucket = views.bucket_of(self.config, pixels.shape[:2])
        batches = [self._view(pixels, view, bucket) for view in self._views]
        if len(batches) == 1:
            return batches[0]
        return Views(tuple(batches), tuple(view.flip for view in self._views))

    def _view(self, pixels: np.ndarray, view: views.View, bucket: int) -> Batch:
        place = view.place(pixels.shape[:2], bucket)
        height, width = place.size
        images = np.zeros((1, *view.buckets[bucket], 3), geometry.dtype(view.resize))
        images[0, :height, :width] = place.image(pixels)
        return Batch(images, np.array([place.size], np.float32), np.ones(1, bool))


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Prediction:
    """The instances of one image, best first, in its pixels.

    scores (n,) float32; classes (n,) int, indices into `categories`; probabilities (n, h, w)
    float32, the masks as the network gives them, over mask_boxes (n, 4), which may stick out of the
    image. `maps` has all maps of the mask head, such as P, T and B of ATMask R-CNN, of the form of `probabilities`, if
    the predictor was asked for them.
    """

    image: np.ndarray
    mask_boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    categories: tuple[Any, ...]
    mask_threshold: float = 0.5
    paste: str = "continuous"
    maps: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        height, width = self.image.shape[:2]
        names = ", ".join(self.class_names[:10])
        return f"Prediction({len(self)} instances in {height} x {width}: {names})"

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) float32 xyxy, within the image."""
        return results_lib.clip(self.mask_boxes, self.image.shape[:2]).astype(np.float32)

    @property
    def class_names(self) -> list[str]:
        """The class name of each instance."""
        return [self.categories[int(c)].name for c in self.classes]

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """(n, H, W) bool, pasted at the first use. `mask(i)` needs less memory."""
        masks = np.zeros((len(self), *self.image.shape[:2]), bool)
        for i in range(len(self)):
            masks[i] = self.mask(i)
        return masks

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool of one instance."""
        size = self.image.shape[:2]
        x, y, region = results_lib.paste_region(
            self.probabilities[index],
            self.mask_boxes[index],
            size,
            self.mask_threshold,
            self.paste,
        )
        mask = np.zeros(size, bool)
        mask[y : y + region.shape[1], x : x + region.shape[0]] = region.T
        return mask

    def plot(self, *, side: int = 640) -> np.ndarray:
        """The image with its instances drawn on it, RGB; small images are enlarged to `side`."""
        found = visualization.Instances(self.boxes, self.classes, self.scores, _Masks(self))
        names = [category.name for category in self.categories]
        return visualization.draw(self.image, found, names, side=side)

    def save(self, path: str | os.PathLike, *, side: int = 640) -> pathlib.Path:
        """Writes `plot` to a .png or .jpg file."""
        return visualization.write_image(path, self.plot(side=side))

    def plot_maps(self, indices: Sequence[int] | None = None, *, side: int = 160) -> np.ndarray:
        """A row for each of some instances (default: all): what its box shows, its maps, its mask. RGB.

        Raises:
          ValueError: no instances; or no maps, for which the predictor was not asked.
          IndexError: no such instance.
        """
        if not self.maps:
            raise ValueError(
                "This prediction has no maps: make its predictor with from_workdir(..., maps=True)."
            )
        chosen = range(len(self)) if indices is None else indices
        return visualization.grid([self._maps_row(i, side) for i in chosen], columns=1)

    def _maps_row(self, index: int, side: int) -> np.ndarray:
        box, name = self.mask_boxes[index], self.class_names[index]
        crop = functools.partial(visualization.crop, box=box, side=side)
        tiles = {
            f"{index}: {name} {self.scores[index]:.2f}": crop(self.image),
            **{
                key: visualization.heat(self.maps[key][index], box=box, side=side)
                for key in sorted(self.maps, key=mask_head.MAPS.index)
            },
            "mask": crop(np.repeat(np.uint8(255) * self.mask(index)[..., None], 3, axis=2)),
        }
        pictures = [visualization.titled(tile, title) for title, tile in tiles.items()]
        return visualization.grid(pictures, columns=len(pictures))

    def to_coco(self, image_id: int) -> list[dict]:
        """COCO results: image_id, category_id, score, bbox (x, y, width, height), segmentation
        (RLE).
        """
        size = self.image.shape[:2]
        return results_lib.image_results(
            self.mask_boxes,
            self.scores,
            self.classes,
            self.probabilities,
            image_id=image_id,
            image_size=size,
            original_size=size,
            category_ids=[category.id for category in self.categories],
            mask_threshold=self.mask_threshold,
            paste=self.paste,
        )

    def _repr_png_(self) -> bytes:
        return visualization.png(self.plot())


class _Masks(Sequence):
    """The masks of a prediction, pasted one at a time."""

    def __init__(self, prediction: Prediction):
        self._prediction = prediction

    def __len__(self) -> int:
        return len(self._prediction)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._prediction.mask(index)


def load(image: np.ndarray | str | os.PathLike) -> np.ndarray:
    """An RGB uint8 (H, W, 3) array as it is, or the image of a file with its EXIF rotation applied.

    Raises:
      ValueError: an array that is no such image, or a file that is missing or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        return images_lib.read(os.fspath(image))
    if not isinstance(image, np.ndarray):
        raise ValueError(f"An image is an array or a path, got a {type(image).__name__}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(
            f"An image must be RGB uint8 of shape (H, W, 3), got {image.dtype} {image.shape}. "
            "For a grey image: np.repeat(image[..., None], 3, axis=2); for values from 0 to 1: "
            "(image * 255).astype(np.uint8)."
        )
    return image
