"""MaskPlus (WACV 2020): five techniques, each for any system with a mask head like Mask R-CNN's.

  contextual fusion          features of the whole image are added to those of every RoI
  deconvolutional pyramid    mask features go up twice, down twice, with sums on the way
  boundary refinement        a residual on the mask logits of all classes: the original one, or the improved one
  quasi-multitask learning   another mask branch at half or twice the size, in training only
  biased training            the mask losses count more in the first part of training

The parts below plug into the mask head (`modeling/mask_head`) and the criterion as `model.maskplus` asks for; MaskPlus
is Mask R-CNN with all of them, and MaskPlus+ Cascade Mask R-CNN with all of them. Where the paper leaves something
open, docs/methods/maskplus.md says how it is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg import precision
from jaxseg.methods import settings
from jaxseg.modeling import layers, norms
from jaxseg.modeling.mask_head import ClassConv
from jaxseg.ops import levels
from jaxseg.ops.roi_align import Pool
from jaxseg.structures import Pyramid, RoIs

LEVELS = (2, 3, 4, 5)
KERNELS = ((1, 3), (3, 3))
RULES = {
    "maskplus.context": settings.several(settings.whole(1), least=0),
    "maskplus.context_level": settings.one_of(*LEVELS),
    "maskplus.pyramid": settings.one_of("none", "pooled", "doubled"),
    "maskplus.boundary": settings.one_of("none", "original", "improved"),
    "maskplus.boundary_kernels": (
        lambda v: isinstance(v, tuple | list) and tuple(v) in KERNELS,
        " or ".join(map(str, KERNELS)),
    ),
    "maskplus.boundary_norm": settings.one_of("image", "batch"),
    "maskplus.quasi": settings.one_of("none", "half", "double"),
    "maskplus.mask_out": settings.one_of("doubled", "pooled"),
    "maskplus.alpha": settings.number(0.0),
    "maskplus.alpha_until": settings.SHARE,
}
PARTS = ("image_context", "feature_refinement", "logit_refinement", "auxiliary")  # of a mask head
CLASS_PARTS = (
    "logit_refinement",
    "auxiliary/predictor",
)  # whose shapes depend on the number of classes
CLASS_AXES = {  # of those: axis -> entries of each class, which come first; see `methods.class_axes`
    r"logit_refinement/(conv\d|last)/kernel": {-2: 1, -1: 1},
    r"logit_refinement/(conv\d|last)/bias": {-1: 1},
    r"logit_refinement/conv\d_0/kernel": {-2: 1},
    r"logit_refinement/(norm|prelu)\d_0/\w+": {-1: 1},
}


class ContextualFusion(nn.Module):
    """RoIAlign of the whole unpadded image on one level, then 3x3 convolutions with ReLU (section 3.1).

    Attributes:
      widths: channels of the convolutions; the last as many as the pyramid has.
      level: 2 to 5, for P2 to P5.
      pool: RoIAlign that samples the image's own cells alone, whatever the canvas.
    """

    widths: Sequence[int]
    level: int
    pool: Callable[..., Array]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pyramid: Pyramid, size: int) -> Float[Array, "B 1 S S C"]:
        level = levels.single(pyramid, LEVELS.index(self.level))
        height, width = pyramid.image_size[:, 0], pyramid.image_size[:, 1]
        zero = jnp.zeros_like(height)
        image = jnp.stack([zero, zero, width, height], -1)[:, None]
        x = self.pool(level, image, size)[:, 0]
        for number, channels in enumerate(self.widths):
            x = nn.relu(layers.Conv(channels, 3, dtype=self.dtype, name=f"conv{number}")(x))
        return x[:, None]


class DeconvPyramid(nn.Module):
    """Two deconvolutions, then as many stride 2 convolutions, features of equal size added (Fig. 3).

    With `doubled` it stops on the way down at twice its input's size.
    """

    channels: int
    doubled: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N h w C"]) -> Array:
        def up(x, name):
            return nn.relu(layers.Deconv2x2(self.channels, self.dtype, name=name)(x))

        def down(x, name):
            conv = layers.Conv(self.channels, 3, stride=2, dtype=self.dtype, name=name)
            return nn.relu(conv(x))

        once = up(x, "up0")
        half = down(up(once, "up1"), "down0") + once
        return half if self.doubled else down(half, "down1") + x


class BoundaryRefinement(nn.Module):
    """S + conv(ReLU(conv(S))), 3x3, on the logits of all K maps (Peng et al. 2017, Large Kernel Matters, Fig. 2C)."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, logits: Float[Array, "B R h w K"], stats: Bool[Array, "B R"], *, train: bool
    ) -> Float[Array, "B R h w K"]:
        del stats, train  # nothing is measured
        channels = logits.shape[-1]
        x = logits.reshape(-1, *logits.shape[2:])
        x = nn.relu(layers.Conv(channels, 3, dtype=self.dtype, name="conv0")(x))
        init = layers.normal(0.001)
        x = layers.Conv(channels, 3, kernel_init=init, dtype=self.dtype, name="conv1")(x)
        return logits + precision.at_least_float32(x).reshape(logits.shape)


