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


def rows(backbone: str, base: dict, more: dict) -> tuple[Row, ...]:
    """A Mask R-CNN, and three models that go on from it; `base` and `more` are their settings."""

    def go_on(name, label, row):
        config = f"configs/mr_rcnn.py:{backbone},{row}"
        return Row(name=name, config=config, label=label, overrides=more, start_from="base")

    config = f"configs/mask_rcnn.py:{backbone}"
    return (
        Row(name="base", config=config, label="Mask R-CNN", overrides=base),
        go_on("continued", "Mask R-CNN, continued", "table3.base"),
        go_on("rm", "refining module, RoIAlign", "table3.rm"),
        go_on("rm_sara", "refining module, Shape-aware RoIAlign", "table3.rm_sara"),
    )


def get_table() -> Table:
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
        rows=rows("r18", BASE, MORE),
    )
