"""What part of the time an accelerator would wait for images: the real input, and steps of given length.

    python -m benchmarks.input_wait --step_ms=50,100,200 --workers=1,2 --images=DIR/train --annotations=FILE
    python -m benchmarks.input_wait --step_ms=100 --data_dir=DIR --name=coco    # a prepared data set

The input is that of `train.py`: workers, their batches, and transfers ahead to jax's devices. A step is a stand-in that
takes so many milliseconds and leaves the cores alone, as one on an accelerator does; like there, the host hands the
next one over while one runs. `idle` is the part of the time in which no step ran; `data_wait` is what the log of
`train.py` would say, the host's waiting, of which some is hidden behind the step that runs.
"""

from __future__ import annotations

import jax
from absl import app, flags

from benchmarks import context, input_source, options, processes, standin_device
from jaxseg.data import pipeline
from jaxseg.training import sharding

_STEP_MS = flags.DEFINE_list("step_ms", ["100"], "Milliseconds of a step; several are measured.")
_WORKERS = flags.DEFINE_list("workers", ["2"], "Grain worker processes; several are measured.")
_STEPS = flags.DEFINE_integer("steps", 60, "That are timed.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.writable("json")
for _name in ("step_ms", "workers"):
    flags.register_validator(
        _name,
        lambda v: bool(v) and all(x.isdigit() for x in v),
        message="allowed are whole numbers, separated by commas",
    )

_FIRST = 8  # steps that are not timed: they find what was prepared while the workers started


def measure(workers: int, milliseconds: int) -> dict[str, float]:
    """One line of the table."""
    config = input_source.config(workers)
    source = input_source.opened(config)
    mesh = sharding.make_mesh(jax.devices()[:1])
    last = _FIRST + _STEPS.value + 16  # the workers have something to do until the end
    with pipeline.train_batches(config, source, first_step=0, last_step=last) as host:
        ahead = (batch.images for _, batch in sharding.prefetch(host, mesh))
        standin_device.run(ahead, milliseconds / 1000, _FIRST)
        used = processes.cpu_seconds()
        measured = standin_device.run(ahead, milliseconds / 1000, _STEPS.value)
        used = processes.cpu_seconds() - used
    images = _STEPS.value * config.train.batch_size
    asked = config.train.batch_size * 1000 / max(1, milliseconds)
    return {
        "workers": workers,
        "step_ms": milliseconds,
        "images_per_second_asked": asked,
        "images_per_second": measured.pop("steps_per_second") * config.train.batch_size,
        **measured,
        "images_per_cpu_second": images / used,
    }


def main(argv: list[str]) -> None:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    machine = context.machine("jax", "numpy", "opencv-python-headless", "pycocotools", "grain")
    rows = [
        measure(int(workers), int(milliseconds))
        for workers in _WORKERS.value
        for milliseconds in _STEP_MS.value
    ]
    result = {"benchmark": "input_wait", **machine, **input_source.described()}
    result |= {"steps": _STEPS.value, "rows": rows, "load_after": context.load()}
    print(context.headline(result), end="\n\n")
    print(
        "| workers | step, ms | images/s asked for | images/s | idle | data_wait | images/s of a core |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            "| {workers} | {step_ms} | {images_per_second_asked:.0f} | {images_per_second:.0f} | {idle:.0%} | "
            "{data_wait:.0%} | {images_per_cpu_second:.0f} |".format(**row)
        )
    if _JSON.value:
        context.write(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