class ImprovedBoundaryRefinement(nn.Module):
    """Four densely connected modules on the logits of all K maps, and what they add (Fig. 4).

    A module is norm, PReLU, convolution to 16, norm, PReLU, convolution to 4; it sees S and what all modules before it
    made. A 1x1 convolution brings S and the 16 new maps back to K; it starts at zero, so that training starts with S.

    Attributes:
      kernels: of the two convolutions of a module.
      norm: batch norm over the RoIs that enter statistics.
    """

    kernels: Sequence[int]
    norm: Callable[..., nn.Module]
    modules: int = 4
    squeeze: int = 16
    growth: int = 4
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, logits: Float[Array, "B R h w K"], stats: Bool[Array, "B R"], *, train: bool
    ) -> Float[Array, "B R h w K"]:
        cells = jnp.broadcast_to(stats[..., None, None], logits.shape[:-1])

        def conv(x, channels, kernel, name, **more):
            flat = x.reshape(-1, *x.shape[2:])
            made = layers.Conv(channels, kernel, dtype=self.dtype, name=name, **more)(flat)
            return made.reshape(*x.shape[:-1], channels)

        # The norms need the range of the logits, which lie far from 0; convolutions compute in `dtype`.
        x = logits
        for index in range(self.modules):
            y = x
            for step, channels in enumerate((self.squeeze, self.growth)):
                name = f"{index}_{step}"
                y = self.norm(name=f"norm{name}")(y, mask=cells, train=train)
                y = conv(PReLU(name=f"prelu{name}")(y), channels, self.kernels[step], f"conv{name}")
            x = jnp.concatenate([x, y], -1)
        change = conv(x, logits.shape[-1], 1, "last", kernel_init=nn.initializers.zeros)
        return logits + precision.at_least_float32(change)


class PReLU(nn.Module):
    """max(x, 0) + a min(x, 0) with a learned a for each channel, 0.25 at first (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"]) -> Float[Array, "*B C"]:
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class QuasiMultitask(nn.Module):
    """A mask branch like the head's own with another output size: `deconvs` 0, as pooled (0.5x), or 2 (2x)."""

    num_maps: int
    convs: int
    channels: int
    norm: Callable[..., nn.Module]
    deconvs: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R h w C"], rois: RoIs, classes: Int[Array, "B R"], *, train: bool
    ) -> Float[Array, "B R H W"]:
        x = layers.roi_convolutions(
            x,
            rois.stats,
            count=self.convs,
            channels=self.channels,
            norm=self.norm,
            train=train,
            dtype=self.dtype,
        )
        for index in range(self.deconvs):
            x = layers.roi_deconvolution(x, self.channels, dtype=self.dtype, name=f"deconv{index}")
        return ClassConv(self.num_maps, self.dtype, name="predictor")(x, classes)


