"""MaskPlus and Cascade Mask R-CNN on cell nuclei, on two CPU cores.

  python -m jaxseg.reproduce maskplus_nuclei --workdir=runs/maskplus --data=root=DIR --rows=mask_rcnn,maskplus
  python -m jaxseg.reproduce maskplus_nuclei --workdir=runs/maskplus --data=root=DIR --seeds=1

Three seeds of Mask R-CNN and of MaskPlus, one of everything else: each technique alone, Cascade Mask R-CNN, and
MaskPlus+. The model and the data of configs/nuclei.py (one class, hundreds of small objects an image), 450 steps of 4
images from nothing; MaskPlus+ for as many steps as the others, so that what differs is the model. The settings were
written down before the first run, and nothing is chosen on the validation images.
"""

from configs.tables.table import Row, Table

SETTINGS = {  # as configs/nuclei.py
    "data.buckets": ((256, 256), (256, 384)),
    "data.resize.short": (256,),
    "data.max_instances": 256,
    "model.rpn.anchor_sizes": (8, 16, 32, 64, 128),
    "model.rpn.pre_nms": (1000, 1000),
    "model.rpn.post_nms": (500, 700),
    "model.criterion.rpn.samples": 256,
    "model.criterion.roi.samples": 128,
    "model.test.max_detections": 400,
    "model.test.candidates": 700,
    "eval.max_detections": 400,
    "eval.max_images": 0,
    "train.steps": 450,
    "train.eval_every": 450,
    "train.save_every": 150,
}
_PARTS = {
    "context": "contextual fusion",
    "pyramid": "deconvolutional pyramid",
    "boundary": "improved boundary refinement",
    "quasi": "quasi-multitask learning 0.5x",
    "bias": "biased training",
}


def get_table() -> Table:
    def row(name, config, label):
        return Row(name=name, config=config, label=label, overrides=SETTINGS)

    return Table(
        title="MaskPlus and Cascade Mask R-CNN on nuclei",
        source="The settings of this project; the papers have no such table.",
        baseline="mask_rcnn",
        scale="small",
        columns=("mask/AP", "mask/AP50", "mask/AP75", "box/AP", "box/AP50", "box/AP75"),
        notes=(
            "A small model and short training: this tells what the parts do here, and nothing about COCO. One seed "
            "cannot tell a row from chance: the spread of Mask R-CNN over its seeds is the yardstick."
        ),
        rows=(
            row("mask_rcnn", "configs/mask_rcnn.py:r18", "Mask R-CNN"),
            *(
                row(part, f"configs/maskplus.py:r18,parts={part}", label)
                for part, label in _PARTS.items()
            ),
            row("maskplus", "configs/maskplus.py:r18", "MaskPlus"),
            row("cascade", "configs/cascade_mask_rcnn.py:r18", "Cascade Mask R-CNN"),
            row("maskplus_plus", "configs/maskplus.py:r18,cascade", "MaskPlus+"),
        ),
    )
