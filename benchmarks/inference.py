"""How long detection takes: latency and throughput of jaxseg's methods, and of torchvision's Mask R-CNN.

    python -m benchmarks.inference                                     # a CPU: one image of 512 x 512
    python -m benchmarks.inference --size=800,1344 --batch_size=16 --dtype=bfloat16 --pasted
    python -m benchmarks.inference --methods=mask_rcnn,mr_rcnn --json=FILE

A call is everything from a batch of images on the device to 100 detections an image with their masks of 28 x 28 (a
program that finds fewer has no times); with
`--pasted` also the pasting of these into the images: jaxseg's as RLE on the host (one process, as `eval.py` without
workers), torchvision's on its device. The programs of a contest take turns; times are medians. `--profile=DIR`: as
`benchmarks/train_step.py`.
"""

from __future__ import annotations

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from benchmarks import contests, detector, models, profiling, scene, torchvision_peer
from benchmarks.contest import Contestant

models.define_flags(size=(512, 512), batch_size=1)
profiling.define_flags()
_PASTED = flags.DEFINE_bool("pasted", False, "Masks of the size of the images.")


def contestant(config: ConfigDict, made: scene.Scene) -> Contestant:
    plain = detector.detection(config, made)
    if not _PASTED.value:
        return plain
    from jaxseg.evaluation import results  # needs pycocotools and OpenCV

    sizes = np.tile(np.asarray(made.images.shape[1:3]), (len(made.images), 1))

    def run():
        return results.detections_to_results(
            jax.device_get(plain.run()),
            np.arange(len(sizes)),
            sizes.astype(np.float32),
            sizes,
            list(range(config.model.num_classes)),
            paste=config.model.test.paste,
        )

    # Each call ends with the pasted masks: there is nothing to wait for.
    return plain._replace(run=run, wait=lambda results: results)


def peer_contestant(peer: torchvision_peer.Peer, config: ConfigDict) -> Contestant:
    test = config.model.test
    return peer.detection(
        candidates=test.candidates, detections=test.max_detections, pasted=_PASTED.value
    )


def main(argv: list[str]) -> None:
    contests.main(
        argv, "inference", contestant, peer_contestant, profiling.detection, pasted=_PASTED.value
    )


if __name__ == "__main__":
    app.run(main)
