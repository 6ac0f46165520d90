"""Finds instances in your own images.

python predict.py --workdir=runs/demo --images=photos --images='more/*.png' --out=predictions
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from jaxseg import cli, predictor
from jaxseg.data import views
from jaxseg.evaluation import folder

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a training run.", required=True)
_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "Files, folders or quoted globs; give it several times, or separate by commas.",
    required=True,
)
_OUT = flags.DEFINE_string("out", "predictions", "Folder for overlays, results.json, images.json.")
_SCORE = flags.DEFINE_float("score", 0.5, "Detections with a lower score are left out.", 0.0, 1.0)
_MAPS = flags.DEFINE_multi_integer(
    "maps",
    [],
    "Rank (0: the best of an image) of a detection whose maps are drawn; several times for several.",
    lower_bound=0,
)
_TTA_SCALE = flags.DEFINE_multi_string(
    "tta_scale",
    None,
    "Shorter side at which an image is shown to the model; several times, or separated by commas, for several views.",
)
_TTA_FLIP = flags.DEFINE_bool("tta_flip", None, "Show it from left to right as well.")
_STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best, or a step's number.")


def main(_: list[str]) -> None:
    patterns = [part for value in _IMAGES.value for part in value.split(",") if part]
    files = folder.find_images(patterns)
    model = predictor.Predictor.from_workdir(
        _WORKDIR.value,
        _STEP.value,
        score_threshold=_SCORE.value,
        maps=bool(_MAPS.value),
        tta_scales=views.scales_of(_TTA_SCALE.value),
        tta_flip=_TTA_FLIP.value,
    )
    count, problems = folder.predict_files(
        model, files, _OUT.value, model.categories, maps=_MAPS.value
    )
    done = len(files) - problems.total()
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(f"{count} instances in {done} images: see {_OUT.value}")
    if problems.total():
        console.print(f"skipped: {problems.summary()}", style="yellow")


if __name__ == "__main__":
    cli.run(main)
