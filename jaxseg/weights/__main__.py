"""Makes a work directory out of a file of weights: `python -m jaxseg.weights SOURCE --config=... --workdir=...`.

python -m jaxseg.weights maskrcnn_resnet50_fpn_coco.pth --config=configs/mask_rcnn.py:torchvision --workdir=runs/tv
python -m jaxseg.weights model_final_f10217.pkl --config=configs/mask_rcnn.py:detectron2 --workdir=runs/d2

SOURCE is a .pth, .pt, .safetensors or .pkl file, or hf://organisation/name/file. See docs/weights.md.
"""

from __future__ import annotations

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from jaxseg import cli
from jaxseg.training import storage
from jaxseg.weights import categories as categories_lib
from jaxseg.weights import classes, files, hub, layouts, run

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The config of the model in the file.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where the run goes; a new folder.", required=True)
_CLASSES = flags.DEFINE_string("classes", "all", f"Classes of the file to take: {classes.WORDS}.")
_CATEGORIES = flags.DEFINE_string(
    "categories", None, "JSON file with the model's classes in COCO's format."
)
_CHANNELS = flags.DEFINE_enum(
    "channels",
    "auto",
    ["auto", "rgb", "bgr"],
    "Order of the colours that the file's first convolution takes; auto: bgr for Detectron2.",
)
_IGNORE = flags.DEFINE_multi_string(
    "ignore", [], "Names (regular expressions) of arrays that are not wanted."
)
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    source = argv[1]
    config = _CONFIG.value
    categories = categories_lib.read(_CATEGORIES.value) if _CATEGORIES.value else None
    storage.checked(config.checkpoints)
    state_dict = files.load_file(hub.resolve(source))
    chosen = classes.parse(_CLASSES.value)
    folder = run.check_new(_WORKDIR.value)  # last: a mistake above leaves no folder
    if categories and not config.model.num_classes:
        config.model.num_classes = len(categories)
    imported = layouts.from_any(
        state_dict,
        config,
        classes=chosen,
        channels=_CHANNELS.value,
        ignore=_IGNORE.value,
    )
    told = ""
    if categories is None:
        categories = categories_lib.of_imported(state_dict.metadata, imported)
        told = " (--categories=FILE.json says otherwise)"
    run.write(folder, imported, categories, source)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(str(imported.report))
    names = ", ".join(c.name for c in categories[:5]) + (", ..." if len(categories) > 5 else "")
    console.print(f"classes  {len(categories)}: {names}{told}")
    console.print(f"Written to {folder}")


if __name__ == "__main__":
    cli.run(main, arguments=["SOURCE"])