def parts(model, pool: Pool, num_maps: int, dtype) -> dict[str, Any]:
    """The fields of a mask head that `model.maskplus` asks for; of runs from before MaskPlus, none.

    Raises:
      ValueError: parts that have no meaning together.
    """
    if "maskplus" not in model:
        return {}
    wanted, head = model.maskplus, model.mask_head
    _check(model)
    # A pyramid that ends at twice the size takes the place of the deconvolution.
    made: dict[str, Any] = {"upsample": "deconv" not in left_out(model)}
    if wanted.context:
        made["image_context"] = functools.partial(
            ContextualFusion,
            widths=tuple(wanted.context),
            level=wanted.context_level,
            pool=pool.of_own_cells(),
            dtype=dtype,
        )
    if wanted.pyramid != "none":
        made["feature_refinement"] = functools.partial(
            DeconvPyramid, head.channels, doubled=wanted.pyramid == "doubled", dtype=dtype
        )
    if wanted.boundary == "original":
        made["logit_refinement"] = functools.partial(BoundaryRefinement, dtype=dtype)
    if wanted.boundary == "improved":
        made["logit_refinement"] = functools.partial(
            ImprovedBoundaryRefinement,
            kernels=tuple(wanted.boundary_kernels),
            norm=functools.partial(norms.BatchNorm, per_image=wanted.boundary_norm == "image"),
            dtype=dtype,
        )
    if wanted.quasi != "none":
        made["auxiliary_branch"] = functools.partial(
            QuasiMultitask,
            num_maps=num_maps,
            convs=head.convs,
            channels=head.channels,
            norm=norms.by_name(head.norm),
            deconvs={"half": 0, "double": 2}[wanted.quasi],
            dtype=dtype,
        )
    return made


def left_out(model) -> dict[str, str]:
    """Layers that mask heads have elsewhere and these do not, with the setting that is why."""
    wanted = model.get("maskplus")
    if wanted is None:
        return {}
    if wanted.mask_out == "pooled":
        return {"deconv": "config.model.maskplus.mask_out='pooled'"}
    if wanted.pyramid == "doubled":
        return {"deconv": "config.model.maskplus.pyramid='doubled'"}
    return {}


def mask_weight(config) -> Callable[[Array], Array] | None:
    """Biased training: the factor of the mask losses, `alpha` for the first `alpha_until` of all steps, then 1."""
    until = biased_steps(config.model, config.train.steps)
    if not until:
        return None
    alpha = config.model.maskplus.alpha
    return lambda step: jnp.where(step < until, alpha, 1.0).astype(jnp.float32)


def biased_steps(model, steps: int) -> int:
    """How many of `steps`, from the first, give mask losses the weight `alpha`; 0 without biased training."""
    wanted = model.get("maskplus")
    if wanted is None or wanted.alpha == 1.0:
        return 0
    return round(wanted.alpha_until * steps)


def _check(model) -> None:
    wanted, key = model.maskplus, "config.model.maskplus"
    if wanted.context and wanted.context[-1] != model.fpn.channels:
        raise ValueError(
            f"{key}.context={tuple(wanted.context)} is added to features of {model.fpn.channels} channels "
            f"(config.model.fpn.channels): its last width must be {model.fpn.channels}."
        )
    if wanted.mask_out == "pooled":
        for name in ("pyramid", "quasi"):
            allowed = ("none", "pooled") if name == "pyramid" else ("none",)
            if wanted[name] not in allowed:
                raise ValueError(
                    f"{key}.mask_out='pooled' leaves out the upsampling, which {key}.{name}={wanted[name]!r} is about; "
                    "leave one of them at its default."
                )
    head = model.mask_head
    if wanted.pyramid == "pooled" and not head.convs and head.channels != model.fpn.channels:
        raise ValueError(
            f"{key}.pyramid='pooled' adds features of {head.channels} channels (config.model.mask_head.channels) to "
            f"what is pooled, {model.fpn.channels} (config.model.fpn.channels): with config.model.mask_head.convs=0 "
            "they must be equal."
        )
    improved, biased = wanted.boundary == "improved", wanted.alpha != 1.0
    settings.check_used(
        key,
        wanted,
        ("boundary_kernels", (1, 3), improved, f"boundary={wanted.boundary!r}"),
        ("boundary_norm", "image", improved, f"boundary={wanted.boundary!r}"),
        ("context_level", 5, bool(wanted.context), "context=()"),
        ("alpha_until", 0.5, biased, "alpha=1.0"),
    )
    if biased and not wanted.alpha_until:
        raise ValueError(f"{key}.alpha={wanted.alpha} has no effect with {key}.alpha_until=0.")
