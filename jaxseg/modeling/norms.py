"""Normalisation that knows what is padding.

Statistics are taken over the elements of `mask` only, so that a padded pixel, RoI or batch entry changes nothing; the
others are normalised with them too, and may be anything finite. Under jit over a mesh the means run over the global
batch: batch norm is synchronised by construction.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxseg import paths, precision

Affine = tuple[Float[Array, "D"], Float[Array, "D"]]  # (factor, offset): x * factor + offset


class Norm(nn.Module):
    """What all norms have in common: x (*B, C) and a mask of its elements to x normalised."""

    def affine(self, channels: int) -> Affine | None:
        """The norm as a multiply-add, if it is one that neither the input nor training changes."""
        del channels
        return None


class FrozenBatchNorm(Norm):
    """Batch norm with everything constant: one multiply-add. All four vectors live in `batch_stats`."""

    epsilon: float = 1e-5

    @nn.compact
    def affine(self, channels: int) -> Affine:
        shape = (channels,)
        one, zero = (lambda: jnp.ones(shape)), (lambda: jnp.zeros(shape))
        scale = self.variable("batch_stats", "scale", one).value
        bias = self.variable("batch_stats", "bias", zero).value
        mean = self.variable("batch_stats", "mean", zero).value
        var = self.variable("batch_stats", "var", one).value
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return factor, bias - mean * factor

    def __call__(self, x: Float[Array, "*B C"], *, mask=None, train: bool = False) -> Array:
        del mask, train  # nothing is measured
        factor, offset = self.affine(x.shape[-1])
        return x * factor.astype(x.dtype) + offset.astype(x.dtype)


class BatchNorm(Norm):
    """Batch norm over the valid elements of the global batch. Without any, the running statistics serve, unchanged.

    With `per_image`, every image (the leading axis) is normalised by statistics of its own, as if it were alone on its
    device; the running ones then follow the mean of those of the images that have any.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    per_image: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "*B C"], *, mask: Bool[Array, "*B"] | None = None, train: bool = False
    ) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        ra_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(shape))
        ra_var = self.variable("batch_stats", "var", lambda: jnp.ones(shape))
        mean, var = ra_mean.value, ra_var.value
        if train:
            axes = tuple(range(int(self.per_image), x.ndim - 1))
            own_mean, own_var, count = _moments(x, mask, axes)
            seen = count > 0
            if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
                share = seen / jnp.maximum(seen.sum(), 1)
                keep = jnp.where(seen.any(), self.momentum, 1.0)
                for running, own in ((ra_mean, own_mean), (ra_var, own_var)):
                    own = (own * share).reshape(-1, *shape).sum(0)
                    running.value = keep * running.value + (1 - keep) * own
            mean, var = jnp.where(seen, own_mean, mean), jnp.where(seen, own_var, var)
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * factor.astype(x.dtype) + (bias - mean * factor).astype(x.dtype)


class EvalBatchNorm(BatchNorm):
    """Batch norm with constant statistics whose scale and bias learn, in training too (MMDetection's `norm_eval`)."""

    def __call__(self, x: Float[Array, "*B C"], *, mask=None, train: bool = False) -> Array:
        del train
        return super().__call__(x, mask=mask, train=False)


class GroupNorm(Norm):
    """Group norm (Wu & He 2018) per image over its valid elements; the same in training and test."""

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *S C"],
        *,
        mask: Bool[Array, "B *S"] | None = None,
        train: bool = False,
    ) -> Array:
        del train
        channels = x.shape[-1]
        groups = next(g for g in range(min(self.groups, channels), 0, -1) if channels % g == 0)
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        space = tuple(range(1, x.ndim - 1))
        if (
            mask is not None
        ):  # a sample of which nothing counts elsewhere is still normalised, by all of it
            mask = mask | ~mask.any(space, keepdims=True)
        # Moments per channel first, pooled to groups after: no reshape of the large array.
        mean, var, _ = _moments(x, mask, space)
        pooled = (x.shape[0],) + (1,) * len(space) + (groups, channels // groups)
        grouped = mean.reshape(pooled)
        group_mean = grouped.mean(-1, keepdims=True)
        group_var = var.reshape(pooled).mean(-1, keepdims=True)
        group_var += ((grouped - group_mean) ** 2).mean(-1, keepdims=True)
        spread = functools.partial(jnp.broadcast_to, shape=pooled)
        inverse = jax.lax.rsqrt(spread(group_var) + self.epsilon).reshape(mean.shape)
        factor = inverse * scale
        return x * factor.astype(x.dtype) + (
            bias - spread(group_mean).reshape(mean.shape) * factor
        ).astype(x.dtype)


class Identity(Norm):
    """No normalisation."""

    def __call__(self, x: Array, *, mask=None, train: bool = False) -> Array:
        del mask, train
        return x


NORMS: dict[str, Callable[[], Norm]] = {
    "frozen_bn": FrozenBatchNorm,
    "batch_norm": BatchNorm,
    "batch_norm_eval": EvalBatchNorm,
    "group_norm": GroupNorm,
    "none": Identity,
}


def by_name(name: str, epsilon: float | None = None) -> Callable[..., Norm]:
    """The norm class of a config's `norm=`, with another epsilon if given. Raises ValueError naming what is allowed."""
    if name not in NORMS:
        raise ValueError(f"norm={name!r}: allowed are {', '.join(NORMS)}.")
    norm = NORMS[name]
    return norm if epsilon is None or norm is Identity else functools.partial(norm, epsilon=epsilon)


def _moments(x, mask, axes) -> tuple[Array, Array, Array]:
    """Mean, variance (biased) and count of the valid elements along `axes` (kept), at least float32; 0 without any."""
    x = precision.at_least_float32(x)
    if mask is None:
        weight = jnp.ones((*x.shape[:-1], 1), x.dtype)
    else:
        weight = mask[..., None].astype(x.dtype)
        x = jnp.where(mask[..., None], x, 0)
    count = weight.sum(axes, keepdims=True)
    scale = 1.0 / jnp.maximum(count, 1.0)
    mean = x.sum(axes, keepdims=True) * scale  # padding is 0
    var = (weight * jnp.square(x - mean)).sum(axes, keepdims=True) * scale
    return mean, var, count


@contextlib.contextmanager
def frozen(patterns: Sequence[str]) -> Iterator[None]:
    """Within it, batch norms whose path matches one of `patterns` (see `jaxseg.paths`) run in test mode."""

    def interceptor(call, args, kwargs, context):
        module, asked = context.module, context.method_name == "__call__"
        if (
            asked
            and isinstance(module, BatchNorm)
            and paths.matches("/".join(module.path), patterns)
        ):
            kwargs = {**kwargs, "train": False}
        return call(*args, **kwargs)

    with nn.intercept_methods(interceptor):
        yield
