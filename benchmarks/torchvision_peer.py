"""torchvision's Mask R-CNN on the same images: the peer that jaxseg's times stand beside.

Same backbone, norms, frozen stages, image sizes, batch, proposals (2000 a level and 1000 an image in training, 1000 and
1000 in test), sampled RoIs, RoIs with masks, candidates of the last suppression and detections as
`configs/mask_rcnn.py:r50`. On a GPU: channels_last, autocast where jaxseg computes in bfloat16, float32 products in
TF32 as XLA's, and cuDNN's own choice of algorithms (`cudnn.benchmark`). Compiled, torch.compile has the parts with
parameters: what lies between them has shapes that depend on the data, and stays eager.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import detector
from benchmarks import scene as scenes
from benchmarks.contest import Contestant

_POSITIVE_IOUS = (0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02)


class Unavailable(RuntimeError):
    """Why there is no peer here."""


def import_torch() -> tuple[Any, Any]:
    """(torch, torchvision). Raises Unavailable with the reason."""
    try:
        import torch
        import torchvision

        torchvision.ops.nms  # noqa: B018
        torch.ops.torchvision.nms  # noqa: B018  its compiled operators, which a build that does not fit lacks
    except Exception as error:  # a build that does not fit raises what it likes
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise Unavailable(f"torchvision cannot be used here ({line})") from error
    return torch, torchvision


class Peer:
    """The model with random weights, on jax's platform.

    Args:
      platform: "cpu" or "gpu".
      dtype: "float32", or "bfloat16" for autocast.
      backbone: a ResNet of torchvision, e.g. "resnet50".
      compiled: by torch.compile. What the compiler raises, `training` and `detection` raise.

    On a GPU the bytes of a contestant are right if no other is made or runs between this and `training` or `detection`.
    """

    def __init__(
        self,
        scene: scenes.Scene,
        *,
        platform: str,
        dtype: str,
        backbone: str,
        classes: int,
        seed: int = 0,
        compiled: bool = False,
    ):
        self.torch, self.vision = import_torch()
        if platform == "gpu" and not self.torch.cuda.is_available():
            raise Unavailable("this torch finds no GPU")
        if platform not in ("cpu", "gpu"):
            raise Unavailable(f"torchvision does not run on jax's {platform}")
        self.device = "cuda" if platform == "gpu" else "cpu"
        self.torch.manual_seed(seed)
        self.torch.backends.cudnn.benchmark = True
        if self.device == "cuda":
            self.torch.set_float32_matmul_precision("high")  # TF32
        self.others = self.torch.cuda.memory_allocated() if self.device == "cuda" else 0
        self.autocast = dtype != "float32"
        model = _model(self.vision, backbone, scene.images.shape[1:3], classes)
        _damp(self.torch, model)
        model = model.to(self.device)
        if self.device == "cuda":
            model = model.to(memory_format=self.torch.channels_last)
        if compiled:
            for part in _parts(model):
                part.compile()
        self.model, self.compiled = model, compiled
        tensor = self.torch.from_numpy
        self.images = [tensor(i).permute(2, 0, 1).to(self.device) / 255 for i in scene.images]
        self.targets = [
            {
                "boxes": tensor(boxes).to(self.device),
                "labels": tensor(labels).long().to(self.device) + 1,
                "masks": tensor(scenes.full_masks(scene, index)).to(self.device),
            }
            for index, (boxes, labels) in enumerate(zip(scene.boxes, scene.classes, strict=True))
        ]

    def training(self, *, masks: int) -> Contestant:
        """Steps of SGD on one batch.

        Args:
          masks: RoIs an image whose masks are predicted. jaxseg has as many slots; here it is the number of positive
            RoIs, so the IoU that makes a proposal positive is chosen so that there are enough.
        """
        begin, torch, model = time.perf_counter(), self.torch, self.model.train()
        facts = {"masks": self._fill_masks(masks)}
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=1e-4)
        last = {}

        def run():
            with self._precision():
                loss = sum(model(self.images, self.targets).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            last["loss"] = loss.detach()
            return loss

        facts |= self._facts(run, begin)
        return Contestant(run, self._wait, lambda: float(last["loss"]), facts)

    def detection(self, *, candidates: int, detections: int, pasted: bool) -> Contestant:
        """Detections of one batch.

        Args:
          candidates: (box, class) pairs an image that enter the last suppression. jaxseg has a limit; here, the score
            threshold is chosen so.
          detections: that must be found in an image.
          pasted: with masks of the size of the images.
        """
        begin, model, last = time.perf_counter(), self.model.eval(), {}
        model.roi_heads.detections_per_img = detections
        model.roi_heads.score_thresh = self._score_of(candidates)
        if not pasted:
            model.transform.postprocess = lambda found, *_: found

        def run():
            with self.torch.inference_mode(), self._precision():
                last["found"] = model(self.images)
            return last["found"]

        def check():
            detector.filled_slots([len(found["scores"]) for found in last["found"]], detections)
            return float(sum(found["scores"].sum() for found in last["found"]))

        return Contestant(run, self._wait, check, self._facts(run, begin))

    def _fill_masks(self, masks: int) -> int:
        """Lowers what makes a proposal positive until `masks` an image are, and returns how many there are."""
        counts = []
        heads = self.model.roi_heads
        hook = heads.mask_head.register_forward_hook(
            lambda _module, inputs, _outputs: counts.append(len(inputs[0]))
        )
        for iou in _POSITIVE_IOUS:
            heads.proposal_matcher.high_threshold = heads.proposal_matcher.low_threshold = iou
            with self.torch.no_grad(), self._precision():
                self.model(self.images, self.targets)
            if counts[-1] >= masks * len(self.images):
                break
        hook.remove()
        return counts[-1] // len(self.images)

    def _score_of(self, candidates: int) -> float:
        """The score that `candidates` pairs an image reach."""
        logits = []
        hook = self.model.roi_heads.box_predictor.register_forward_hook(
            lambda _module, _inputs, outputs: logits.append(outputs[0])
        )
        with self.torch.inference_mode(), self._precision():
            self.model(self.images)
        hook.remove()
        scores = logits[0].float().softmax(-1)[:, 1:].flatten()
        count = min(len(scores), candidates * len(self.images))
        lowest = float(scores.topk(count).values[-1])
        return lowest * (1 - 1e-6)  # the threshold itself does not pass

    def _facts(self, run: Callable[[], Any], begin: float) -> dict[str, float]:
        """Seconds from `begin` to the end of the first call, if that compiles; on a GPU, the most bytes of two calls.

        The second call has all of the optimizer's state.
        """
        facts = {}
        if self.compiled:
            self._wait(run())
            facts["compile_seconds"] = time.perf_counter() - begin
        if self.device == "cuda":
            self.torch.cuda.reset_peak_memory_stats()
            run()
            self._wait(run())
            facts["peak_bytes"] = self.torch.cuda.max_memory_allocated() - self.others
        return facts

    def _precision(self):
        return self.torch.autocast(self.device, dtype=self.torch.bfloat16, enabled=self.autocast)

    def _wait(self, _result: Any) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()


def _parts(model: Any) -> list[Any]:
    heads = model.roi_heads
    return [
        model.backbone,
        model.rpn.head,
        heads.box_head,
        heads.box_predictor,
        heads.mask_head,
        heads.mask_predictor,
    ]


def _model(vision: Any, backbone: str, size: tuple[int, int], classes: int) -> Any:
    from torchvision.models import resnet
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor

    norm = vision.ops.misc.FrozenBatchNorm2d
    body = getattr(resnet, backbone)(weights=None, norm_layer=norm)
    return MaskRCNN(
        _resnet_fpn_extractor(body, trainable_layers=3),
        num_classes=classes + 1,
        min_size=min(size),
        max_size=max(size),
        rpn_post_nms_top_n_train=1000,
    )


def _damp(torch: Any, model: Any, factor: float = 0.2) -> None:
    """As `detector.damped`."""
    for name, buffer in model.backbone.named_buffers():
        if name.endswith("bn3.weight") or (name.endswith("bn2.weight") and _is_last(model, name)):
            buffer.mul_(factor)


def _is_last(model: Any, name: str) -> bool:
    """Whether the norm is the last of a block with two."""
    block = model.backbone.get_submodule(name.rpartition(".bn2")[0])
    return not hasattr(block, "bn3")
