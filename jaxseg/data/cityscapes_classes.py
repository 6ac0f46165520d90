"""Cityscapes' classes with instances: those that its official scripts evaluate."""

from __future__ import annotations

# (label id, name) as in cityscapesscripts' labels.py. 29 (caravan) and 30 (trailer) have instances, too, but are void.
CLASSES = (
    (24, "person"),
    (25, "rider"),
    (26, "car"),
    (27, "truck"),
    (28, "bus"),
    (31, "train"),
    (32, "motorcycle"),
    (33, "bicycle"),
)
