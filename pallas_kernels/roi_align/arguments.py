"""What the public functions accept: every mistake ends in a ValueError before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align.grid import Spec

_FLOATING = ("float16", "bfloat16", "float32", "float64")


def features(given) -> tuple[jax.Array, ...]:
    """A sequence of (B, H, W, C) arrays of one B, C and floating dtype."""
    if not isinstance(given, Sequence):
        raise ValueError(
            f"features must be a sequence of arrays, one a level: got {type(given).__name__}."
        )
    if not given:
        raise ValueError("features must have at least one level: got none.")
    levels = tuple(array("features", level) for level in given)
    shapes = [level.shape for level in levels]
    if any(len(s) != 4 or (s[0], s[3]) != (shapes[0][0], shapes[0][3]) for s in shapes):
        raise ValueError(f"features must be (B, H, W, C) with one B and C: got {shapes}.")
    if not all(level.size for level in levels):
        raise ValueError(f"features must not be empty: got {shapes}.")
    dtypes = [str(level.dtype) for level in levels]
    if len(set(dtypes)) > 1 or not set(dtypes) <= set(_FLOATING):
        raise ValueError(
            f"features must have one floating dtype of {', '.join(_FLOATING)}: got {dtypes}."
        )
    return levels


def rois(boxes, levels, batch: int) -> tuple[jax.Array, jax.Array]:
    """(B, R, 4) boxes without gradient, at least float32, and their (B, R) int32 levels."""
    boxes, levels = array("boxes", boxes), array("levels", levels)
    if boxes.ndim != 3 or boxes.shape[-1] != 4 or levels.shape != boxes.shape[:2]:
        raise ValueError(
            f"boxes must be (B, R, 4) and levels (B, R): got {boxes.shape} and {levels.shape}."
        )
    if not _is_number(boxes):
        raise ValueError(f"boxes must be floating or integers: got {boxes.dtype}.")
    if not jnp.issubdtype(levels.dtype, jnp.integer):
        raise ValueError(f"levels must be integers, indices into features: got {levels.dtype}.")
    if boxes.shape[0] != batch:
        raise ValueError(f"boxes are of {boxes.shape[0]} images, features of {batch}.")
    return jax.lax.stop_gradient(boxes), levels.astype(jnp.int32)


def image_size(given, batch: int) -> jax.Array | None:
    """(B, 2), or None."""
    if given is None:
        return None
    size = array("image_size", given)
    if size.shape != (batch, 2) or not _is_number(size):
        raise ValueError(
            f"image_size must be ({batch}, 2), height and width of each image: got {size.shape}, {size.dtype}."
        )
    return jax.lax.stop_gradient(size)


def probabilities(given, boxes: jax.Array) -> jax.Array:
    """(B, R, Hp, Wp), floating."""
    maps = array("probabilities", given)
    if maps.ndim != 4 or maps.shape[:2] != boxes.shape[:2]:
        raise ValueError(
            f"probabilities must be (B, R, Hp, Wp), a map for each box of {boxes.shape}: got {maps.shape}."
        )
    if not min(maps.shape[2:]) > 0 or str(maps.dtype) not in _FLOATING:
        raise ValueError(
            f"probabilities must be floating with at least one cell: got {maps.shape}, {maps.dtype}."
        )
    return maps


def spec(
    levels: Sequence[jax.Array],
    number: int,
    *,
    strides,
    output_size,
    sampling_ratio,
    aligned,
    max_sampling_ratio,
) -> Spec:
    """What is static about a call with `number` RoIs an image."""
    strides = tuple(strides) if np.ndim(strides) else (strides,)
    if len(levels) != len(strides):
        raise ValueError(f"{len(levels)} feature levels but {len(strides)} strides.")
    if not all(stride > 0 for stride in strides):
        raise ValueError(f"strides are pixels per cell, above 0: got {strides}.")
    size = tuple(output_size) if np.ndim(output_size) else (output_size,) * 2
    if len(size) != 2 or not all(_whole("output_size", bins) >= 1 for bins in size):
        raise ValueError(f"output_size must be at least 1 by 1, got {output_size}.")
    ratio = _whole("sampling_ratio", sampling_ratio)
    most = _whole("max_sampling_ratio", max_sampling_ratio)
    if ratio < 0 or most < 1:
        raise ValueError(
            "sampling_ratio must be at least 0 (which is adaptive) and max_sampling_ratio at least 1, "
            f"got {ratio} and {most}."
        )
    return Spec(
        shapes=tuple(level.shape[1:3] for level in levels),
        strides=strides,
        channels=levels[0].shape[-1],
        dtype=np.dtype(levels[0].dtype),
        output_size=tuple(operator.index(bins) for bins in size),
        sampling_ratio=ratio,
        aligned=bool(aligned),
        max_sampling_ratio=most,
        rois=number,
    )


def array(name: str, given) -> jax.Array:
    """`given` as jax takes it."""
    try:
        return jnp.asarray(given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be arrays: got {type(given).__name__} ({error}).") from error


def _is_number(x: jax.Array) -> bool:
    return any(jnp.issubdtype(x.dtype, kind) for kind in (jnp.floating, jnp.integer))


def _whole(name: str, value) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name} must be a whole number, got {value!r}.")
