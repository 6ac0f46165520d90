"""Deformable convolution: each tap reads where an offset says (Dai et al. 2017), times a factor (Zhu et al. 2019).

The samples are laid out as columns (B, H' * W', kh * kw, C) and multiplied with the kernel in one matrix product. The
columns are kh * kw times the feature map, too much to keep for the gradients of thirty layers: they are made again in
the backward pass (`jax.checkpoint`), so that a layer keeps what it was given and nothing else.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg import precision


def deform_conv(
    inputs: Float[Array, "B H W C"],
    offsets: Float[Array, "B P Q _"],
    kernel: Float[Array, "kh kw I D"],
    mask: Float[Array, "B P Q _"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "B P Q D"]:
    """A convolution whose tap (i, j) at (p, q) reads p * stride - padding + i * dilation + dy, and likewise dx.

    Between cells the map is bilinear, outside it is 0 (it falls to 0 over the last cell's width); no offset is too
    far. With offsets of 0 and without mask this is the plain convolution. The numbers of groups follow from the shapes:
    C / I of the convolution, and deformable groups from the offsets; group g moves the g-th part of the channels.
    The gradient to offsets at whole positions is that towards larger ones, as in torchvision and mmcv. Images are
    independent, and stay on their device when a batch is split.

    Args:
      inputs: any float dtype; of the result too. Positions and sums over neighbours are at least float32.
      offsets: G * kh * kw * 2 channels in cells of the map: of each deformable group, of each tap, dy then dx.
      kernel: (kh, kw, C / groups, D).
      mask: G * kh * kw channels, the factor of each sample; None for 1.
      stride, padding, dilation: of both axes.

    Memory at C3 of a batch of two 800 x 1344 images (100 x 168 x 128, 3x3): the columns take 155 MB in float32, half in
    bfloat16. As XLA compiles it for an H200, the forward needs 160 and 82 MB beside its arguments and result, the
    backward 169 and 109 MB; on a CPU, which does not fuse gathers and scatters, the backward needs 1.6 GB.

    Raises:
      ValueError: shapes that do not go together.
    """
    kh, kw, depth, features = kernel.shape
    groups, deform_groups = _groups(inputs, offsets, kernel, mask)
    size = tuple(
        (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for n, k in zip(inputs.shape[1:3], (kh, kw), strict=True)
    )
    if offsets.shape[1:3] != size:
        raise ValueError(
            f"deform_conv: offsets are of {offsets.shape[1:3]} cells; a map of {inputs.shape[1:3]} "
            f"with stride {stride}, padding {padding} and dilation {dilation} gives {size}."
        )
    grid = stride, padding, dilation

    @jax.checkpoint
    def convolve(inputs, offsets, mask, kernel):
        samples = _columns(inputs, offsets, mask, taps=(kh, kw), groups=deform_groups, grid=grid)
        out = _product(samples.reshape(-1, kh * kw, groups, depth), kernel.astype(samples.dtype))
        return out.reshape(-1, *size, features)

    return convolve(inputs, offsets, mask, kernel)


def _groups(inputs, offsets, kernel, mask) -> tuple[int, int]:
    """(groups of the convolution, deformable groups), from the shapes."""
    channels, (kh, kw, depth, features) = inputs.shape[-1], kernel.shape
    groups, rest = divmod(channels, depth)
    if rest or features % groups:
        raise ValueError(
            f"deform_conv: a kernel of shape {kernel.shape} does not divide {channels} channels "
            f"into groups; its last axis must be a multiple of {channels} / {depth}."
        )
    deform_groups, rest = divmod(offsets.shape[-1], 2 * kh * kw)
    if rest or deform_groups < 1 or channels % deform_groups:
        raise ValueError(
            f"deform_conv: {offsets.shape[-1]} channels of offsets; allowed are multiples of "
            f"2 * {kh} * {kw}, so many that the groups divide {channels} channels."
        )
    expected = (*offsets.shape[:-1], deform_groups * kh * kw)
    if mask is not None and mask.shape != expected:
        raise ValueError(f"deform_conv: mask of shape {mask.shape}; it must be {expected}.")
    return groups, deform_groups


def _product(samples: Float[Array, "N K G I"], kernel: Float[Array, "kh kw I D"]):
    """(N, D), the d-th part of the features from the d-th group of channels."""
    n, taps, groups, depth = samples.shape
    if groups == 1:  # einsum would transpose the samples first
        return samples.reshape(n, -1) @ kernel.reshape(taps * depth, -1)
    kernel = kernel.reshape(taps, depth, groups, -1)
    return jnp.einsum("nkgc,kcgd->ngd", samples, kernel).reshape(n, -1)


def _columns(inputs, offsets, mask, *, taps, groups, grid) -> Float[Array, "B N K C"]:
    """The samples of every output cell and tap, in the dtype of the inputs."""
    b, h, w, c = inputs.shape
    p, q = offsets.shape[1:3]
    offsets = precision.at_least_float32(offsets)
    offsets = offsets.astype(jnp.promote_types(offsets.dtype, inputs.dtype))
    stride, padding, dilation = grid

    def start(cells, taps):  # where each tap of each cell lies without offset
        grid = jnp.arange(cells)[:, None] * stride - padding + jnp.arange(taps) * dilation
        return grid.astype(offsets.dtype)

    def by_sample(x):  # the groups inside of a tap, so that the channels come out in their order
        x = x.reshape(b, p, q, groups, *taps)
        return x.transpose(0, 1, 2, 4, 5, 3)

    y = by_sample(offsets[..., 0::2]) + start(p, taps[0])[:, None, :, None, None]
    x = by_sample(offsets[..., 1::2]) + start(q, taps[1])[:, None, :, None]
    factor = 1.0 if mask is None else by_sample(mask).astype(y.dtype).reshape(b, -1)
    rows, columns = (_neighbours(v.reshape(b, -1), n) for v, n in ((y, h), (x, w)))
    # Group g of a cell is row `cell * groups + g` of the map seen as (H * W * groups, C / groups): no transposition.
    group = jnp.tile(jnp.arange(groups), p * q * taps[0] * taps[1])
    index = [(row * w + column) * groups + group for row, _ in rows for column, _ in columns]
    weight = [u * v * factor for _, u in rows for _, v in columns]
    flat = inputs.reshape(b, h * w * groups, c // groups)
    # The barrier keeps XLA from working these out again for each channel of each sample.
    index, weight = jax.lax.optimization_barrier((jnp.stack(index, 1), jnp.stack(weight, 1)))
    samples = jax.vmap(_weighted_rows)(flat, index, weight)
    return samples.astype(inputs.dtype).reshape(b, p * q, taps[0] * taps[1], c)


def _neighbours(position: Float[Array, "*N"], size: int) -> list[tuple[Array, Array]]:
    """The cells before and after each position, int32 inside of the map, with their weights, 0 for those outside."""
    # What lies far away is outside too, and fits an integer.
    position = jnp.clip(position, -2.0, size + 1.0)
    low = jnp.floor(position)
    fraction = position - low
    low = low.astype(jnp.int32)
    return [
        (jnp.clip(cell, 0, size - 1), jnp.where((cell >= 0) & (cell < size), weight, 0.0))
        for cell, weight in ((low, 1.0 - fraction), (low + 1, fraction))
    ]


@jax.custom_vjp
def _weighted_rows(
    rows: Float[Array, "M C"], index: Int[Array, "4 N"], weight: Float[Array, "4 N"]
) -> Float[Array, "N C"]:
    """Sums of four rows each, in the dtype of the weights."""
    total = 0.0
    for k in range(4):
        total += _take(rows, index[k], weight.dtype) * weight[k, :, None]
    return total


def _take(rows, index, dtype):
    return rows.at[index].get(mode="promise_in_bounds").astype(dtype)


def _weighted_rows_fwd(rows, index, weight):
    return _weighted_rows(rows, index, weight), (rows, index, weight)


def _weighted_rows_bwd(saved, d_out):
    """Left to itself, autodiff would sum the gradient of the rows in their own dtype, of each neighbour apart."""
    rows, index, weight = saved
    d_rows = jnp.zeros(rows.shape, weight.dtype)
    for k in range(4):
        d_rows = d_rows.at[index[k]].add(d_out * weight[k, :, None], mode="promise_in_bounds")
    d_weight = (_take(rows, index, weight.dtype) * d_out).sum(-1)
    return d_rows.astype(rows.dtype), None, d_weight


_weighted_rows.defvjp(_weighted_rows_fwd, _weighted_rows_bwd)
