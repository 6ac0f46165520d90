"""Whether host memory stays flat while a model trains: `train.py` itself, for thousands of steps on drawn scenes.

    python -m benchmarks.host_memory --json=FILE --plot=FILE.png                  # 10,000 steps of a tiny model
    python -m benchmarks.host_memory --minutes=5 --set=data.workers=2             # as many as there are in 5 minutes

The run is a real one, in a process of its own: grain workers that decode and augment, steps, log lines, TensorBoard
events, saves, validations with AP. This process reads from /proc (Linux) at each line of the log what the run and the
processes it started hold: memory, open files and threads. Memory is what they allocated; `resident` has the pages of
files on top, which the system takes away when it likes. The change a step is a median of slopes after `--warm_up`
steps, which neither a sample that falls into a validation nor memory given back all at once moves.
"""

from __future__ import annotations

import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from absl import app, flags

from benchmarks import context, host_memory_table, options, processes
from jaxseg.training import metrics

_STEPS = flags.DEFINE_integer("steps", 10_000, "That are trained.", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 50, "Steps from sample to sample.", lower_bound=1)
_WARM_UP = flags.DEFINE_integer("warm_up", 2_000, "Steps that are left out of the slope.")
_MINUTES = flags.DEFINE_float("minutes", None, "Stop earlier, after so many.", lower_bound=0.01)
_SET = flags.DEFINE_list("set", [], "KEY=VALUE of the config, e.g. data.workers=2.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_PLOT = flags.DEFINE_string("plot", None, "Also draw it, into this .png file.")
options.writable("json")
options.writable("plot")

# A step of some milliseconds: memory is what is measured, and a leak is one of the loop, not of the model.
TINY = {
    "data.workers": 1,
    "data.shapes.train": 500,
    "data.shapes.size": (56, 64),
    "data.buckets": ((64, 64),),
    "data.resize.short": (56, 64),
    "data.resize.max": 64,
    "data.resize.size": (64, 64),
    "data.eval_resize.short": 64,
    "data.eval_resize.max": 64,
    "data.max_instances": 8,
    "data.mask_crop_size": 16,
    "model.rpn.pre_nms": (100, 50),
    "model.rpn.post_nms": (50, 25),
    "model.criterion.roi.samples": 16,
    "model.fpn.channels": 16,
    "model.rpn.channels": 16,
    "model.box_head.fc_dim": 32,
    "model.mask_head.channels": 16,
    "model.mask_head.convs": 1,
    "model.test.candidates": 100,
    "model.test.max_detections": 20,
    "eval.max_detections": 20,
    "optim.lr": 0.005,
    "train.batch_size": 1,
    "train.eval_every": 500,
    "train.save_every": 250,
}


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    head = context.machine("jax", "jaxlib", "flax", "grain", "orbax-checkpoint", "numpy")
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = list(samples(pathlib.Path(folder)))
    if not rows:
        sys.exit("Nothing was measured: the run ended before its first line.")
    result = {
        "benchmark": "host_memory",
        **head,
        "load_after": context.load(),
        "seconds": round(time.perf_counter() - begin, 1),
        "warm_up": _WARM_UP.value,
        "set": _SET.value,
        "samples": {key: [row[key] for row in rows] for key in ("step", *host_memory_table.KINDS)},
    }
    result["fits"] = host_memory_table.fits(result["samples"], _WARM_UP.value)
    print(host_memory_table.table(result))
    if _JSON.value:
        context.write(_JSON.value, result)
    if _PLOT.value:
        host_memory_table.draw(_PLOT.value, result)


def samples(folder: pathlib.Path) -> Iterator[dict[str, int]]:
    """{"step", *KINDS} at each line of the log of a run in `folder`, while it trains."""
    end = time.monotonic() + 60 * _MINUTES.value if _MINUTES.value else None
    work, said = folder / "run", folder / "output"
    with (
        open(said, "wb") as output,
        subprocess.Popen(
            _command(work), cwd=context.ROOT, stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            seen = 0
            while process.poll() is None:
                step = max((line["step"] for line in metrics.read(work, "train")), default=0)
                if step > seen:
                    seen = step
                    yield {"step": step, **_held(process.pid)}
                if end and time.monotonic() > end:
                    process.send_signal(signal.SIGTERM)  # it saves and ends
                    process.wait(timeout=300)
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode not in (0, 128 + signal.SIGTERM):
        lines = said.read_text(errors="replace").strip().splitlines()
        sys.exit(f"The run ended with {process.returncode}:\n" + "\n".join(lines[-10:]))


def _command(work: pathlib.Path) -> list[str]:
    changes = TINY | {"train.steps": _STEPS.value, "train.log_every": _EVERY.value}
    changes = {key: str(value) for key, value in changes.items()}
    changes |= dict(item.split("=", 1) for item in _SET.value)
    settings = [f"--config.{key}={value}" for key, value in changes.items()]
    command = [sys.executable, "train.py", "--config=configs/demo.py:runlocal"]
    return [*command, f"--workdir={work}", *settings]


def _held(pid: int) -> dict[str, int]:
    main, workers = processes.held(pid), processes.descendants(pid)
    return {
        "main_bytes": main.anonymous,
        "worker_bytes": sum(processes.held(worker).anonymous for worker in workers),
        "main_resident_bytes": main.resident,
        "open_files": main.open_files,
        "threads": main.threads,
    }


if __name__ == "__main__":
    app.run(main)
