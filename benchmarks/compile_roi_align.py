"""Compiles RoIAlign's kernels to machine code for an NVIDIA H200 and for TPUs, on a machine that has neither.

    python -m benchmarks.compile_roi_align [--platforms=cuda,tpu] [--implementations=...] [--specs=...] [--json=FILE]

For each implementation and full-size shape of `pallas_kernels/roi_align/arg_specs.py`, the forward and the gradients:
whether it compiles, how long that takes, the memory that the program needs, and on GPUs the registers and spills of
each kernel. Nothing runs, so this proves neither results nor speed. Exits with 1 if something does not compile or a
kernel spills. On GPUs xla is compiled too, for its memory.

The compilers are separate packages, which need no device; the command says how to get those that are missing.
"""

from __future__ import annotations

import importlib
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time

import jax
from absl import app, flags
from rich import box, console, table

from benchmarks import context, options, ptxas, targets
from benchmarks.journal import Journal, supervise
from pallas_kernels.roi_align.arg_specs import ARG_SPECS, PRODUCTION, Args, ArgSpec

IMPLEMENTATIONS = {"cuda": ("mosaic_gpu", "triton", "xla"), "tpu": ("tpu",)}
NAMES = ("mosaic_gpu", "triton", "tpu", "xla")
DIRECTIONS = ("forward", "backward")

_PLATFORMS = flags.DEFINE_list("platforms", list(IMPLEMENTATIONS), "Compile for these.")
_CHOSEN = flags.DEFINE_list("implementations", list(NAMES), "Compile these.")
_SPECS = flags.DEFINE_list("specs", list(PRODUCTION), "Names of shapes.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
_STALL = flags.DEFINE_float("stall_seconds", 300, "Kill a step that takes longer.", lower_bound=1)
_JOURNAL = flags.DEFINE_string("journal", None, "Do the work, and note it in this file.")
_DUMP = flags.DEFINE_string("dump", None, "Folder that the compiler leaves GPU code in.")

options.only_of("platforms", IMPLEMENTATIONS)
options.only_of("implementations", NAMES)
options.only_of("specs", ARG_SPECS)
options.writable("json")


def main(argv: list[str]) -> int:
    if argv[1:]:
        raise app.UsageError(f"Not understood: {' '.join(argv[1:])}")
    if _JOURNAL.value:
        work(Journal(_JOURNAL.value))
        return 0
    for platform in _PLATFORMS.value:
        if not set(_CHOSEN.value) & set(IMPLEMENTATIONS[platform]):
            allowed = ", ".join(IMPLEMENTATIONS[platform])
            raise app.UsageError(f"--implementations: those for {platform} are {allowed}.")
    result = {
        "benchmark": "compile_roi_align",
        "kind": "compiled for devices that were not there; nothing was run",
        **context.machine("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu"),
        "missing": {},
        "rows": [],
    }
    for platform in _PLATFORMS.value:
        if command := targets.missing(platform):
            result["missing"][platform] = command
            continue
        with tempfile.TemporaryDirectory() as folder:
            result["rows"] += _compile_platform(platform, pathlib.Path(folder))
    show(result)
    if _JSON.value:
        context.write(_JSON.value, result)
    return 1 if failures(result) else 0


def _compile_platform(platform: str, folder: pathlib.Path) -> list[dict]:
    dump, path = folder / "dump", folder / "journal"
    command = [sys.executable, "-m", "benchmarks.compile_roi_align", *sys.argv[1:]]
    command += [f"--platforms={platform}", f"--journal={path}", f"--dump={dump}"]
    variables = os.environ | targets.environment(platform, str(dump))
    journal = supervise(command, path, stall_seconds=_STALL.value, env=variables)
    columns = ("target", "implementation", "spec", "direction")
    rows = [
        dict(zip(columns, key.split("/"), strict=True)) | row for key, row in journal.rows.items()
    ]
    if journal.unfinished:
        rows.append(dict.fromkeys(columns, platform) | {"error": journal.unfinished})
    return rows


def failures(result: dict) -> list[dict]:
    """What did not compile, and kernels that spill; what the machine lacks the compiler for is a failure too."""
    broken = [row for row in result["rows"] if "error" in row or _spilled(row)]
    return broken + [{"missing": platform} for platform in result["missing"]]


def _spilled(row: dict) -> int:
    kernels = (row.get("kernels") or {}).values()
    return sum(kernel["spill_store_bytes"] + kernel["spill_load_bytes"] for kernel in kernels)


def work(journal: Journal) -> None:
    """Compiles what the journal lacks, for one platform."""
    (platform,) = _PLATFORMS.value
    for target, (on, *_) in targets.TARGETS.items():
        for name in IMPLEMENTATIONS[platform] if on == platform else ():
            for spec in _SPECS.value if name in _CHOSEN.value else ():
                for direction in DIRECTIONS:
                    key = f"{target}/{name}/{spec}/{direction}"
                    if key in journal.rows:
                        continue
                    journal.begin(key)
                    journal.end(key, _row(target, name, ARG_SPECS[spec], direction))
    journal.finish()


def _row(target: str, name: str, arg_spec: ArgSpec, direction: str) -> dict:
    try:
        implementation = importlib.import_module(f"pallas_kernels.roi_align.{name}").IMPLEMENTATION
        implementation.check(arg_spec.spec)
    except (ImportError, NotImplementedError) as reason:
        return {"skipped": str(reason)}

    def forward(args: Args):
        return arg_spec.call(args, implementation)

    def backward(args: Args):
        def of_inputs(features, probabilities):
            return forward(args._replace(features=features, probabilities=probabilities))

        return jax.vjp(of_inputs, args.features, args.probabilities)[1](args.d_out)

    function = {"forward": forward, "backward": backward}[direction]
    shutil.rmtree(_DUMP.value, ignore_errors=True)
    begin = time.perf_counter()
    try:
        with ptxas.captured_output() as said:
            compiled = targets.compile_for(target, function, arg_spec.shape_structs())
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000], "output": said[0][-2000:]}
    seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    return {
        "seconds": round(seconds, 2),
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "kernels": _kernels(said[0], name) if target.startswith("NVIDIA") else None,
    }


