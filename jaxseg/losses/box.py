"""Regression losses of boxes, elementwise."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from jaxseg import precision


def l1(
    pred: Shaped[Array, "*#B"],
    target: Shaped[Array, "*#B"],
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*B"]:
    """Absolute differences; see `smooth_l1`."""
    return smooth_l1(pred, target, 0.0, where=where)


def smooth_l1(
    pred: Shaped[Array, "*#B"],
    target: Shaped[Array, "*#B"],
    beta: float,
    *,
    where: Bool[Array, "..."] | None = None,
) -> Float[Array, "*B"]:
    """Absolute differences, quadratic below `beta`, in float32.

    Args:
      pred, target: of equal shape.
      beta: where the square passes into the line; 0 is L1.
      where: broadcasts against the inputs. Elsewhere the loss and its gradient are 0 whatever the
        inputs hold, NaN too.

    Raises:
      ValueError: beta < 0.
    """
    if beta < 0:
        raise ValueError(f"beta={beta} must not be negative.")
    difference = precision.at_least_float32(pred) - precision.at_least_float32(target)
    if where is not None:
        difference = jnp.where(where, difference, 0.0)
    absolute = jnp.abs(difference)
    if beta == 0:
        return absolute
    return jnp.where(absolute < beta, 0.5 * absolute**2 / beta, absolute - 0.5 * beta)


def giou(
    pred: Shaped[Array, "*#B 4"],
    target: Shaped[Array, "*#B 4"],
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "*B"]:
    """1 - GIoU of pairs of boxes (Rezatofighi et al. 2019): IoU minus the share of their hull that neither covers."""
    iou, union, hull, _, _ = _pairs(pred, target, where)
    area = _product(hull)
    return _masked(1.0 - iou + _ratio(area - union, area), where)


def diou(
    pred: Shaped[Array, "*#B 4"],
    target: Shaped[Array, "*#B 4"],
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "*B"]:
    """1 - DIoU (Zheng et al. 2020): IoU minus the squared distance of the centres by that of the hull's corners."""
    iou, _, hull, distance, _ = _pairs(pred, target, where)
    return _masked(1.0 - iou + _ratio(distance, (hull * hull).sum(-1)), where)


def ciou(
    pred: Shaped[Array, "*#B 4"],
    target: Shaped[Array, "*#B 4"],
    *,
    where: Bool[Array, "*B"] | None = None,
) -> Float[Array, "*B"]:
    """1 - CIoU (Zheng et al. 2020): DIoU minus a term for the aspect ratio, whose weight has no gradient."""
    iou, _, hull, distance, sides = _pairs(pred, target, where)
    # Above 0: the gradient of the angle of nothing is NaN.
    ours, theirs = (jnp.arctan2(*jnp.moveaxis(jnp.maximum(s, 1e-6), -1, 0)) for s in sides)
    difference = 4.0 / math.pi**2 * (ours - theirs) ** 2
    weight = jax.lax.stop_gradient(_ratio(difference, 1.0 - iou + difference))
    return _masked(1.0 - iou + _ratio(distance, (hull * hull).sum(-1)) + weight * difference, where)


def _pairs(pred, target, where):
    """IoU, union, sides of the hull, squared distance of the centres, and (sides of the one, of the other)."""
    a, b = precision.at_least_float32(pred), precision.at_least_float32(target)
    if where is not None:
        unit = jnp.array([0.0, 0.0, 1.0, 1.0], a.dtype)
        a, b = (jnp.where(where[..., None], x, unit) for x in (a, b))
    sides = tuple(jnp.maximum(x[..., 2:] - x[..., :2], 0.0) for x in (a, b))
    low, high = jnp.maximum(a[..., :2], b[..., :2]), jnp.minimum(a[..., 2:], b[..., 2:])
    shared = _product(jnp.maximum(high - low, 0.0))
    union = _product(sides[0]) + _product(sides[1]) - shared
    hull = jnp.maximum(a[..., 2:], b[..., 2:]) - jnp.minimum(a[..., :2], b[..., :2])
    centres = 0.5 * (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:])
    return _ratio(shared, union), union, hull, (centres**2).sum(-1), sides


def _product(sides):
    return sides[..., 0] * sides[..., 1]


def _ratio(part, whole):
    # The inner `where` keeps 0/0 out of the gradient too.
    return jnp.where(whole > 0, part / jnp.where(whole > 0, whole, 1.0), 0.0)


def _masked(loss, where):
    return loss if where is None else jnp.where(where, loss, 0.0)
