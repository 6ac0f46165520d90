"""Prints the largest differences from torchvision at each stage, as docs/parity.md has them.

python -m tests.parity.measure r18
python -m tests.parity.measure r18 model.ignore_padding=True    # what a setting is worth
"""

from __future__ import annotations

import ast
import sys

import numpy as np

from tests.parity import reference as reference_lib
from tests.parity import stages


def main(name: str, *settings: str) -> None:
    reference = reference_lib.load(name)
    config = stages.config_of(reference)
    for setting in settings:
        key, _, value = setting.partition("=")
        try:
            config.update_from_flattened_dict({key: ast.literal_eval(value)})
        except ValueError:  # a word
            config.update_from_flattened_dict({key: value})
    ours = stages.Stages(reference, config).run()
    print("| stage | largest difference |\n|---|---|")
    for stage in reference.names():
        if stage in ours and stage not in ("detections",):
            print(
                f"| {stage} | {np.abs(reference_lib.thin(ours[stage]) - reference[stage]).max():.1e} |"
            )
    for image in (0, 1):
        found, theirs = ours["proposals"][image], reference[f"proposals_{image}"]
        found = found[ours["proposals_valid"][image]]
        distance = np.abs(found[:, None] - theirs[None]).max(-1).min(0)
        close = distance < 0.05
        count = f"{close.sum()} of {len(theirs)} are among our {len(found)}"
        print(f"| proposals_{image} | {count}: {distance[close].max(initial=0):.1e} px |")
    for image in (0, 1):
        print(f"| detections_{image} | {_detections(reference, ours['detections'], image)} |")


def _detections(reference, found, image: int) -> str:
    """How many are found again by class and IoU, and how far off those are."""
    valid = found.valid[image]
    boxes, scores, classes, masks = (
        x[image][valid] for x in (found.boxes, found.scores, found.classes, found.masks)
    )
    theirs = reference[f"det_boxes_net_{image}"]
    same = reference[f"det_labels_{image}"][:, None] == classes + 1
    iou = stages.iou(theirs, boxes) * same
    partner, ok = iou.argmax(1), iou.max(1) > 0.9
    box = np.abs(boxes[partner] - theirs)[ok].max(initial=0)
    score = np.abs(scores[partner] - reference[f"det_scores_{image}"])[ok].max(initial=0)
    mask = np.abs(masks[partner][:, ::3, ::3] - reference[f"mask_probs_{image}"])[ok].max(initial=0)
    return (
        f"{ok.sum()} of {len(theirs)} are among our {len(boxes)}: boxes {box:.1e} px, scores {score:.1e}, "
        f"mask probabilities {mask:.1e}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
