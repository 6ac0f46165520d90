"""Drawing instances on images with NumPy and OpenCV: masks, outlines, boxes, class names, scores.

Images are RGB uint8 (H, W, 3). Small images are enlarged before drawing, so that lines and text
stay readable.
"""

from __future__ import annotations

import colorsys
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_MAX_LABELS = 24  # with more instances, only those with room for it get their label
_GAP = 6  # white pixels between pictures


@dataclasses.dataclass(frozen=True)
class Instances:
    """Objects of one image, in its pixels.

    boxes (N, 4) xyxy; classes (N,) indices; scores (N,) or None; masks: N of (H, W) bool, as an
    array or any sequence, or None.
    """

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None
    masks: Sequence[np.ndarray] | np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def draw(
    image: np.ndarray,
    instances: Instances,
    class_names: Sequence[str],
    *,
    side: int = 640,
    opacity: float = 0.45,
) -> np.ndarray:
    """Draws all instances, small ones over large ones.

    Args:
      image: (H, W, 3) uint8 RGB; stays unchanged.
      instances: what to draw.
      class_names: the name of each class index.
      side: images whose longer side is shorter than this are enlarged to it, at most 8 times.
      opacity: of the masks' colour.

    Returns:
      A new (H', W', 3) uint8 RGB picture.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"The image must be uint8 of shape (H, W, 3), got {image.dtype} {image.shape}."
        )
    zoom = min(max(side / max(image.shape[:2]), 1.0), 8.0)
    picture = enlarge(image, zoom)
    boxes = np.asarray(instances.boxes, np.float64).reshape(-1, 4) * zoom
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable")
    palette = colors(instances.classes, len(class_names))
    line = max(1, round(max(picture.shape[:2]) / 640))
    if instances.masks is not None:
        for i in order:
            _draw_mask(picture, np.asarray(instances.masks[i]), palette[i], opacity, line)
    for i in order:
        x0, y0, x1, y1 = np.round(boxes[i]).astype(int).tolist()
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), palette[i], 1, cv2.LINE_AA)
    labels = _Labels(picture, crowded=len(boxes) > _MAX_LABELS)
    for i in order[::-1]:  # the small ones choose their place first
        name = str(class_names[int(instances.classes[i])])
        score = "" if instances.scores is None else f"{float(instances.scores[i]):.2f}"
        texts = (f"{name} {score}", score) if score else (name,)
        any(labels.add(text, boxes[i], palette[i]) for text in texts)  # the longest that fits
    return picture


def side_by_side(
    image: np.ndarray,
    prediction: Instances,
    ground_truth: Instances,
    class_names: Sequence[str],
    *,
    titles: tuple[str, str] = ("prediction", "ground truth"),
    side: int = 640,
) -> np.ndarray:
    """Two pictures of one image beside each other, with titles that count the instances."""
    pictures = [
        titled(draw(image, instances, class_names, side=side), f"{title} ({len(instances)})")
        for title, instances in zip(titles, (prediction, ground_truth), strict=True)
    ]
    return grid(pictures, columns=2)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """Adds a line of text on white above a picture, which becomes as wide as the text."""
    scale = 0.55
    (width, _), _ = cv2.getTextSize(title, _FONT, scale, 1)
    (_, height), base = cv2.getTextSize("Ag", _FONT, scale, 1)  # the same for all titles of a row
    more = max(0, width + 8 - picture.shape[1])
    picture = np.pad(picture, ((0, 0), (0, more), (0, 0)), constant_values=255)
    bar = np.full((height + base + 8, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, height + 4), _FONT, scale, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def grid(pictures: Sequence[np.ndarray], columns: int | None = None) -> np.ndarray:
    """Pictures of any sizes in rows of `columns` (default: nearly square), on white."""
    if not len(pictures):
        raise ValueError("A grid needs at least one picture.")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(len(rows[0]))]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    size = (sum(heights) + _GAP * (len(rows) - 1), sum(widths) + _GAP * (len(widths) - 1))
    canvas = np.full((*size, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            y, x = sum(heights[:r]) + _GAP * r, sum(widths[:c]) + _GAP * c
            canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas


def enlarge(image: np.ndarray, zoom: float) -> np.ndarray:
    """A copy of (H, W) or (H, W, C), `zoom` times as large; pixels stay visible squares from 3
    times on.
    """
    if zoom == 1:
        return image.copy()
    size = (round(image.shape[1] * zoom), round(image.shape[0] * zoom))
    return cv2.resize(
        image, size, interpolation=cv2.INTER_NEAREST if zoom >= 3 else cv2.INTER_CUBIC
    )


def crop(image: np.ndarray, box: Sequence[float] | np.ndarray, side: int) -> np.ndarray:
    """What an (H, W, 3) uint8 image shows in a box (xyxy, may stick out: grey), its longer side `side` pixels."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    width, height = _tile(box, side)
    # Enlarged, every pixel of the tile is looked up; made smaller, several pixels are averaged afterwards.
    times = math.ceil(max(1.0, (x1 - x0) / width, (y1 - y0) / height))
    rows, columns = times * height, times * width
    scale_x, scale_y = (x1 - x0) / columns, (y1 - y0) / rows
    # Pixel centres lie at +0.5, in the tile as in the image.
    matrix = np.array([[scale_x, 0, x0 + (scale_x - 1) / 2], [0, scale_y, y0 + (scale_y - 1) / 2]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    grey = (128, 128, 128)
    tile = cv2.warpAffine(image, matrix, (columns, rows), flags=flags, borderValue=grey)
    return cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA)


def heat(values: np.ndarray, box: Sequence[float] | np.ndarray, side: int) -> np.ndarray:
    """A map (h, w) of numbers from 0 (dark) to 1 (bright) over a box, as large as its `crop`; cells stay visible."""
    colored = cv2.applyColorMap(
        np.round(255 * np.clip(values, 0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS
    )
    return cv2.resize(colored[..., ::-1], _tile(box, side), interpolation=cv2.INTER_NEAREST)


def _tile(box: Sequence[float] | np.ndarray, side: int) -> tuple[int, int]:
    """(width, height) of a picture of a box."""
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    zoom = side / max(x1 - x0, y1 - y0)
    return max(1, round((x1 - x0) * zoom)), max(1, round((y1 - y0) * zoom))


def colors(classes: Sequence[int] | np.ndarray, num_classes: int) -> list[tuple[int, int, int]]:
    """An RGB colour for each instance; the same input gives the same colours.

    A class has its hue, its instances differ in lightness; with a single class each instance has a
    hue.
    """
    found = []
    for i, c in enumerate(np.asarray(classes).tolist()):
        key = i if num_classes <= 1 else int(c)
        hue = (0.04 + key * 0.61803398875) % 1.0  # golden ratio: neighbours are far apart
        lightness = (0.5, 0.62, 0.42)[(key // 8 if num_classes <= 1 else i) % 3]
        rgb = colorsys.hls_to_rgb(hue, lightness, 0.95)
        found.append(tuple(round(255 * value) for value in rgb))
    return found


def png(picture: np.ndarray) -> bytes:
    """A picture as PNG, e.g. for a notebook."""
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def write_image(path: str | os.PathLike, picture: np.ndarray) -> pathlib.Path:
    """Writes a picture as PNG or JPEG, by the name's ending, and makes its folder.

    Raises:
      ValueError: another ending.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"Cannot write a picture to {str(path)!r}: use .png, .jpg or .jpeg.")
    path.parent.mkdir(parents=True, exist_ok=True)
    data = cv2.imencode(path.suffix.lower(), picture[..., ::-1])[1]
    path.write_bytes(data.tobytes())
    return path


def _draw_mask(picture: np.ndarray, mask: np.ndarray, color, opacity: float, line: int) -> None:
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    if not w:
        return
    scale_y, scale_x = (p / m for p, m in zip(picture.shape, mask.shape, strict=False))
    x0, y0 = round(x * scale_x), round(y * scale_y)
    x1, y1 = max(round((x + w) * scale_x), x0 + 1), max(round((y + h) * scale_y), y0 + 1)
    part = mask[y : y + h, x : x + w].astype(np.float32)
    if (x1 - x0, y1 - y0) != (w, h):  # enlarged: smooth the steps
        part = cv2.resize(part, (x1 - x0, y1 - y0), interpolation=cv2.INTER_LINEAR)
    part = part >= 0.5
    view = picture[y0:y1, x0:x1]
    view[part] = (view[part] * (1 - opacity) + np.array(color) * opacity).astype(np.uint8)
    outline, _ = cv2.findContours(
        part.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x0, y0)
    )
    cv2.drawContours(picture, outline, -1, color, line, cv2.LINE_AA)


class _Labels:
    """Puts labels on a picture where they cover no other label, if there is such a place."""

    def __init__(self, picture: np.ndarray, *, crowded: bool):
        self._picture = picture
        self._crowded = crowded
        self._scale = 0.4 * max(1.0, max(picture.shape[:2]) / 900)
        self._taken: list[tuple[int, int, int, int]] = []

    def add(self, text: str, box: np.ndarray, color: tuple[int, int, int]) -> bool:
        """Whether there was a place; in a picture that is not crowded there always is."""
        (width, height), base = cv2.getTextSize(text, _FONT, self._scale, 1)
        width, height = width + 4, height + base + 2
        if self._crowded and (width > box[2] - box[0] or 2 * height > box[3] - box[1]):
            return False
        places = [self._place(x, y, width, height) for x, y in self._wishes(box, width, height)]
        free = [place for place in places if not any(_overlap(place, t) for t in self._taken)]
        if self._crowded and not free:
            return False
        x, y = (free or places)[0][:2]
        self._taken.append((x, y, x + width, y + height))
        cv2.rectangle(self._picture, (x, y), (x + width - 1, y + height - 1), color, -1)
        bright = np.dot(color, (0.299, 0.587, 0.114)) > 140
        ink = (0, 0, 0) if bright else (255, 255, 255)
        origin = (x + 2, y + height - base)
        cv2.putText(self._picture, text, origin, _FONT, self._scale, ink, 1, cv2.LINE_AA)
        return True

    def _wishes(self, box: np.ndarray, width: int, height: int) -> list[tuple[float, float]]:
        """Above the box, in its top, below it, in its bottom; first at its left, then at its right."""
        x0, y0, x1, y1 = box.tolist()
        rows = (y0 - height, y0, y1, y1 - height)
        if self._crowded:
            rows = rows[1::2]
        return [(x, y) for x in (x0, x1 - width) for y in rows]

    def _place(self, x: float, y: float, width: int, height: int) -> tuple[int, int, int, int]:
        x = round(max(min(x, self._picture.shape[1] - width), 0))
        y = round(max(min(y, self._picture.shape[0] - height), 0))
        return x, y, x + width, y + height


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
