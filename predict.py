"""Finds instances in your own images.

python predict.py --workdir=runs/demo --images=photos --images='more/*.png' --out=predictions
"""

from __future__ import annotations

import sys

from absl import app, flags, logging
from rich.console import Console

from jaxseg import predictor
from jaxseg.evaluation import folder

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a training run.", required=True)
_IMAGES = flags.DEFINE_multi_string(
    "images",
    None,
    "Files, folders or globs; give it several times, or separate by commas.",
    required=True,
)
_OUT = flags.DEFINE_string("out", "predictions", "Folder for overlays, results.json, images.json.")
_SCORE = flags.DEFINE_float("score", 0.5, "Detections with a lower score are left out.", 0.0, 1.0)
_STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best, or a step's number.")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}. Quote globs.")
    patterns = [part for value in _IMAGES.value for part in value.split(",") if part]
    console = Console()
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    try:
        files = folder.find_images(patterns)
        model = predictor.Predictor.from_workdir(
            _WORKDIR.value, _STEP.value, score_threshold=_SCORE.value
        )
        count, problems = folder.predict_files(model, files, _OUT.value, model.categories)
    except (OSError, ValueError) as error:
        sys.exit(f"predict.py: {error}")
    done = len(files) - problems.total()
    console.print(f"{count} instances in {done} images: see {_OUT.value}", highlight=False)
    if problems.total():
        console.print(f"skipped: {problems.summary()}", style="yellow", highlight=False)


if __name__ == "__main__":
    app.run(main)
