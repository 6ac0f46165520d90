"""What evaluation costs without the network: seconds and peak memory of each stage.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --images=200 --evaluators=faster_coco_eval --json=evaluation.json

Ground truth and 28 x 28 mask probabilities are generated, of the sizes and numbers of COCO's (`evaluation_data`).
"paste" is `inference.run` with a device that has found everything already: masks become run lengths, in `--workers`
processes beside the one that generates; its seconds hold those of generating, which are told apart. The results are
saved as eval.py does it, and each evaluator measures box, mask and Boundary AP of the file, each in a process of its
own, so that peak memories are their own: "before" is what a process holds when a stage starts, with jax, ground truth
and results. Reading the file again, and making the ground truth, belong to the benchmark and not to the whole.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import tempfile
from typing import Any

from absl import app, flags

from benchmarks import context, evaluation_stages, options
from benchmarks.evaluation_data import Data
from jaxseg.evaluation import coco, coco_input, pasters

_IMAGES = flags.DEFINE_integer("images", 5000, "Images.", lower_bound=1)
_DETECTIONS = flags.DEFINE_integer("detections", 100, "Detections an image.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", 80, "Classes.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers", pasters.AUTOMATIC, "Processes that paste, as config.eval.workers.", lower_bound=-1
)
_EVALUATORS = flags.DEFINE_list("evaluators", [*coco.EVALUATORS], "What measures AP.")
_JSON = flags.DEFINE_string("json", None, "Also write the result to this file.")
options.only_of("evaluators", coco.EVALUATORS)
options.writable("json")


def measure(
    data: Data, workers: int, evaluators: list[str], iou_types: tuple[str, ...], folder: str
) -> dict[str, Any]:
    """Runs all stages, one after another.

    Returns:
      "paste": see `evaluation_stages.paste`; "evaluate": a list, see `evaluation_stages.evaluate`; "whole_seconds": for
      each evaluator, of pasting, saving, and box and mask AP, which every evaluation has.
    """
    path = os.path.join(folder, "results.json")
    pasted = _apart(evaluation_stages.paste, data, workers, path)
    rows = [
        _apart(evaluation_stages.evaluate, data, evaluator, iou_type, path)
        for evaluator in evaluators
        for iou_type in iou_types
    ]
    both = pasted["seconds"] + pasted["save_seconds"]
    whole = {
        name: both
        + sum(
            row["seconds"]
            for row in rows
            if row["evaluator"] == name and row["iou_type"] in ("bbox", "segm")
        )
        for name in evaluators
    }
    return {"paste": pasted, "evaluate": rows, "whole_seconds": whole}


def _apart(stage: Any, *arguments: Any) -> dict[str, Any]:
    """The stage's result, from a new process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(stage, *arguments).result()


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    pasted = result["paste"]
    workers = pasted["workers_cpu_seconds"]
    lines = [
        "| stage | seconds | of a core | MiB before | peak MiB | |",
        "|---|---:|---:|---:|---:|---|",
        f"| paste and encode, {pasted['workers']} workers | {pasted['seconds']:.1f} | "
        f"{pasted['cpu_seconds'] + sum(workers):.1f} | {pasted['before_mib']:.0f} | {pasted['peak_mib']:.0f} | "
        f"{pasted['masks']} masks, {pasted['masks_per_second']:.0f} a second; workers {sum(workers):.1f} of a core, "
        f"{max(pasted['workers_peak_mib'], default=0):.0f} MiB each; generating {pasted['of_which_generating']:.1f} |",
        f"| save results.json | {pasted['save_seconds']:.1f} | | | {pasted['peak_with_save_mib']:.0f} | "
        f"{pasted['results_mib']:.0f} MiB |",
    ]
    for row in result["evaluate"]:
        parts = ", ".join(
            f"{name} {row[f'{name}_seconds']:.1f}" for name in ("prepare", "match", "accumulate")
        )
        lines.append(
            f"| {row['evaluator']}, {row['iou_type']} | {row['seconds']:.1f} | {row['cpu_seconds']:.1f} | "
            f"{row['before_mib']:.0f} | {row['peak_mib']:.0f} | {parts}; AP {row['AP']:.3f} |"
        )
    for name, seconds in result["whole_seconds"].items():
        lines.append(f"| whole with box and mask AP, {name} | {seconds:.1f} | | | | |")
    return "\n".join(lines)


def main(_: list[str]) -> None:
    data = Data(_IMAGES.value, _DETECTIONS.value, _CLASSES.value)
    where = {
        "benchmark": "evaluation",
        **context.machine("numpy", "pycocotools", "faster-coco-eval", "jax"),
        "images": data.images,
        "detections": data.detections,
        "classes": data.classes,
    }
    with tempfile.TemporaryDirectory() as folder:
        result = measure(data, _WORKERS.value, _EVALUATORS.value, coco_input.IOU_TYPES, folder)
    result = {**where, **result, "load_after": context.load()}
    print(context.headline(result), table(result), sep="\n\n")
    if _JSON.value:
        context.write(_JSON.value, result)


if __name__ == "__main__":
    app.run(main)
