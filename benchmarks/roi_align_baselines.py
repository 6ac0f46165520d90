"""What RoIAlign is measured against: the gather that one writes first, and torchvision's operator."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pallas_kernels.roi_align.arg_specs import Args, ArgSpec


def gather(arg_spec: ArgSpec, args: Args) -> jax.Array:
    """RoIAlign as four gathers of all samples of all RoIs at once, differentiated automatically.

    (B, R, h, w, C). Written apart from the package, from torchvision's rule, so that it checks the results too.
    """
    spec = arg_spec.spec
    flat = jnp.concatenate([f.reshape(f.shape[0], -1, f.shape[-1]) for f in args.features], axis=1)
    sizes = jnp.asarray(spec.shapes)
    starts = jnp.asarray(np.cumsum([0, *(h * w for h, w in spec.shapes)])[:-1])
    (bins_y, bins_x), s = spec.output_size, spec.sampling_ratio

    def one(flat, box, level, probability):
        (height, width), scale = sizes[level], 1 / jnp.asarray(spec.strides)[level]
        x1, y1, x2, y2 = box * scale - 0.5
        along_y = (jnp.arange(bins_y * s) + 0.5) / (bins_y * s)
        along_x = (jnp.arange(bins_x * s) + 0.5) / (bins_x * s)
        y, x = y1 + along_y * (y2 - y1), x1 + along_x * (x2 - x1)
        samples = _bilinear(flat, starts[level], height, width, y, x)
        valid_y, valid_x = (y >= -1) & (y <= height), (x >= -1) & (x <= width)
        samples *= (valid_y[:, None] & valid_x)[..., None]
        if probability is not None:
            rows, columns = probability.shape
            cells = along_y * rows - 0.5, along_x * columns - 0.5
            samples *= _bilinear(probability.reshape(-1, 1), 0, rows, columns, *cells)
        return samples.reshape(bins_y, s, bins_x, s, -1).mean((1, 3))

    each = jax.vmap(jax.vmap(one, (None, 0, 0, 0)))
    return each(flat, args.boxes, args.levels, args.probabilities).astype(spec.dtype)


def _bilinear(flat, start, height, width, y, x):
    """(cells, C) at the grid of y (n,) and x (m,): (n, m, C) float32."""
    y, x = jnp.clip(y, 0, height - 1), jnp.clip(x, 0, width - 1)
    y0, x0 = jnp.floor(y).astype(int), jnp.floor(x).astype(int)
    total = 0.0
    for row, by_y in ((y0, 1 - (y - y0)), (jnp.minimum(y0 + 1, height - 1), y - y0)):
        for column, by_x in ((x0, 1 - (x - x0)), (jnp.minimum(x0 + 1, width - 1), x - x0)):
            values = flat[start + row[:, None] * width + column]
            total += values * (by_y[:, None] * by_x)[..., None]
    return total


class Torchvision:
    """`torchvision.ops.roi_align`, called once a level on NCHW maps as torchvision's and Detectron2's poolers do.

    Which RoIs are on which level is worked out beforehand, in torchvision's favour. Where it has no kernel for bfloat16
    it is given float32 copies, as its own autocast rule does; `note` says so.
    """

    def __init__(self, arg_spec: ArgSpec, args: Args, platform: str):
        """Raises NotImplementedError with the reason if torchvision cannot do this here."""
        if arg_spec.probabilities:
            raise NotImplementedError("torchvision has no Shape-aware RoIAlign.")
        self._torch, self._ops = _import_torch()
        self._device = _torch_device(self._torch, platform)
        self._arg_spec, self.note = arg_spec, None
        self._dtype = getattr(self._torch, arg_spec.dtype.name)
        self._features = [
            self._tensor(f).permute(0, 3, 1, 2).contiguous().requires_grad_() for f in args.features
        ]
        levels = np.asarray(args.levels).reshape(-1)
        boxes = np.asarray(args.boxes, np.float32).reshape(-1, 4)
        images = np.repeat(np.arange(arg_spec.batch), arg_spec.rois)
        rois = np.concatenate([images[:, None], boxes], 1).astype(np.float32)
        to_device = functools.partial(self._torch.as_tensor, device=self._device)
        self._places = [to_device(np.nonzero(levels == n)[0]) for n in range(len(arg_spec.strides))]
        self._rois = [to_device(rois[levels == n]) for n in range(len(arg_spec.strides))]
        d_out = self._tensor(args.d_out).flatten(0, 1)
        self._d_out = d_out.permute(0, 3, 1, 2).contiguous()
        self._cast = False
        self._choose_dtype()
        self._out = self.forward()

    def _choose_dtype(self) -> None:
        try:
            self.backward_of(self.forward())
        except (RuntimeError, NotImplementedError) as error:
            if self._dtype == self._torch.float32:
                raise
            self._cast = True
            self.note = f"in float32, since it has no {self._arg_spec.dtype.name} ({_line(error)})"

    def forward(self):
        """(B * R, C, h, w)."""
        spec = self._arg_spec
        out = self._features[0].new_zeros(
            (spec.batch * spec.rois, spec.channels, *spec.output_size)
        )
        for feature, rois, places, stride in zip(
            self._features, self._rois, self._places, spec.strides, strict=True
        ):
            dtype = self._torch.float32 if self._cast else self._dtype
            pooled = self._ops.roi_align(
                feature.to(dtype), rois.to(dtype), spec.output_size, 1 / stride, 2, aligned=True
            )
            out[places] = pooled.to(out.dtype)
        return out

    def backward_of(self, out, keep: bool = False):
        """The gradients of the levels, NCHW."""
        return self._torch.autograd.grad(out, self._features, self._d_out, retain_graph=keep)

    def backward(self):
        return self.backward_of(self._out, keep=True)

    def forward_backward(self):
        out = self.forward()
        return out, self.backward_of(out)

    def wait(self, _result) -> None:
        if self._device == "cuda":
            self._torch.cuda.synchronize()

    def results(self):
        """(out, gradients) as NumPy float32 in the package's layout."""
        out, gradients = self.forward_backward()
        spec = self._arg_spec
        out = self._array(out).reshape(spec.batch, spec.rois, *spec.output_size, spec.channels)
        return out, tuple(self._array(g) for g in gradients)

    def _tensor(self, x):
        tensor = self._torch.from_numpy(np.array(x.astype(jnp.float32)))
        return tensor.to(self._device).to(self._dtype)

    def _array(self, x):
        return x.detach().permute(0, 2, 3, 1).float().cpu().numpy()


def _import_torch():
    try:
        import torch
        import torchvision
    except Exception as error:  # a build that does not fit raises what it likes
        raise NotImplementedError(f"torchvision cannot be imported ({_line(error)}).") from error
    return torch, torchvision.ops


def _torch_device(torch, platform: str) -> str:
    if platform == "cpu":
        return "cpu"
    if platform == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise NotImplementedError(f"this torch has no device for jax's {platform}.")


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
