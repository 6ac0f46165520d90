"""How long a training step takes: jaxseg's methods, and torchvision's Mask R-CNN on the same images.

    python -m benchmarks.train_step                                                     # a CPU: 2 images of 512 x 512
    python -m benchmarks.train_step --size=800,1344 --batch_size=16 --dtype=bfloat16    # a GPU
    python -m benchmarks.train_step --methods=mask_rcnn,mr_rcnn,brefine --backbone=r101 --json=FILE
    python -m benchmarks.train_step --profile=DIR                                       # where the time goes

A step is forward, backward and update of everything that trains (FrozenBN, stem and first stage frozen), on one batch
of random images with seven objects each, which stays on the device: reading data is `benchmarks/input_pipeline.py`. The
programs of a contest take turns; times are medians, and ratios are those of one run. A program whose loss is not finite
has no times. MiB are what XLA plans for a step with its state, and what torch took at most on a GPU.

`--profile=DIR` measures nothing: it writes a trace of three steps of each method for xprof, and prints the ten
operations that took longest with their share, and the FLOPs of convolutions and matrix products over the time.
"""

from __future__ import annotations

from absl import app

from benchmarks import contests, detector, models, profiling

models.define_flags(size=(512, 512), batch_size=2)
profiling.define_flags()


def main(argv: list[str]) -> None:
    contests.main(
        argv,
        "train_step",
        detector.training,
        lambda peer, config: peer.training(masks=detector.mask_slots(config)),
        profiling.train_step,
    )


if __name__ == "__main__":
    app.run(main)