def _kernels(said: str, implementation: str) -> dict[str, dict[str, int]]:
    """Registers and spills of the package's own kernels."""
    reports = [said]  # Mosaic GPU assembles its kernels itself, and says so
    if implementation == "triton":  # XLA does, and leaves the code that it gives to the assembler
        for path in sorted(pathlib.Path(_DUMP.value).glob("*.ptx")):
            text = path.read_text()
            if re.search(r"\.entry\s+roi_align", text):
                architecture = re.search(r"^\.target\s+(\w+)", text, re.MULTILINE).group(1)
                reports.append(ptxas.assemble(path, architecture))
    kernels = {}
    for report in reports:
        kernels |= ptxas.parse(report)
    return {n.removesuffix("_mosaic_gpu_kernel"): k for n, k in kernels.items() if "roi_align" in n}


def show(result: dict) -> None:
    out = console.Console(highlight=False)
    out = console.Console(highlight=False, width=max(out.width, 150), soft_wrap=True)
    names = ("jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
    versions = ", ".join(f"{n} {result[n]}" for n in names if result[n])
    out.print(f"{result['date']}, commit {result['commit']}, {versions}; {result['kind']}")
    grid = table.Table(box=box.SIMPLE_HEAD)
    for column in ("target", "implementation", "shapes", "direction"):
        grid.add_column(column)
    for column in ("compile s", "temp MB", "arguments MB", "results MB"):
        grid.add_column(column, justify="right")
    grid.add_column("registers, spilled bytes")
    for row in result["rows"]:
        place = [row[n] for n in ("target", "implementation", "spec", "direction")]
        if "seconds" not in row:
            (word,) = {"error", "skipped"} & set(row)
            grid.add_row(*place, word, "", "", "", row[word].splitlines()[0][:80])
            continue
        sizes = [f"{row[n] / 1e6:.1f}" for n in ("temp_bytes", "argument_bytes", "output_bytes")]
        grid.add_row(*place, f"{row['seconds']:.1f}", *sizes, _describe(row))
    out.print(grid)
    for platform, command in result["missing"].items():
        out.print(f"Not compiled for {platform}: {command}.", markup=False)
    for row in failures(result):
        if "error" in row:
            place = "/".join(row[n] for n in ("target", "implementation", "spec", "direction"))
            out.print(f"{place}: {row['error']}", markup=False)


def _describe(row: dict) -> str:
    if row["kernels"] is None:
        return "not available"
    if not row["kernels"]:
        return "not available" if row["implementation"] != "xla" else "no kernel of the package"
    registers = ", ".join(
        f"{n.removeprefix('roi_align_')} {k['registers']}"
        for n, k in sorted(row["kernels"].items())
    )
    return f"{registers}; {_spilled(row)} spilled"


if __name__ == "__main__":
    app.run(main)
