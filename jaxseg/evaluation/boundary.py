"""Boundary IoU: how well two masks agree along their outlines.

Cheng et al., Boundary IoU: improving object-centric image segmentation evaluation, CVPR 2021. The boundary of a mask is
what an erosion by d pixels takes away, d = 0.02 of the image's diagonal; the IoU of a detection and an object is the
smaller one of that of their masks and that of their boundaries. A crowd has no outline: there it is that of the masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from jaxseg.data import rle as rle_lib
from jaxseg.evaluation import results

RATIO = 0.02


def width(size: Sequence[int], ratio: float = RATIO) -> int:
    """The pixels that a boundary is wide in an image of (height, width): at least 1."""
    return max(1, round(ratio * float(np.hypot(*size))))


def boundary(rle: Mapping[str, Any], ratio: float = RATIO) -> dict:
    """The pixels of a mask within `width` steps, diagonal ones too, of its outside; beyond the image all is outside.

    Args:
      rle: compressed RLE.
      ratio: of the image's diagonal.

    Returns:
      Compressed RLE, with str counts.
    """
    size = (int(rle["size"][0]), int(rle["size"][1]))
    x, y, columns, rows = (int(v) for v in mask_utils.toBbox(rle))
    # Only the box is eroded: around it there is nothing that could hold the erosion up. OpenCV takes pixels beyond an
    # array for set, hence the frame of zeros.
    counts = rle["counts"].encode() if isinstance(rle["counts"], str) else rle["counts"]
    across = rle_lib.decode_columns({"size": size, "counts": counts}, x, x + columns)
    region = np.ascontiguousarray(across[y : y + rows].T)
    framed = np.pad(region, 1)
    side = 2 * width(size, ratio) + 1
    if min(framed.shape) > side:  # else nothing is left of it
        eroded = cv2.erode(framed, np.ones((side, side), np.uint8))
        region = region - eroded[1:-1, 1:-1]
    return results.region_rle(x, y, region.astype(bool), size)


def limited(
    ious: np.ndarray,
    detections: Sequence[Mapping[str, Any]],
    objects: Sequence[Mapping[str, Any]],
    crowd: Sequence[int],
    *,
    least: float = 0.0,
    ratio: float = RATIO,
) -> np.ndarray:
    """Mask IoUs -> the smaller one of them and the boundaries' IoUs.

    Args:
      ious: (D, G), of masks.
      detections: D masks, compressed RLE.
      objects: G masks.
      crowd: (G,), not 0 for crowds, whose IoUs stay.
      least: IoUs of masks below it stay as they are, which saves most of the work: no smaller one could match either.
      ratio: as of `boundary`.
    """
    pairs = (ious >= least) & ~np.asarray(crowd, bool)
    rows, columns = np.flatnonzero(pairs.any(1)), np.flatnonzero(pairs.any(0))
    if not rows.size:
        return ious
    found = [boundary(detections[i], ratio) for i in rows]
    wanted = [boundary(objects[i], ratio) for i in columns]
    edges = np.full_like(ious, np.inf)
    edges[np.ix_(rows, columns)] = mask_utils.iou(found, wanted, [0] * len(wanted))
    return np.where(pairs, np.minimum(ious, edges), ious)


def evaluator(base: type) -> type:
    """COCOeval, that of pycocotools or of faster-coco-eval, for Boundary AP. Masks must be compressed RLEs."""

    class BoundaryEval(base):
        def computeIoU(self, imgId: int, catId: int) -> Any:
            ious = super().computeIoU(imgId, catId)
            if not len(ious):
                return ious
            objects, found = self._of(imgId, catId)
            order = np.argsort([-d["score"] for d in found], kind="mergesort")  # as in `ious`
            return limited(
                np.asarray(ious),
                [found[i]["segmentation"] for i in order[: len(ious)]],
                [o["segmentation"] for o in objects],
                [o["iscrowd"] for o in objects],
                least=float(self.params.iouThrs.min()) - 1e-6,
            )

        def _of(self, image: int, category: int) -> tuple[list[dict], list[dict]]:
            if hasattr(self, "gt_dataset"):  # faster-coco-eval
                pair = (self.gt_dataset, self.dt_dataset)
                return tuple(d.get_instances([image], [category], True)[0][0] for d in pair)
            return self._gts[image, category], self._dts[image, category]

    return BoundaryEval
