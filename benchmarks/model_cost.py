"""What a model costs: parameters, and multiply-adds (MACs) of one image's detection, by part. No weights are made.

    python -m benchmarks.model_cost --config=configs/mask_rcnn.py:r50
    python -m benchmarks.model_cost --config=configs/mr_rcnn.py:r101 --config.model.test.refine_topk=100 --xla
    python -m benchmarks.model_cost --config=configs/mask_rcnn.py:r50 --size=512,512 --json=cost.json

Takes seconds at any size, on any machine. MACs are those of convolutions and matrix products, with zero padding, the
way papers count them (a FLOP count is about twice as much); numbers of RoIs are the config's. "other" is what is done
outside of layers, RoIAlign for instance, where it is a matrix product. What only training has is listed apart: MACs are
those of the forward pass. Frozen batch norms are constants and no parameters.

`--xla` adds XLA's own figure of the same program, FLOPs / 2. It leaves out multiplications with zero padding, and has
every other arithmetic operation as half a MAC; loops of unknown length count as one round.
"""

from __future__ import annotations

from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from benchmarks import context, model_parts, options
from configs import common
from jaxseg import cli
from jaxseg.training import provenance

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_SIZE = flags.DEFINE_list(
    "size", ["800", "1344"], "Height and width of the canvas, in pixels: multiples of 32."
)
_XLA = flags.DEFINE_bool("xla", False, "Also XLA's own figure.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
flags.mark_flag_as_required("config")
options.writable("json")
options.canvas("size")


def cost(config: ConfigDict, size: tuple[int, int], *, xla: bool) -> dict[str, Any]:
    """The result as it is written to JSON: counts, and `null` where one has no meaning."""
    detected = model_parts.detection(config, size)
    trained = model_parts.training(config, size)
    work = [*detected.work, *trained.work]
    result = {
        "size": list(size),
        "parameters": sum(detected.parameters.values()),
        "macs": sum(w.macs for w in detected.work),
        "loops_counted_as_one_round": any(w.unbounded for w in work),
        "parts": [_row(part) for part in model_parts.parts(detected)],
        "other": {"/".join(path): macs for path, macs in detected.other().items()},
        "training_only": [_row(part) for part in model_parts.training_only(detected, trained)],
    }
    if xla:
        result["xla_macs"] = _xla_macs(config, size, detected.variables)
    return result


def _row(part: model_parts.Part) -> dict[str, Any]:
    return part._asdict() | {"path": "/".join(part.path), "within": "/".join(part.within)}


def _xla_macs(config: ConfigDict, size: tuple[int, int], variables: Any) -> float | None:
    model, batch = model_parts.model(config), model_parts.image(config, size)
    program = jax.jit(lambda v, b: model.apply(v, b, method="detect")).lower(variables, batch)
    # Of the program before it is optimised: compiling took 11 s for 128 x 128 and changed 0.005 % (Mask R-CNN, a CPU).
    flops = (program.cost_analysis() or {}).get("flops")
    return None if flops is None else flops / 2


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "| part | parameters | GMACs | RoIs | MMACs an RoI |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in result["parts"]:
        name = row["path"].removeprefix(row["within"] + "/")
        lines.append(_line(f"· {name}" if row["within"] else name, row))
    for name, macs in result["other"].items():
        lines.append(_line(f"other, in {name or 'the model'}", {"macs": macs}))
    lines.append(_line("total", result))
    if result.get("xla_macs"):
        lines.append(_line("total, XLA's own figure", {"macs": result["xla_macs"]}))
    for row in result["training_only"]:
        lines.append(_line(f"only in training: {row['path']}", row))
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    columns = {"parameters": ",", "macs": ",.3f", "rois": ",", "macs_per_roi": ",.3f"}
    unit = {"macs": 1e9, "macs_per_roi": 1e6}
    cells = [
        "" if row.get(key) is None else format(row[key] / unit[key] if key in unit else row[key], f)
        for key, f in columns.items()
    ]
    return f"| {' | '.join((name, *cells))} |"


def main(_: list[str]) -> None:
    height, width = map(int, _SIZE.value)
    result = cost(_CONFIG.value, (height, width), xla=_XLA.value)
    print(table(result))
    if result["loops_counted_as_one_round"]:
        print("A loop of unknown length has MACs: they are counted as one round.")
    if _XLA.value and result["xla_macs"] is None:
        print("XLA has no figure on this platform.")
    if _JSON.value:
        name = config_flags.get_config_filename(flags.FLAGS["config"])
        changes = config_flags.get_override_values(flags.FLAGS["config"])
        what = {"config": name, "changes": changes, "commit": provenance.commit()}
        context.write(_JSON.value, what | result)


if __name__ == "__main__":
    cli.run(main, common.base)
