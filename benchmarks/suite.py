"""What fits into some minutes, most important first, on whatever device is there; one page of results.

    python -m benchmarks.suite --device=cpu --minutes=20
    python -m benchmarks.suite --device=gpu --minutes=45

Runs from a plain checkout, and without a network. Each benchmark is a process of its own, with a time limit: one that
breaks or takes too long costs its own part alone. The page, docs/benchmarks/DEVICE-DATE.md, says what was run, with
which command, and what was left out and why; results as JSON lie beside it.
"""

from __future__ import annotations

import datetime
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from absl import app, flags

from benchmarks import context

_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "gpu"], "What jax is to run on.")
_MINUTES = flags.DEFINE_float("minutes", 20, "For all benchmarks together.", lower_bound=0.1)
_OUT = flags.DEFINE_string("folder", None, "Folder of the page; default: docs/benchmarks.")
_ONLY = flags.DEFINE_list("only", None, "Names of benchmarks; default: all.")


class Benchmark(NamedTuple):
    """One command.

    Attributes:
      name: of its part of the page and its JSON file.
      command: after `python -m`.
      minutes: that it took on such a device; it is left out where fewer are left.
      needs: packages without which it is left out.
      json: whether it takes `--json`.
    """

    name: str
    command: Sequence[str]
    minutes: float
    needs: Sequence[str] = ()
    json: bool = True


_DATA = ("cv2", "pycocotools", "grain", "tensorboardX", "faster_coco_eval", "rich")
_CPU = (
    Benchmark("train_step", ["benchmarks.train_step", "--repeats=3"], 2.5),
    Benchmark("inference", ["benchmarks.inference", "--repeats=3"], 1.5),
    Benchmark(
        "roi_align",
        [
            "benchmarks.roi_align",
            "--specs=train_box_512,train_mask_512,train_box_800,train_mask_800,test_box_800",
            "--implementations=xla,torchvision",
            "--repeats=5",
        ],
        3,
    ),
    Benchmark("nms", ["benchmarks.nms"], 3),
    Benchmark("rank_sort", ["benchmarks.rank_sort"], 4),
    Benchmark("scaling", ["benchmarks.scaling"], 10),
    Benchmark("host_memory", ["benchmarks.host_memory"], 15, _DATA),
)
_GPU_SIZE = ("--size=800,1344", "--batch_size=16", "--dtype=bfloat16")
_GPU = (
    Benchmark(
        "kernels",
        ["pytest", "-q", "-m", "gpu", "-n", "0", "tests/pallas_kernels"],
        6,
        ["pytest", "xdist", "beartype", "hypothesis"],
        False,
    ),
    Benchmark("train_step", ["benchmarks.train_step", *_GPU_SIZE], 7),
    Benchmark("inference", ["benchmarks.inference", *_GPU_SIZE], 4),
    Benchmark(
        "inference_latency",
        ["benchmarks.inference", "--size=800,1344", "--batch_size=1", "--dtype=bfloat16"],
        2,
    ),
    Benchmark("roi_align", ["benchmarks.roi_align", "--check"], 8),
    Benchmark(
        "inference_pasted",
        ["benchmarks.inference", *_GPU_SIZE, "--pasted"],
        3,
        ["cv2", "pycocotools"],
    ),
    Benchmark(
        "methods",
        [
            "benchmarks.train_step",
            *_GPU_SIZE,
            "--nopeer",
            "--methods=cascade_mask_rcnn,atmask_rcnn,maskplus,mr_rcnn,brefine",
        ],
        10,
    ),
    Benchmark("nms", ["benchmarks.nms"], 2),
    Benchmark("rank_sort", ["benchmarks.rank_sort"], 3),
    Benchmark(
        "scaling",
        [
            "benchmarks.scaling",
            "--nosmall",
            "--size=800,1344",
            "--batch_size=4",
            "--dtype=bfloat16",
        ],
        30,
    ),
    Benchmark("host_memory", ["benchmarks.host_memory"], 10, _DATA),
)
BENCHMARKS = {"cpu": _CPU, "gpu": _GPU}
# What every part of a model's step imports, and jaxseg's data and evaluation do not.
ALWAYS = ("jax", "flax", "optax", "orbax", "ml_collections", "jaxtyping", "absl", "numpy")


