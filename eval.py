"""Evaluates a training run on a split: COCO's box and mask AP, a table of the classes, a results file.

python eval.py --workdir=runs/demo
python eval.py --workdir=runs/mine --step=best --split=test
python eval.py --workdir=runs/r50 --split=test-dev --submission=my-method
python eval.py --workdir=runs/mine --config=configs/mask_rcnn.py:root=DIR --config.eval.max_detections=400
"""

from __future__ import annotations

import pathlib
import sys

import jax
from absl import flags
from ml_collections import config_flags
from rich.console import Console

from configs import common
from jaxseg import cli, exits, methods
from jaxseg.data import sources, views
from jaxseg.evaluation import exchange, inference, pictures, runs
from jaxseg.evaluation import report as reports
from jaxseg.evaluation.submission import servers
from jaxseg.training import checkpoints, processes, sharding, workdir
from jaxseg.training import step as step_lib

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Data and evaluation settings to use instead of those of the run.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Work directory of a training run.", required=True)
_STEP = flags.DEFINE_string("step", None, "latest, best, or a step's number; default: eval.step.")
_SPLIT = flags.DEFINE_string("split", None, "A split of config.data; default: eval.split.")
_SUBMISSION = flags.DEFINE_string(
    "submission",
    None,
    "Name of the algorithm in files for a test server; default: the work directory's.",
)
_TTA_SCALE = flags.DEFINE_multi_string(
    "tta_scale", None, "Replaces eval.tta.scales: shorter sides, separated by commas."
)
_TTA_FLIP = flags.DEFINE_bool("tta_flip", None, "Replaces eval.tta.flip.")
_OUT = flags.DEFINE_string("out", None, "Folder for the results; default: WORKDIR/eval/SPLIT-STEP.")
processes.define_flags()


def main(_: list[str]) -> None:
    processes.initialize(processes.from_flags())
    group = exchange.of_this_run()
    try:
        with group.together():
            _evaluate(group)
    except exchange.PeerFailed:
        if group.first:
            raise
        sys.exit(cli.STATUS)  # the first process tells it
    except exchange.Preempted:
        if group.first:
            print("Stopped by SIGTERM. The same command starts it anew.", file=sys.stderr)
        sys.exit(exits.PREEMPTED)


def _evaluate(group: exchange.Group) -> None:
    run, _ = workdir.load_run(_WORKDIR.value)
    config = views.with_asked(
        runs.with_settings(run, _CONFIG.value), views.scales_of(_TTA_SCALE.value), _TTA_FLIP.value
    )
    split = config.eval.split = (_SPLIT.value or config.eval.split).replace("-", "_")
    source = sources.open_source(config.data, split)
    asked = {"split": split, "eval": config.eval.to_dict(), "model": config.model.to_dict()}
    group.agree("The settings", f"those with checksum {exchange.checksum(asked)}")
    _, trained, variables, step = checkpoints.restore_for_eval(
        _WORKDIR.value,
        _STEP.value or config.eval.step,
        report=print if group.first else lambda line: None,
    )
    group.agree("The checkpoint", f"that of step {step}")
    categories = runs.match_categories(trained, source.categories)
    changed = workdir.differences(run, config, common.base())
    changed.pop("eval.split", None)  # the first line of the report says it
    out = _OUT.value or pathlib.Path(_WORKDIR.value) / "eval" / f"{split}-{step}"
    submission = None
    if group.first:  # which writes
        if not _OUT.value:
            workdir.check_evaluation(out, config, common.base())
        submission = servers.plan(
            split, source, out, name=_SUBMISSION.value, workdir=_WORKDIR.value, method=config.method
        )
        out = reports.make_folder(out)
    mesh = sharding.make_mesh(jax.local_devices())
    sharding.check_batch(config.eval.batch_size, 1, mesh, key="eval.batch_size")
    detect = step_lib.make_detect(methods.build(config), mesh)
    with jax.set_mesh(mesh):
        variables = jax.device_put(variables, sharding.replicated(mesh))
        report = inference.evaluate_source(
            lambda batch: detect(variables, batch),
            source,
            config,
            categories=categories,
            split=split,
            progress=group.first,
            group=group,
        )
    if report is None:
        return
    report.changed = changed
    workdir.save_evaluation(out, config, trained, run=_WORKDIR.value, step=step, changed=changed)
    report.save(out)
    pictures.compare(source, report.results, out / "predictions.png")
    console = Console(highlight=False, markup=False, emoji=False)
    report.print(console)
    console.print(f"Step {step}; written to {out}", soft_wrap=True)
    if submission:
        console.print(f"Submission: {submission.write(report.results)}", soft_wrap=True)


if __name__ == "__main__":
    with processes.ending_together():
        cli.run(main, common.base)
