"""How the scenes of `shapes` are drawn: silhouettes, textures, backgrounds. Coordinates are (row, column)."""

from __future__ import annotations

import colorsys
import dataclasses

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

NAMES = ("disc", "square", "triangle", "ring", "star", "cross")
_HUES = (0.0, 0.14, 0.33, 0.5, 0.66, 0.83)  # a class tends to its hue, but a third has any
_ANY_HUE = 0.35


@dataclasses.dataclass(frozen=True)
class Shape:
    """An object: its class, centre (row, column) and radius in pixels, rotation, and ratio of its axes."""

    class_index: int
    centre: tuple[float, float]
    radius: float
    angle: float
    stretch: float


def silhouette(
    shape: Shape, height: int, width: int
) -> tuple[tuple[slice, slice], Bool[np.ndarray, "h w"]]:
    """The window of the scene that the object touches, and which of its pixels (by their centres) are inside."""
    reach = shape.radius + 1
    rows = _window(shape.centre[0], reach, height)
    columns = _window(shape.centre[1], reach, width)
    y = (np.arange(rows.start, rows.stop) + 0.5 - shape.centre[0])[:, None] / shape.radius
    x = (np.arange(columns.start, columns.stop) + 0.5 - shape.centre[1])[None] / shape.radius
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    u, v = cos * x + sin * y, (cos * y - sin * x) / shape.stretch
    return (rows, columns), _inside(NAMES[shape.class_index], u, v)


def _window(centre: float, reach: float, limit: int) -> slice:
    start = min(max(int(centre - reach), 0), limit)
    return slice(start, max(min(int(centre + reach) + 1, limit), start))


def _inside(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    squared = u * u + v * v
    if name == "disc":
        return squared <= 1
    if name == "ring":
        return (squared <= 1) & (squared >= 0.3)
    if name == "square":
        return np.maximum(abs(u), abs(v)) <= 0.75
    if name == "cross":
        return (np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 0.95)
    if name == "triangle":
        return (v <= 0.5) & (abs(u) * np.sqrt(3) - v <= 1)
    # A star of five points: each tenth of the circle is bounded by one line from point to notch.
    sector = abs((np.arctan2(v, u) % (2 * np.pi / 5)) - np.pi / 5)
    radius = np.sqrt(squared)
    tip, notch = np.pi / 5, 0.42
    along, across = radius * np.cos(sector), radius * np.sin(sector)
    tip_along, tip_across = np.cos(tip), np.sin(tip)
    return (along - notch) * tip_across - across * (tip_along - notch) <= 0


def extent(mask: Bool[np.ndarray, "H W"]) -> Float[np.ndarray, "4"]:
    """The box xyxy that encloses a mask which is not empty; right and bottom edges are exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), np.float32)


def background(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "H W 3"]:
    """A dull, cloudy surface with a faint texture, values about 0..1."""
    coarse = rng.uniform(-1, 1, (5, 5, 3)).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    colour = _colour(rng.uniform(), rng.uniform(0.05, 0.35), rng.uniform(0.25, 0.75))
    texture = _texture(rng, np.arange(height)[:, None], np.arange(width)[None])
    return colour + 0.08 * clouds + 0.06 * texture[..., None]


def paint(
    rng: np.random.Generator,
    window: Float[np.ndarray, "h w 3"],
    inside: Bool[np.ndarray, "h w"],
    shape: Shape,
) -> None:
    """Paints the object into its window of the scene, in place: a colour, a texture, a darker outline."""
    hue = _HUES[shape.class_index] + rng.normal(0, 0.03)
    hue = rng.uniform() if rng.random() < _ANY_HUE else hue
    colour = _colour(hue % 1, rng.uniform(0.55, 0.95), rng.uniform(0.5, 0.95))
    rows, columns = np.indices(inside.shape, np.float32)
    texture = _texture(rng, rows, columns)
    shade = 1 + rng.uniform(0.05, 0.2) * texture
    shade += 0.15 * (columns - rows) / max(shape.radius * 2, 1) * rng.choice((-1, 1))
    core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)
    shade = np.where(core > 0, shade, 0.7 * shade)
    window[inside] = (shade[..., None] * colour)[inside]


def finish(
    rng: np.random.Generator, image: Float[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """A little blur and noise, as a camera would give."""
    image = cv2.GaussianBlur(image, (3, 3), 0.6)
    image = image + rng.normal(0, 0.015, image.shape)
    return np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)


def _colour(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


def _texture(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Plain, stripes, checks, dots or grain; values -1..1, of the broadcast shape."""
    kind = rng.integers(5)
    angle, period = rng.uniform(0, np.pi), rng.uniform(3, 9)
    a = (np.cos(angle) * columns + np.sin(angle) * rows) * (2 * np.pi / period)
    b = (np.cos(angle) * rows - np.sin(angle) * columns) * (2 * np.pi / period)
    if kind == 0:
        return np.zeros_like(a)
    if kind == 1:
        return np.sign(np.sin(a))
    if kind == 2:
        return np.sign(np.sin(a) * np.sin(b))
    if kind == 3:
        return np.where(np.sin(a) + np.sin(b) > 0.9, 1.0, -0.3)
    return np.clip(rng.normal(0, 0.5, a.shape), -1, 1)
