"""The classes of published models, by the names that this package uses; the table is that of the data sets."""

from __future__ import annotations

from jaxseg.data.coco_classes import COCO80, TORCHVISION90

__all__ = ["COCO80", "TORCHVISION90"]
