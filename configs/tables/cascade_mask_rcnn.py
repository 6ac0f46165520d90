"""Cascade Mask R-CNN beside Mask R-CNN, as Detectron2 and MMDetection publish them, on COCO 2017.

  python -m jaxseg.reproduce cascade_mask_rcnn --workdir=runs/cascade_mask_rcnn --data=coco,root=/data/coco \
      --weights=r50_caffe=R-50.pkl,r50=R50.pth,r101=R101.pth

`--rows=*_1x` takes the short schedule alone, `--rows=detectron2_*` one library's. The weights are ImageNet
classifiers: r50_caffe is MSRA's, r50 and r101 are torchvision's or timm's (docs/weights.md).
"""

from configs.tables.table import Row, Table

NOTES = """
Each cascade is compared with the Mask R-CNN of the same library, backbone and schedule. Detectron2's numbers are those
of its model zoo, each of one run; MMDetection's are those of its own, as BRefine cites them.

`detectron2_cascade_3heads_r50_1x` differs from `detectron2_cascade_r50_1x` in its mask heads alone: three, each on the
boxes of its stage, and not one on the proposals.

Where this project does not follow MMDetection: the boxes of later stages are not sampled anew, and boxes of objects
stay among them (docs/methods/cascade_mask_rcnn.md).
"""

_LABELS = {"mask_rcnn": "Mask R-CNN", "cascade": "Cascade Mask R-CNN"}
_LIBRARIES = {"detectron2": "Detectron2", "mmdet": "MMDetection"}
# Library, backbone, schedule, pretrained weights; box and mask AP of Mask R-CNN and of the cascade; source.
_PUBLISHED = (
    ("detectron2", "r50", "1x", "r50_caffe", (38.6, 35.2), (42.1, 36.4), "model zoo"),
    ("detectron2", "r50", "3x", "r50_caffe", (41.0, 37.2), (44.3, 38.5), "model zoo"),
    ("mmdet", "r50", "1x", "r50", (38.2, 34.7), (41.2, 35.9), "model zoo, and BRefine, Table 2"),
    ("mmdet", "r101", "1x", "r101", (40.1, 36.2), (42.9, 37.3), "BRefine, Tables 1 and 2"),
)


def get_table() -> Table:
    return Table(
        title="Cascade Mask R-CNN",
        source="Cai, Vasconcelos: Cascade R-CNN, arXiv 1712.00726 and 1906.09756.",
        notes=NOTES,
        columns=(
            *("box/AP", "box/AP50", "box/AP75"),
            *("mask/AP", "mask/AP50", "mask/AP75", "mask/APs", "mask/APm", "mask/APl"),
        ),
        rows=(*(row for numbers in _PUBLISHED for row in _pair(*numbers)), *_ours()),
    )


def _pair(library, backbone, schedule, weights, plain, cascade, source) -> tuple[Row, ...]:
    words = f"{library},{backbone},{schedule},pretrained"
    baseline = f"{library}_mask_rcnn_{backbone}_{schedule}"

    def row(kind, file, numbers):
        return Row(
            name=f"{library}_{kind}_{backbone}_{schedule}",
            config=f"configs/{file}.py:{words}",
            label=f"{_LABELS[kind]}, {backbone}, {schedule}, {_LIBRARIES[library]}",
            weights=weights,
            baseline=baseline,
            published=dict(zip(("box/AP", "mask/AP"), numbers, strict=True)),
            source=f"{_LIBRARIES[library]}, {source}",
        )

    return row("mask_rcnn", "mask_rcnn", plain), row("cascade", "cascade_mask_rcnn", cascade)


def _ours() -> tuple[Row, ...]:
    base = "detectron2_cascade_r50_1x"
    return (
        Row(
            name="detectron2_cascade_3heads_r50_1x",
            config="configs/cascade_mask_rcnn.py:detectron2,r50,1x,pretrained",
            label="Cascade Mask R-CNN, r50, 1x, Detectron2, a mask head a stage",
            overrides={"model.cascade.mask_heads": 3},
            weights="r50_caffe",
            baseline=base,
        ),
    )
