"""Masks as PNG files of one bit a pixel."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

FOLDER = "masks"


def write(path: pathlib.Path, rle: Mapping[str, Any]) -> bool:
    """Writes a compressed RLE as a PNG, 0 and 255; returns False, and writes nothing, where it is empty."""
    mask = mask_utils.decode(rle)
    if not mask.any():
        return False
    done, data = cv2.imencode(".png", mask * np.uint8(255), [cv2.IMWRITE_PNG_BILEVEL, 1])
    if not done:
        raise OSError("a mask could not be encoded as PNG")
    path.write_bytes(data.tobytes())
    return True


def fault(path: pathlib.Path, size: tuple[int, int]) -> tuple[str, bool]:
    """What is wrong with a mask file, "" where nothing is, and whether it is empty.

    Args:
      path: the file.
      size: (height, width) that it must have.
    """
    data = np.fromfile(path, np.uint8)
    if data[:8].tobytes() != b"\x89PNG\r\n\x1a\n":
        return "is no PNG file", False
    mask = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if mask is None:
        return "is a damaged PNG file", False
    if mask.ndim != 2:
        return f"has {mask.shape[2]} channels; one is needed", False
    if mask.shape != size:
        return (
            f"is {mask.shape[0]} x {mask.shape[1]} pixels (height x width), its image {size[0]} x {size[1]}",
            False,
        )
    covered = cv2.countNonZero(mask)
    if covered != np.count_nonzero(mask == mask.max()) and covered:
        return "has several values besides 0; a mask has one", False
    return "", not covered
