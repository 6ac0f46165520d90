"""Whether masks help boxes apart where objects huddle: Mask Refining R-CNN on drawn scenes, on two CPU cores.

  python -m jaxseg.reproduce huddled --workdir=runs/huddled
  python -m jaxseg.reproduce huddled --workdir=runs/facades --data=root=DIR

Objects are put beside the one before with probability 0.9: most touch or cover another one, mostly of another class.
A small Mask R-CNN is trained for 700 steps; then, from its checkpoint, three models for 200 more steps each: itself,
with the refining module on plain RoIAlign, and with the refining module on Shape-aware RoIAlign. Three seeds. The two
are compared with `continued`. The settings were written down before the first run, and nothing was chosen on the
validation scenes.
"""

from configs.tables.table import Row, Table

_SCENES = {
    "data.shapes.train": 1500,
    "data.shapes.val": 200,
    "data.shapes.objects": (4, 8),
    "data.shapes.huddled": 0.9,
    "eval.max_images": 0,
}
BASE = {
    **_SCENES,
    "train.steps": 700,
    "train.eval_every": 700,
    "train.save_every": 350,
}
MORE = {
    **_SCENES,
    "optim.milestones": (133,),
    "optim.warmup_steps": 10,
    "train.steps": 200,
    "train.eval_every": 200,
    "train.save_every": 100,
}


def get_table() -> Table:
    def more(name, label, row):
        config = f"configs/mr_rcnn.py:r18,{row}"
        return Row(name=name, config=config, label=label, overrides=MORE, start_from="base")

    return Table(
        title="Mask Refining R-CNN on huddled objects",
        source="The settings of this project; the paper has no such table.",
        baseline="continued",
        data="shapes",
        scale="small",
        columns=("box/AP", "box/AP50", "box/AP75", "mask/AP", "mask/AP50", "mask/AP75"),
        notes=(
            "A small model and short training, on drawn scenes or on the data that was given: this tells what the "
            "refining module does here, and nothing about COCO."
        ),
        rows=(
            Row(name="base", config="configs/mask_rcnn.py:r18", label="Mask R-CNN", overrides=BASE),
            more("continued", "Mask R-CNN, continued", "table3.base"),
            more("rm", "refining module, RoIAlign", "table3.rm"),
            more("rm_sara", "refining module, Shape-aware RoIAlign", "table3.rm_sara"),
        ),
    )
