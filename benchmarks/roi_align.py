"""How fast RoIAlign and Shape-aware RoIAlign are on this device, each implementation beside the bandwidth's floor.

    python -m benchmarks.roi_align [--specs=box_7x7_bf16,...] [--implementations=xla,triton,...] [--json=FILE] [--check]

Per named shape of `pallas_kernels/roi_align/arg_specs.py` and implementation: forward, backward (the gradients alone)
and both, as the median of `--repeats` timings, which take turns over the implementations so that a change of load meets
all of them. The gradients are those of the features and, for Shape-aware RoIAlign, of the probabilities.

A floor is the bytes that must move over the bandwidth of the fastest copy, timed in the same turns on the device:

    forward   read the whole pyramid once, write the result ("touched": read only the cells that a sample needs)
    backward  read the cotangent once, write the pyramid's gradient; for the gradient of the probabilities read the
              pyramid once more and write theirs

Beside the package: `gather`, the jnp form that one writes first, and `torchvision`, where it can be imported with
kernels for the device. Nothing is timed before its results agree with those of xla on the same arrays. The work is done
in a second process, so that an implementation that breaks costs its own row alone.
"""

from __future__ import annotations

import os
import sys
import tempfile

import jax
from absl import app, flags

from benchmarks import context, options, roi_align_measure, roi_align_table, worker
from benchmarks.journal import Journal, supervise
from benchmarks.roi_align_measure import BASELINES, NAMES
from pallas_kernels.roi_align.arg_specs import ARG_SPECS, MASK_RCNN, PRODUCTION, SMALL

_SPECS = flags.DEFINE_list(
    "specs", None, "Names of shapes; default: those made for a CPU on a CPU, else the full ones."
)
_IMPLEMENTATIONS = flags.DEFINE_list("implementations", list(NAMES), "What to measure.")
_REPEATS = flags.DEFINE_integer("repeats", 9, "Timings of each.", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 0, "Of the random features and boxes.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_CHECK = flags.DEFINE_bool("check", False, "Exit with 1 if an implementation is wrong or fails.")
_STALL = flags.DEFINE_float("stall_seconds", 300, "Kill a step that takes longer.", lower_bound=1)
_JOURNAL = flags.DEFINE_string("journal", None, "Do the work, and note it in this file.")

options.only_of("implementations", NAMES)
options.only_of("specs", ARG_SPECS, optional=True)
options.writable("json")


def main(argv: list[str]) -> int:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    if _JOURNAL.value:
        work(Journal(_JOURNAL.value))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "journal")
        command = [sys.executable, "-m", "benchmarks.roi_align", *sys.argv[1:]]
        command.append(f"--journal={path}")
        environment = worker.environment()
        journal = supervise(command, path, stall_seconds=_STALL.value, env=environment)
    if "context" not in journal.rows:
        sys.exit(f"Nothing was measured: {journal.unfinished}.")
    result = to_result(journal)
    roi_align_table.show(result)
    if _JSON.value:
        context.write(_JSON.value, result)
    return 1 if _CHECK.value and failures(result) else 0


def work(journal: Journal) -> None:
    """Measures what the journal lacks."""
    device = jax.devices()[0]
    if "context" not in journal.rows:
        journal.end("context", _context(device))
    default = {**MASK_RCNN, **SMALL} if device.platform == "cpu" else PRODUCTION
    for name in _SPECS.value or default:
        roi_align_measure.measure(
            journal,
            name,
            ARG_SPECS[name],
            _IMPLEMENTATIONS.value,
            repeats=_REPEATS.value,
            seed=_SEED.value,
        )
    journal.finish()


def _context(device: jax.Device) -> dict[str, object]:
    return {
        **context.machine("jax", "jaxlib", "numpy", "torch", "torchvision"),
        "platform": device.platform,
        "device": device.device_kind,
        "platform_version": device.client.platform_version,
        "repeats": _REPEATS.value,
        "seed": _SEED.value,
    }


def to_result(journal: Journal) -> dict[str, object]:
    """The journal's rows as they are shown and written: context, specs, and a row for each implementation."""
    rows = dict(journal.rows)
    result = {"benchmark": "roi_align", **rows.pop("context"), "load_after": context.load()}
    specs = {key: row for key, row in rows.items() if key.startswith("spec ")}
    result["unfinished"] = journal.unfinished
    result["specs"] = {key.removeprefix("spec "): row for key, row in specs.items()}
    result["rows"] = [
        dict(zip(("spec", "implementation"), key.split(), strict=True)) | row
        for key, row in rows.items()
        if key not in specs
    ]
    return result


def failures(result: dict) -> bool:
    """Whether something is wrong or broke; baselines do not count, nor does what does not apply here."""
    rows = [row for row in result["rows"] if row["implementation"] not in BASELINES]
    broken = [row for row in (*result["specs"].values(), *rows) if "error" in row]
    return bool(broken or result["unfinished"])


if __name__ == "__main__":
    app.run(main)
