"""MaskPlus, Tables 1 to 7 of the paper, on COCO 2017.

  python -m jaxseg.reproduce maskplus --workdir=runs/maskplus --data=coco,root=/data/coco \
      --weights=r50=R50.pth,r101=R101.pth

Every row is trained by the paper's recipe (configs/recipes.py, which says what of it is not followed): 360,000 steps of
8 images, MaskPlus+ 540,000. `--rows=table1.*` takes the rows of one table.
"""

from configs.tables.table import Row, Table

NOTES = """
The rows of Tables 1 to 6 are ResNet-50 and val2017, and share one baseline: `mask_rcnn_r50`. Those of Table 7 are
ResNet-101, and their published numbers are of test-dev2017. No number of the whole MaskPlus with ResNet-50 is
published; `maskplus_r50` and `maskplus_plus_r50` are here for those who have no room for ResNet-101.

What the paper leaves open, and how it is read here: docs/methods/maskplus.md.
"""

_MASK = ("mask/AP", "mask/AP50", "mask/AP75", "mask/APs", "mask/APm", "mask/APl")
_BOX = ("box/AP", "box/AP50", "box/AP75", "box/APs", "box/APm", "box/APl")
_PUBLISHED = {  # R50, val2017
    "table1.cf_256_256": ("contextual fusion 256-256", (35.3, 56.7, 37.6, 18.6, 38.6, 48.6)),
    "table1.cf_256_256_256": (
        "contextual fusion 256-256-256",
        (35.4, 56.9, 37.7, 18.4, 38.5, 48.7),
    ),
    "table1.cf_720_512_512_256": (
        "contextual fusion 720-512-512-256",
        (35.5, 57.0, 37.8, 18.5, 38.7, 48.8),
    ),
    "table2.dpm": ("deconvolutional pyramid", (35.4, 56.9, 37.6, 18.8, 38.6, 48.3)),
    "table3.original": ("original boundary refinement", (35.2, 56.6, 37.6, 18.3, 38.2, 48.4)),
    "table3.improved": ("improved boundary refinement", (35.5, 56.9, 38.0, 18.3, 38.8, 49.1)),
    "table4.half": ("Mask R-CNN, 0.5x mask", (34.3, 56.4, 36.7, 17.9, 37.7, 46.4)),
    "table4.qml_half": ("quasi-multitask learning 0.5x", (35.4, 56.7, 37.7, 18.4, 38.6, 48.7)),
    "table4.qml_double": ("quasi-multitask learning 2x", (35.2, 56.5, 37.5, 18.5, 38.3, 48.4)),
}
_MASK_RCNN = (35.1, 56.6, 37.5, 18.4, 38.4, 48.3), (38.3, 59.8, 41.6, 21.8, 41.9, 50.3)
_BIASED = (35.4, 56.7, 37.8, 18.2, 38.5, 48.8), (38.6, 60.0, 41.8, 21.7, 42.1, 51.3)
_TEST_DEV = {  # R101
    "mask_rcnn": (36.9, 59.0, 39.5, 19.9, 39.7, 48.3),
    "table7.maskplus": (38.1, 59.9, 41.0, 20.2, 40.8, 50.4),
    "table7.maskplus_plus": (40.9, 63.0, 44.5, 23.5, 43.6, 52.3),
}


def get_table() -> Table:
    return Table(
        title="MaskPlus",
        source="MaskPlus, WACV 2020.",
        notes=NOTES,
        columns=(*_MASK, *_BOX),
        baseline="mask_rcnn_r50",
        rows=(
            _base("r50", _numbers(*_MASK_RCNN), "Tables 1 to 6"),
            *(
                _row(name, "r50", label, _numbers(numbers), f"Table {name[5]}")
                for name, (label, numbers) in _PUBLISHED.items()
            ),
            _row("table5.bt", "r50", "biased training", _numbers(*_BIASED), "Tables 5 and 6"),
            _row("table7.maskplus", "r50", "MaskPlus", {}, ""),
            _row("table7.maskplus_plus", "r50", "MaskPlus+", {}, ""),
            _base("r101", _numbers(_TEST_DEV["mask_rcnn"]), "Table 7, test-dev2017"),
            *(
                _row(name, "r101", label, _numbers(_TEST_DEV[name]), "Table 7, test-dev2017")
                for name, label in (
                    ("table7.maskplus", "MaskPlus"),
                    ("table7.maskplus_plus", "MaskPlus+"),
                )
            ),
        ),
    )


def _base(backbone: str, published: dict, source: str) -> Row:
    return Row(
        name=f"mask_rcnn_{backbone}",
        config=f"configs/mask_rcnn.py:maskplus,{backbone},2x,pretrained",
        label=f"Mask R-CNN, {backbone}",
        weights=backbone,
        baseline=f"mask_rcnn_{backbone}",
        published=published,
        source=source,
    )


def _row(name: str, backbone: str, label: str, published: dict, source: str) -> Row:
    return Row(
        name=f"{name}_{backbone}",
        config=f"configs/maskplus.py:recipe=maskplus,{backbone},2x,{name},pretrained",
        label=f"{label}, {backbone}",
        weights=backbone,
        baseline=f"mask_rcnn_{backbone}",
        published=published,
        source=source,
    )


def _numbers(mask: tuple[float, ...], box: tuple[float, ...] = ()) -> dict[str, float]:
    return dict(zip(_MASK, mask, strict=True)) | dict(zip(_BOX, box, strict=False))
