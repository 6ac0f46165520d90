"""ATMask R-CNN (Supervised Adaptive Threshold Network): a mask head that learns a threshold for every pixel.

  R_p = RoIAlign 14x14        -> 4 convolutions -> F_P -----------------+---> T2P, a convolution -> deconvolution -> P
  R_t = RoIAlign of P2, 28x28 -> stride 2, 14x14 -> P2T, 2 convolutions -> F_T --^-> deconvolution -> T
  B = sigmoid(k (P - T))                                                                              (eq. 2)

P, B and T are maps of 28x28 for each class. P and B learn the mask, T the opposite: low on the object and high outside.
A detection's mask is B, so its pixels are those with P > T.

Boundary-preserving Mask R-CNN (BMask, Cheng et al. 2020) is the same head with sums for the fusions, boundaries in the
place of thresholds, and P for the mask. Everything but the mask head is `mask_rcnn`, or whatever method the config asks
for. How the gaps of the paper are filled: docs/methods/atmask_rcnn.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxseg.losses import mask as mask_losses
from jaxseg.methods import settings
from jaxseg.modeling import layers
from jaxseg.modeling.mask_head import ClassConv, FCNMaskHead, MaskTargets
from jaxseg.ops import masks as masks_lib
from jaxseg.ops.roi_align import Pool
from jaxseg.structures import MaskOutputs, Pyramid, RoIs

FUSIONS = {"concat1x1": 1, "concat3x3": 3, "sum": 1}  # the kernel of each
TARGETS = ("inverse", "same", "none", "boundary")
RULES = {
    "atmask.threshold": settings.FLAG,
    "atmask.p2t": settings.FLAG,
    "atmask.t2p": settings.FLAG,
    "atmask.fuse": settings.one_of(*FUSIONS),
    "atmask.thr_source": settings.one_of("P2", "multi"),
    "atmask.thr_pool": settings.whole(1),
    "atmask.thr_convs": settings.whole(0),
    "atmask.thr_target": settings.one_of(*TARGETS),
    "atmask.k": settings.number(0.0, above=True),
    "atmask.lambda_bin": settings.number(0.0),
    "atmask.binarise_on": settings.one_of("prob", "logit"),
    "atmask.infer_map": settings.one_of("B", "P"),
}
DEFAULTS = {
    "threshold": True,
    "p2t": True,
    "t2p": True,
    "fuse": "concat1x1",
    "thr_source": "P2",
    "thr_pool": 28,
    "thr_convs": 2,
    "thr_target": "inverse",
    "k": 2.0,
    "lambda_bin": 2.0,
    "binarise_on": "prob",
    "infer_map": "B",
}
PARTS = ("threshold", "fusion")  # of the mask head, which a Mask R-CNN lacks
CLASS_PARTS = ("threshold/predictor",)  # whose shapes depend on the number of classes


class ThresholdBranch(nn.Module):
    """Features of finer RoIs, together with those of the probabilities, become thresholds.

    Attributes:
      num_maps: K, or 1 for class-agnostic masks.
      pool: RoIAlign, `pool_size` times `pool_size`.
      stride: of the first convolution, which makes the features as large as those of the probabilities.
      p2t: takes the features of the probabilities in.
      convolve: `layers.roi_convolution` with its channels, norm and dtype.
    """

    num_maps: int
    pool: Callable[..., Array]
    pool_size: int
    stride: int
    p2t: bool
    fuse: str
    convs: int
    channels: int
    convolve: Callable[..., Array]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        pyramid: Pyramid,
        rois: RoIs,
        classes: Int[Array, "B R"] | None,
        probability: Float[Array, "B R h w P"],
        *,
        train: bool,
    ) -> tuple[Float[Array, "B R h w C"], Array]:
        """F_T, and logits at twice its size."""
        conv = functools.partial(self.convolve, stats=rois.stats, train=train)
        x = self.pool(pyramid, rois.boxes, self.pool_size)
        x = conv(x, kernel=3, stride=self.stride, name="_reduce")
        if self.p2t:
            x = _fused(x, probability, self.fuse, functools.partial(conv, name="_p2t"))
        for index in range(self.convs):
            x = conv(x, kernel=3, name=str(index))
        fine = layers.roi_deconvolution(x, self.channels, dtype=self.dtype, name="deconv")
        return x, ClassConv(self.num_maps, self.dtype, name="predictor")(fine, classes)


class ProbabilityFusion(nn.Module):
    """T2P: the features of the probabilities take in those of the thresholds, then a 3x3 convolution."""

    fuse: str
    convolve: Callable[..., Array]

    @nn.compact
    def __call__(
        self,
        probability: Float[Array, "B R h w P"],
        threshold: Float[Array, "B R h w T"],
        stats: Bool[Array, "B R"],
        *,
        train: bool,
    ) -> Float[Array, "B R h w C"]:
        conv = functools.partial(self.convolve, stats=stats, train=train)
        x = _fused(probability, threshold, self.fuse, functools.partial(conv, name="_t2p"))
        return conv(x, kernel=3, name="_final")


def _fused(x: Array, other: Array, how: str, conv: Callable[..., Array]) -> Array:
    """Eq. 3: side by side, through a convolution. BMask: the sum, the other one through a convolution."""
    if how == "sum":
        return x + conv(other, kernel=FUSIONS[how])
    return conv(jnp.concatenate([x, other], -1), kernel=FUSIONS[how])


class ATMaskHead(FCNMaskHead):
    """The FCN head with a branch of thresholds. Logits are those of P; `extra["thresholds"]` are those of T.

    Attributes:
      threshold, fusion: the constructors of `ThresholdBranch` and `ProbabilityFusion`; None: no T2P.
      k, thr_target, binarise_on: see `model.atmask` in configs/common.
      binary: whether there is B. Without it thresholds act on P through its features alone.
    """

    threshold: Callable[..., nn.Module] | None = None
    fusion: Callable[..., nn.Module] | None = None
    k: float = 2.0
    thr_target: str = "inverse"
    binarise_on: str = "prob"
    binary: bool = True

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
        """As `FCNMaskHead`. `context` is added to R_p."""
        x = self._pooled(pyramid, rois, context)
        main = features = self._trunk(x, rois, train)
        branch = self.threshold(name="threshold")
        other, thresholds = branch(pyramid, rois, classes, features, train=train)
        if self.fusion is not None:
            main = self.fusion(name="fusion")(features, other, rois.stats, train=train)
        logits = self._logits(self._refined(main), rois, classes, train)
        extra = self._for_auxiliary(x, rois, classes, train) | {"thresholds": thresholds}
        return MaskOutputs(logits, features, extra)

    def losses(self, outputs: MaskOutputs, targets: MaskTargets) -> dict[str, Float[Array, "B R"]]:
        """Eq. 5: L_prob (`mask`), L_thr (`mask_threshold` or `mask_boundary`) and L_bin (`mask_binary`)."""
        losses = super().losses(outputs, targets)
        thresholds = outputs.extra["thresholds"]
        wanted = self._wanted(targets, thresholds.shape[-1])
        entropy = mask_losses.binary_cross_entropy
        if self.thr_target == "boundary":
            edges = masks_lib.boundary(targets.masks(thresholds.shape[-1]))
            losses["mask_boundary"] = entropy(thresholds, edges) + mask_losses.dice(
                thresholds, edges
            )
        elif self.thr_target != "none":
            goal = 1.0 - wanted if self.thr_target == "inverse" else wanted
            losses["mask_threshold"] = entropy(thresholds, goal)
        if self.binary:
            losses["mask_binary"] = entropy(self._binary_logits(outputs), wanted)
        return losses

    def maps(self, outputs: MaskOutputs) -> dict[str, Array]:
        """P, T (`edge` where boundaries are learned in its place) and B."""
        second = "edge" if self.thr_target == "boundary" else "T"
        maps = super().maps(outputs) | {second: jax.nn.sigmoid(outputs.extra["thresholds"])}
        if self.binary:
            maps["B"] = jax.nn.sigmoid(self._binary_logits(outputs))
        return maps

    def _binary_logits(self, outputs: MaskOutputs) -> Array:
        """k (P - T), of which B is the sigmoid (eq. 2)."""
        p, t = outputs.logits, outputs.extra["thresholds"]
        if self.binarise_on == "prob":
            p, t = jax.nn.sigmoid(p), jax.nn.sigmoid(t)
        return self.k * (p - t)


def mask_head(model, pool: Pool, /, **fields) -> FCNMaskHead:
    """The mask head that `model.atmask` asks for; `fields` are those of the FCN head, which it is without thresholds.

    `pool` is what thresholds are pooled by; `fields["pool"]` is the FCN head's.

    See `check` for settings that it cannot have.
    """
    wanted, size = model.atmask, model.mask_head.pool
    if not wanted.threshold:
        return FCNMaskHead(**fields)
    channels, dtype = fields["channels"], fields["dtype"]
    convolve = functools.partial(
        layers.roi_convolution, channels=channels, norm=fields["norm"], dtype=dtype
    )
    branch = functools.partial(
        ThresholdBranch,
        num_maps=fields["num_maps"],
        pool=pool.finest if wanted.thr_source == "P2" else pool,
        pool_size=wanted.thr_pool,
        stride=wanted.thr_pool // size,
        p2t=wanted.p2t,
        fuse=wanted.fuse,
        convs=wanted.thr_convs,
        channels=channels,
        convolve=convolve,
        dtype=dtype,
    )
    return ATMaskHead(
        threshold=branch,
        fusion=functools.partial(ProbabilityFusion, wanted.fuse, convolve) if wanted.t2p else None,
        k=wanted.k,
        thr_target=wanted.thr_target,
        binarise_on=wanted.binarise_on,
        binary=_is_binarised(wanted),
        infer_map=wanted.infer_map,
        **fields,
    )


def loss_weights(model) -> dict[str, float]:
    """`model.criterion.weights`, that of L_bin times lambda."""
    weights = dict(model.criterion.weights)
    if model.mask_head.name == "atmask" and model.atmask.threshold:
        for name in ("mask_binary", "refine_mask_binary"):
            weights[name] = model.atmask.lambda_bin * weights.get(name, 1.0)
    return weights


def _is_binarised(wanted) -> bool:
    return bool(wanted.lambda_bin) or wanted.infer_map == "B"


def check(model) -> None:
    """Raises ValueError for settings of `model.atmask` that contradict each other or have no effect."""
    head = model.mask_head
    if "atmask" in model:
        _check_used(model.atmask, head.name)
    if head.name != "atmask":
        return
    if "atmask" not in model:
        raise settings.missing("config.model.atmask", "config.model.mask_head.name='atmask'")
    if model.atmask.threshold:
        _check_together(model)


def _check_used(wanted, name: str) -> None:
    key = "config.model.atmask"
    if name != "atmask":
        settings.check_unused(key, wanted, DEFAULTS, f"config.model.mask_head.name={name!r}")
    fused, binary = wanted.p2t or wanted.t2p, _is_binarised(wanted)
    uses = {  # whether a setting has an effect, and what takes it away
        "fuse": (fused, "p2t=False and t2p=False"),
        "k": (binary, "lambda_bin=0 and infer_map='P'"),
        "binarise_on": (binary, "lambda_bin=0 and infer_map='P'"),
    }
    if not wanted.threshold:
        uses = {setting: (False, "threshold=False") for setting in DEFAULTS.keys() - {"threshold"}}
    settings.check_used(key, wanted, *((s, DEFAULTS[s], *use) for s, use in uses.items()))


def _check_together(model) -> None:
    wanted, key, head = model.atmask, "config.model.atmask", model.mask_head
    if wanted.thr_target == "none" and not wanted.lambda_bin:
        raise ValueError(
            f"{key}.thr_target='none' with {key}.lambda_bin=0: no loss would teach thresholds anything; change one of "
            "them."
        )
    if wanted.thr_pool % head.pool:
        raise ValueError(
            f"{key}.thr_pool={wanted.thr_pool}: a convolution brings the features of thresholds to the size of those "
            f"of probabilities (config.model.mask_head.pool={head.pool}); allowed are multiples of that."
        )
    if "maskplus" in model and model.maskplus.mask_out == "pooled":
        raise ValueError(
            f"config.model.maskplus.mask_out='pooled' leaves out the upsampling of probabilities, which {key} compares "
            f"with thresholds of {2 * head.pool} x {2 * head.pool}; leave it at its default."
        )
    sums = wanted.fuse == "sum" and wanted.t2p
    if sums and not head.convs and head.channels != model.fpn.channels:
        raise ValueError(
            f"{key}.fuse='sum' adds features of {head.channels} channels (config.model.mask_head.channels) to what is "
            f"pooled, {model.fpn.channels} (config.model.fpn.channels): with config.model.mask_head.convs=0 they must "
            "be equal."
        )
