"""What mask heads learn by, `model.mask_head.loss`: what BRefine (2022, Table 5) compares, for every head."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from jaxseg.losses import boundary
from jaxseg.losses import mask as losses
from jaxseg.methods import settings
from jaxseg.modeling.mask_head import MaskLoss, MaskTargets, cross_entropy

_PLAIN = {  # of logits and masks
    "balanced_ce": losses.balanced_cross_entropy,
    "dice": losses.squared_dice,  # as Rank & Sort has it
    "focal": losses.focal,
    "ce_dice": lambda x, y: losses.binary_cross_entropy(x, y) + losses.squared_dice(x, y),
}
NAMES = ("ce", *_PLAIN, "brce")
RULES = {
    "mask_head.loss": settings.one_of(*NAMES),
    "brefine.boundary_lambda": settings.number(0.0),
    "brefine.boundary_ratio": settings.number(0.0, 0.5, above=True),
    "brefine.boundary_on": settings.one_of("target", "image"),
    "brefine.boundary_border": settings.one_of(*boundary.BORDERS),
}
DEFAULTS = {  # of brce
    "boundary_lambda": 1.0,
    "boundary_ratio": 0.02,
    "boundary_on": "target",
    "boundary_border": "zero",
}


def of(model) -> MaskLoss:
    """The loss that `model` asks for."""
    name = model.mask_head.get("loss", "ce")  # runs of earlier versions have none
    if name == "brce" and model.brefine.boundary_lambda:
        return _boundary(model.brefine)
    if name in _PLAIN:
        plain = _PLAIN[name]
        return lambda logits, wanted, targets: plain(logits, wanted)
    return cross_entropy


def _boundary(chosen) -> MaskLoss:
    """Eq. 2."""

    def loss(logits: Array, wanted: Array, targets: MaskTargets) -> Array:
        size = logits.shape[-1]
        masks = targets.masks(size)
        if chosen.boundary_on == "image":
            kept = targets.eroded(size)
        else:
            times = boundary.iterations(size, size, chosen.boundary_ratio)
            kept = boundary.erode(masks, times, border=chosen.boundary_border)
        band = jnp.maximum(masks - kept, 0.0)  # eq. 1
        return boundary.cross_entropy(logits, wanted, band, chosen.boundary_lambda)

    return loss


def check(config) -> None:
    """Raises ValueError for settings of the loss that contradict others or have no effect."""
    model, key = config.model, "config.model.brefine"
    name, wanted = model.mask_head.get("loss", "ce"), model.get("brefine")
    if wanted is None:
        if name == "brce":
            raise settings.missing(key, "config.model.mask_head.loss='brce'")
        return
    if name != "brce":
        settings.check_unused(key, wanted, DEFAULTS, f"config.model.mask_head.loss={name!r}")
    counts, on_target = bool(wanted.boundary_lambda), wanted.boundary_on == "target"
    why = "boundary_on='image'" if counts else "boundary_lambda=0"
    settings.check_used(
        key,
        wanted,
        ("boundary_on", "target", counts, "boundary_lambda=0"),
        ("boundary_ratio", DEFAULTS["boundary_ratio"], counts and on_target, why),
        ("boundary_border", "zero", counts and on_target, why),
    )
    share = config.data.get("eroded_masks", 0.0)
    if share and on_target:
        raise ValueError(
            f"config.data.eroded_masks={share} has no effect with {key}.boundary_on='target'; leave one of them at its "
            "default."
        )
    if not share and not on_target:
        raise ValueError(
            f"{key}.boundary_on='image' needs the masks eroded at full size: set config.data.eroded_masks, the share "
            "of an object's diagonal that they lose, e.g. 0.02."
        )
