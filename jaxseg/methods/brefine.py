"""BRefine (Sensors 2022): a mask head that goes up in stages, each with finer features of its own; and its losses.

  main = RoIAlign 14x14 -> 4 convolutions
  for 14, 28, 56:
    fine = RoIAlign of P2 of that size -> a convolution
    main = residual-aware module of main + fine, enlarged by two but after the last
  logits of 56x56 = 1x1 convolution of main

The other half of the paper is how it learns: Rank & Sort losses for the RPN and the box head (`criterion.name=
"rank_sort"`, `modeling/rank_sort`), and cross-entropy in which the inner edge of masks counts twice
(`mask_head.loss="brce"`, `methods/mask_losses`). Each of the three can be had without the others, in every method. How
the gaps of the paper are filled: docs/methods/brefine.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxseg.methods import settings
from jaxseg.modeling import layers
from jaxseg.modeling.mask_head import FCNMaskHead
from jaxseg.ops.roi_align import Pool
from jaxseg.structures import MaskOutputs, Pyramid, RoIs

RAMS = {  # dilations of the residual-aware module, and whether what enters them is added
    "none": None,
    "d1": ((1,), False),
    "d12": ((1, 2), False),
    "d123": ((1, 2, 3), False),
    "d123_res": ((1, 2, 3), True),
}
RULES = {
    "brefine.stages": settings.one_of(1, 2, 3),
    "brefine.ram": settings.one_of(*RAMS),
    "brefine.upsample": settings.one_of("bilinear", "deconv"),
    "brefine.fusion": settings.one_of("sum", "concat1x1"),
}
DEFAULTS = {"stages": 3, "ram": "d123_res", "upsample": "bilinear", "fusion": "sum"}
PARTS = ("stage0", "stage1", "stage2", "deconv0", "deconv1")  # of the mask head, which others lack


class ResidualAwareModule(nn.Module):
    """Half the channels, parallel dilated convolutions, their sum, all the channels again (Fig. 5).

    Attributes:
      dilations: of the 3x3 convolutions.
      residual: adds what enters them to their sum.
    """

    channels: int
    dilations: Sequence[int]
    residual: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N h w C"]) -> Float[Array, "N h w C"]:
        half = self.channels // 2
        z = nn.relu(layers.Conv(half, 1, dtype=self.dtype, name="squeeze")(x))
        y = z if self.residual else jnp.zeros_like(z)
        for d in self.dilations:
            y += nn.relu(layers.Conv(half, 3, dilation=d, dtype=self.dtype, name=f"dilated{d}")(z))
        return nn.relu(layers.Conv(self.channels, 1, dtype=self.dtype, name="expand")(y))


class FusionStage(nn.Module):
    """Adds fine features of a size to the main line, then a residual-aware module."""

    pool: Callable[..., Array]
    size: int
    convolve: Callable[..., Array]
    refine: Callable[..., nn.Module] | None
    concat: bool

    @nn.compact
    def __call__(
        self, pyramid: Pyramid, rois: RoIs, main: Float[Array, "B R h w C"], *, train: bool
    ) -> Float[Array, "B R h w C"]:
        conv = functools.partial(self.convolve, stats=rois.stats, train=train)
        fine = conv(self.pool(pyramid, rois.boxes, self.size), kernel=3, name="_fine")
        if self.concat:
            main = conv(jnp.concatenate([main, fine], -1), kernel=1, name="_fusion")
        else:
            main = main + fine
        return main if self.refine is None else layers.of_rois(self.refine(name="ram"), main)


def _enlarged(x: Float[Array, "B R h w C"]) -> Float[Array, "B R 2*h 2*w C"]:
    """Bilinear, half-pixel centres."""
    *lead, h, w, c = x.shape
    return jax.image.resize(x, (*lead, 2 * h, 2 * w, c), "bilinear")


class BRefineHead(FCNMaskHead):
    """The FCN head's convolutions, then stages instead of its deconvolution.

    Attributes:
      stages: the constructors of `FusionStage`, one a size.
      enlarge: the constructor of what goes between them; None: bilinear.
    """

    stages: Sequence[Callable[..., nn.Module]] = ()
    enlarge: Callable[..., Array] | None = None

    @nn.compact
    def __call__(
        self,
        pyramid: Pyramid,
        rois: RoIs,
        classes: Int[Array, "B R"] | None,
        *,
        context: Float[Array, "B #R h w C"] | None = None,
        train: bool,
    ) -> MaskOutputs:
        """Logits at 1, 2 or 4 times the pooled size, by the number of stages. `context` is added to the main line."""
        x = self._pooled(pyramid, rois, context)
        features = self._trunk(x, rois, train)
        main = self._refined(features)
        for index, stage in enumerate(self.stages):
            if index:
                main = self._enlarged(main, index - 1)
            main = stage(name=f"stage{index}")(pyramid, rois, main, train=train)
        logits = self._logits(main, rois, classes, train)
        return MaskOutputs(logits, features, self._for_auxiliary(x, rois, classes, train))

    def _enlarged(self, x: Array, index: int) -> Array:
        if self.enlarge is None:
            return _enlarged(x)
        return self.enlarge(x, self.channels, dtype=self.dtype, name=f"deconv{index}")


def mask_head(model, pool: Pool, /, **fields) -> BRefineHead:
    """The mask head of `model.brefine`; `fields` are those of the FCN head. `pool` is for what is fine."""
    wanted, size = model.brefine, model.mask_head.pool
    channels, dtype = fields["channels"], fields["dtype"]
    refine = None
    if wanted.ram != "none":
        dilations, residual = RAMS[wanted.ram]
        refine = functools.partial(ResidualAwareModule, channels, dilations, residual, dtype)
    stage = functools.partial(
        FusionStage,
        pool=pool.finest,
        convolve=functools.partial(
            layers.roi_convolution, channels=channels, norm=fields["norm"], dtype=dtype
        ),
        refine=refine,
        concat=wanted.fusion == "concat1x1",
    )
    return BRefineHead(
        stages=tuple(functools.partial(stage, size=size * 2**s) for s in range(wanted.stages)),
        enlarge=layers.roi_deconvolution if wanted.upsample == "deconv" else None,
        **{**fields, "upsample": False},
    )


def replaced(model) -> dict[str, str]:
    """Layers that other mask heads have, with what this one has in their place."""
    return {"deconv": "stages take its place"} if model.mask_head.name == "brefine" else {}


def check(model) -> None:
    """Raises ValueError for settings of the head that contradict others or have no effect."""
    name, key = model.mask_head.name, "config.model.brefine"
    if "brefine" not in model:
        if name == "brefine":
            raise settings.missing(key, "config.model.mask_head.name='brefine'")
        return
    if name != "brefine":
        settings.check_unused(key, model.brefine, DEFAULTS, f"config.model.mask_head.name={name!r}")
        return
    stages = model.brefine.stages
    settings.check_used(key, model.brefine, ("upsample", "bilinear", stages > 1, "stages=1"))
    _check_channels(model)
    for setting, value in (("mask_out", "pooled"), ("pyramid", "doubled")):
        if model.get("maskplus", {}).get(setting) == value:
            raise ValueError(
                f"config.model.maskplus.{setting}={value!r} is about the deconvolution of the FCN head, which "
                "config.model.mask_head.name='brefine' has stages instead of; leave one of them at its default."
            )


def _check_channels(model) -> None:
    head, key = model.mask_head, "config.model.mask_head"
    if head.channels < 2 and model.brefine.ram != "none":
        raise ValueError(
            f"{key}.channels={head.channels} has no half, which config.model.brefine.ram={model.brefine.ram!r} works "
            "with; allowed are 2 or more, or ram='none'."
        )
    unlike = head.channels != model.fpn.channels
    if unlike and not head.convs and model.brefine.fusion == "sum":
        raise ValueError(
            f"{key}.convs=0 leaves the main line config.model.fpn.channels={model.fpn.channels} channels, to which "
            f"{key}.channels={head.channels} of fine features cannot be added: make them equal, or set "
            "config.model.brefine.fusion='concat1x1'."
        )
