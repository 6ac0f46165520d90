"""Writes a run's weights under torchvision's names: `python -m jaxseg.weights.export --workdir=DIR --out=FILE`.

model = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
model.load_state_dict(safetensors.torch.load_file("FILE.safetensors"))

What torchvision computes otherwise than the run's config says is printed.
"""

from __future__ import annotations

from absl import flags
from rich.console import Console

from jaxseg import cli
from jaxseg.training import checkpoints
from jaxseg.weights import files, hints, layouts, run

_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a run.", required=True)
_OUT = flags.DEFINE_string("out", None, "The .safetensors file to write.", required=True)
_STEP = flags.DEFINE_string("step", "latest", "Which checkpoint: latest, best, or a step's number.")


def main(_: list[str]) -> None:
    if not _OUT.value.endswith(".safetensors"):
        raise ValueError(f"--out={_OUT.value}: its name must end with .safetensors.")
    config, _, variables, step = checkpoints.restore_for_eval(_WORKDIR.value, _STEP.value)
    state_dict = layouts.to_torchvision(
        variables["params"], variables["batch_stats"], config, rest=run.rest(_WORKDIR.value)
    )
    files.save_safetensors(_OUT.value, state_dict)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    console.print(f"{len(state_dict)} arrays of step {step} written to {_OUT.value}")
    for note in hints.notes("torchvision", {}, config):
        console.print(f"note     {note}")
    if not config.model.backbone.norm_epsilon:
        console.print(
            "note     After loading, call torchvision.models.detection._utils.overwrite_eps(model, 0.0)."
        )


if __name__ == "__main__":
    cli.run(main)
