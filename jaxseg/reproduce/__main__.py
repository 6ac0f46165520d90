"""Runs a table, rows x seeds, and writes its numbers and its report: `python -m jaxseg.reproduce TABLE --workdir=DIR`.

python -m jaxseg.reproduce tiny --workdir=runs/tiny
python -m jaxseg.reproduce mask_rcnn --workdir=runs/table --data=coco,root=/data/coco --weights=r50=resnet50.pth
python -m jaxseg.reproduce mask_rcnn --workdir=runs/table --rows='*r50*' --shard=2/4 --dry_run

TABLE is the NAME of configs/tables/NAME.py or a path. The same command goes on after any end; rows that are finished
are never repeated, rows that failed are tried again. Exit status: 0 all finished; 1 something failed, and is named; 2 a
mistake that is explained in one message; 143 or 130 stopped by SIGTERM or Ctrl-C, after saving. See docs/reproduce.md.
"""

from __future__ import annotations

import pathlib
import shlex
import sys

import jax
from absl import flags
from rich.console import Console

from jaxseg import cli
from jaxseg.reproduce import options as options_lib
from jaxseg.reproduce import plan, progress, runner, tables
from jaxseg.training import metrics

_WORKDIR = flags.DEFINE_string("workdir", None, "Where all runs and results go.", required=True)
_DATA = flags.DEFINE_string(
    "data",
    None,
    "coco, shapes or root=DIR, added to the arguments of each row's config; default: the table's.",
)
_SEEDS = flags.DEFINE_integer("seeds", None, "How many seeds; default: the table's.", lower_bound=1)
_ROWS = flags.DEFINE_list("rows", [], "Rows to run, e.g. base,refined* ; default: all.")
_SCALE = flags.DEFINE_enum(
    "scale",
    None,
    list(options_lib.SCALE_WORDS),
    "full: as published; small: a small model and schedule; tiny: a few steps; default: the table's.",
)
_SHARD = flags.DEFINE_string("shard", "1/1", "i/n: run the i-th of n parts of the jobs.")
_WEIGHTS = flags.DEFINE_list("weights", [], "Pretrained weights of the rows, NAME=FILE,...")
_SET = flags.DEFINE_multi_string("set", [], "KEY=VALUE in the config of every row; repeatable.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Only show what would be run.")


def main(argv: list[str]) -> None:
    # The programs compute; a runner that holds a TPU or a GPU's memory would keep them from it.
    jax.config.update("jax_platforms", "cpu")
    options = options_lib.Options(
        workdir=options_lib.parse_workdir(_WORKDIR.value),
        data=_DATA.value,
        seeds=_SEEDS.value,
        rows=tuple(_ROWS.value),
        scale=_SCALE.value,
        shard=options_lib.parse_shard(_SHARD.value),
        weights=options_lib.parse_weights(_WEIGHTS.value),
        settings=tuple(_SET.value),
    )
    options_lib.check_programs(options)  # first: in another folder nothing that follows makes sense
    table = tables.load(argv[1])
    jobs = plan.jobs(table, options)
    console = metrics.make_console()
    others = plan.others(table, options, jobs)
    status = runner.survey(jobs, others)
    _tell(table, jobs, status, options, console)
    if _DRY_RUN.value:
        _show(jobs, status, console)
        return
    folder = pathlib.Path(options.workdir)
    outcome = runner.run(table, jobs, folder, console=console, others=others, shard=options.shard)
    _conclude(outcome, jobs, folder, console)
    sys.exit(outcome.exit_status)


def _tell(table, jobs, status, options, console: Console) -> None:
    console.print(progress.headline(table.title, jobs, status, options.shard))
    added = plan.added(table, options.rows)
    if added and jobs:
        console.print(f"Added, because rows start from them: {', '.join(added)}.")


def _show(jobs, status, console: Console) -> None:
    for i, job in enumerate(jobs):
        steps = f"{job.steps} steps" if job.steps else "evaluation"
        console.print(f"[{i + 1}/{len(jobs)}] {job.name}: {steps}, {status[job.name]}")
        console.print(f"  {shlex.join(job.command)}")
    for what in runner.lacks(jobs, status):
        console.print(f"Missing: {what}")


def _conclude(outcome: runner.Outcome, jobs, folder: pathlib.Path, console: Console) -> None:
    finished = sum(status == "finished" for status in outcome.status.values())
    console.print(f"{finished} of {len(jobs)} jobs are finished.")
    for job in jobs:
        if job.name in outcome.failed:
            console.print(f"{outcome.status[job.name].capitalize()}: {job.name}, see {job.folder}")
    if outcome.signal:
        console.print("Stopped; the same command goes on.")
    elif outcome.failed:
        console.print("The same command tries again what failed.")
    console.print(f"In {folder}: report.html, table.md, results.json, timings.json, runs/.")


if __name__ == "__main__":
    cli.run(main, arguments=["TABLE"])