def missing(packages: Sequence[str]) -> list[str]:
    return [name for name in packages if importlib.util.find_spec(name) is None]


def run(benchmark: Benchmark, out: pathlib.Path, seconds: float) -> tuple[str, str]:
    """(what it printed, how it ended: "" if well)."""
    command = [sys.executable, "-m", *benchmark.command]
    if benchmark.json:
        command.append(f"--json={out / f'{benchmark.name}.json'}")
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # In a session of its own: what it starts is to end with it.
    with subprocess.Popen(command, cwd=context.ROOT, start_new_session=True, **options) as process:
        try:
            said, errors = process.communicate(timeout=seconds)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            return process.communicate()[0], f"stopped after {seconds:.0f} s"
    if process.returncode:
        lines = (errors or said).strip().splitlines()
        return said, f"ended with {process.returncode}: {lines[-1] if lines else 'no output'}"
    return said, ""


def run_all(
    benchmarks: Sequence[Benchmark], page: Page, results: pathlib.Path, minutes: float
) -> None:
    """Runs those that fit into `minutes`, in order; `page` takes all of them, `results` is the folder for JSON."""
    end = time.monotonic() + 60 * minutes
    for benchmark in benchmarks:
        left = (end - time.monotonic()) / 60
        lacking = missing(benchmark.needs)
        if lacking:
            page.add(benchmark, "", f"left out: {', '.join(lacking)} not installed")
        elif left < benchmark.minutes:
            reason = (
                f"{left:.1f} of {minutes:g} minutes were left, about {benchmark.minutes:g} needed"
            )
            page.add(benchmark, "", f"left out: {reason}")
        else:
            page.add(benchmark, *run(benchmark, results, 60 * left))


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    benchmarks = BENCHMARKS[_DEVICE.value]
    names = [benchmark.name for benchmark in benchmarks]
    unknown = set(_ONLY.value or ()) - set(names)
    if unknown:
        raise app.UsageError(f"--only={','.join(sorted(unknown))}: allowed are {', '.join(names)}")
    if missing(ALWAYS):
        sys.exit(f"Not installed: {', '.join(missing(ALWAYS))}. pip install -e . has all of them.")
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(_DEVICE.value, "cpu")
    os.environ["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(context.ROOT), os.environ.get("PYTHONPATH")])
    )
    date = datetime.date.today().isoformat()
    folder = pathlib.Path(_OUT.value or context.ROOT / "docs" / "benchmarks").absolute()
    results = folder / f"{_DEVICE.value}-{date}"
    results.mkdir(parents=True, exist_ok=True)
    page = Page(folder / f"{_DEVICE.value}-{date}.md", f"Benchmarks on a {_DEVICE.value}, {date}")
    chosen = [b for b in benchmarks if not _ONLY.value or b.name in _ONLY.value]
    run_all(chosen, page, results, _MINUTES.value)
    print(f"Written to {page.path}")


class Page:
    """The Markdown file, written anew after each part."""

    def __init__(self, path: pathlib.Path, title: str):
        self.path = path
        names = ("jax", "jaxlib", "flax", "numpy", "torch", "torchvision")
        machine = context.machine(*names)
        facts = ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)
        self._text = f"# {title}\n\n{facts}.\n"
        self._write()

    def add(self, benchmark: Benchmark, text: str, problem: str) -> None:
        command = "python -m " + " ".join(benchmark.command)
        self._text += f"\n## {benchmark.name}\n\n`{command}`\n"
        body = _for_markdown(text)
        self._text += f"\n{body}\n" if body else ""
        self._text += f"\n**{problem}**\n" if problem else ""
        print(f"{benchmark.name}: {problem or 'done'}", flush=True)
        self._write()

    def _write(self) -> None:
        self.path.write_text(self._text)


def _for_markdown(text: str) -> str:
    """Tables as they are; what is laid out with spaces as a block."""
    text = text.strip()
    if not text or "\n|" in text or text.startswith("|"):
        return text
    return f"```\n{text}\n```"


if __name__ == "__main__":
    app.run(main)
