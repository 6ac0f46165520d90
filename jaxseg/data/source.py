"""What a data source is: images, their objects, and the classes' names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxseg.data import problems as problems_lib


@dataclasses.dataclass(frozen=True)
class Category:
    """A class: its id in the data set's own numbering (gaps allowed) and its name."""

    id: int
    name: str

    @property
    def unused(self) -> bool:
        """Whether it only fills a gap between ids and no object is of it: torchvision's "N/A" labels."""
        return self.name == "N/A" or self.name.startswith("N/A ")


@dataclasses.dataclass(frozen=True)
class ImageInfo:
    """What is known of an image without reading it. Sizes in pixels."""

    id: int
    file_name: str
    height: int
    width: int
    num_objects: int  # without crowds; 0 exactly for images without objects
    missing: bool = (
        False  # there is no such file: not trained on, and evaluation counts its objects as missed
    )


@dataclasses.dataclass(frozen=True)
class Instance:
    """One annotated object, in pixels of the image.

    `segmentation` is a tuple of polygons (each a float array x0, y0, x1, y1, ...) or a compressed
    RLE as pycocotools has it, {"size": [height, width], "counts": bytes}; None only for crowds.
    """

    class_index: int  # 0..K-1, the position in `Source.categories`
    box: Float[np.ndarray, "4"]  # xyxy, continuous coordinates, inside the image
    segmentation: tuple[np.ndarray, ...] | Mapping[str, Any] | None
    area: float
    crowd: bool


class ImageError(ValueError):
    """An image that cannot be used. `reason` is a phrase without the file's name."""

    def __init__(self, reason: str, path: str):
        super().__init__(f"{path}: {reason}")
        self.reason = reason
        self.path = path


@runtime_checkable
class Source(Protocol):
    """A random-access data set. It must be picklable: worker processes get a copy.

    A source may also have `image_classes(index)`, as the function below, where it knows that without making instances.
    """

    categories: tuple[Category, ...]
    infos: Sequence[ImageInfo]
    annotated: bool  # False: a split without annotations, only good for prediction
    problems: problems_lib.Problems  # objects that were skipped

    def __len__(self) -> int: ...

    def image(self, index: int) -> UInt8[np.ndarray, "H W 3"]:
        """The RGB image. Raises ImageError if it cannot be read."""
        ...

    def instances(self, index: int) -> list[Instance]:
        """Objects and crowds of the image."""
        ...

    def coco(self) -> dict[str, Any]:
        """The ground truth as a COCO dictionary (images, annotations, categories). Callers must not change it."""
        ...


def image_classes(source_: Source, index: int) -> Int[np.ndarray, "N"]:
    """The class index of each object and crowd of an image, in any order."""
    known = getattr(source_, "image_classes", None)
    if known is not None:
        return known(index)
    return np.array([item.class_index for item in source_.instances(index)], np.int32)
