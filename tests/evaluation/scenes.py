"""Ground truth and results of realistic shape, drawn: objects with holes and in parts, crowds, empty images, ties."""

import cv2
import numpy as np
from pycocotools import mask as mask_utils


def rle(mask):
    found = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def box_of(mask):
    ys, xs = np.nonzero(mask)
    x, y = xs.min(), ys.min()
    return [float(v) for v in (x, y, xs.max() + 1 - x, ys.max() + 1 - y)]


def blob(rng, size, largest=0.3):
    """A mask of (height, width): one ellipse or two, perhaps with a hole."""
    mask = np.zeros(size, np.uint8)
    for _ in range(rng.integers(1, 3)):
        center = tuple(int(rng.integers(0, n)) for n in size[::-1])
        axes = tuple(int(rng.integers(1, max(3, n * largest))) for n in size[::-1])
        cv2.ellipse(mask, center, axes, float(rng.integers(0, 180)), 0, 360, 1, -1)
        if rng.random() < 0.3:
            cv2.ellipse(mask, center, tuple(max(1, a // 2) for a in axes), 0, 0, 360, 0, -1)
    return mask.astype(bool)


def moved(rng, mask, most):
    """What a detector might see of it: shifted, grown or shrunk."""
    dy, dx = rng.integers(-most, most + 1, 2)
    side = int(rng.integers(1, 4))
    change = cv2.dilate if rng.random() < 0.5 else cv2.erode
    mask = change(np.roll(mask, (dy, dx), (0, 1)).astype(np.uint8), np.ones((side, side), np.uint8))
    return mask.astype(bool)


def entry(mask, image, category, **more):
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box_of(mask),
        "segmentation": rle(mask),
        **more,
    }


def scene(
    rng, *, images=12, classes=4, objects=6, crowds=0.1, noise=4, sizes=((90, 120), (64, 48))
):
    """(COCO ground truth, COCO results). Every fourth image has no objects, another fourth no detections."""
    truth = {
        "images": [
            dict(id=i, height=sizes[i % len(sizes)][0], width=sizes[i % len(sizes)][1])
            for i in range(1, images + 1)
        ],
        "categories": [dict(id=3 * k + 1, name=f"class {k}") for k in range(classes)],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        size, i = (image["height"], image["width"]), image["id"]
        masks = [blob(rng, size) for _ in range(0 if i % 4 == 0 else objects)]
        for mask in filter(np.any, masks):
            category = int(rng.integers(0, classes)) * 3 + 1
            crowd = int(rng.random() < crowds)
            made = entry(mask, i, category, iscrowd=crowd, area=int(mask.sum()))
            truth["annotations"].append(made | {"id": len(truth["annotations"]) + 1})
            for _ in range(0 if i % 4 == 1 else int(rng.integers(0, 4))):
                seen = moved(rng, mask, noise)
                if rng.random() < 0.2:
                    category = int(rng.integers(0, classes)) * 3 + 1
                if seen.any():
                    results.append(entry(seen, i, category, score=round(float(rng.random()), 1)))
        for mask in filter(np.any, (blob(rng, size, 0.15) for _ in range(2 * (i % 4 != 1)))):
            category = int(rng.integers(0, classes)) * 3 + 1
            results.append(entry(mask, i, category, score=round(float(rng.random()), 1)))
    return truth, results


def perfect(truth):
    """The objects, but no crowds, as detections."""
    return [
        {k: a[k] for k in ("image_id", "category_id", "bbox", "segmentation")} | {"score": 0.9}
        for a in truth["annotations"]
        if not a["iscrowd"]
    ]
