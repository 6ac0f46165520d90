"""Makes the files of this folder from whole recordings: python -m tests.parity.extract FOLDER... (see README.md)."""

from __future__ import annotations

import pathlib
import sys

import numpy as np

from tests.parity import reference

# Kept whole: what must be matched or pasted. Of the others about 2048 values each.
WHOLE = ("proposals_", "det_", "boxes_", "masks_", "roi_levels", "meta", "image_sizes")
UNUSED = ("_f64", "masks_prob", "proposal_scores")
PASTED = 8  # detections whose mask probabilities are kept whole


def extract(recording: pathlib.Path, out: pathlib.Path) -> None:
    with np.load(recording) as file:
        arrays = {n: file[n] for n in file.files if not any(word in n for word in UNUSED)}
    images = {n: arrays.pop(n) for n in ("image_0", "image_1")}  # the same in all recordings
    np.savez_compressed(out.with_name("images.npz"), **images)
    kept = {}
    for name, array in arrays.items():
        if name.startswith("mask_probs"):
            kept[name] = array[:, ::3, ::3]
            kept[f"first_{name}"] = array[:PASTED]
        elif name in ("class_logits", "box_regression", "mask_logits"):
            kept[name] = reference.thin(_foreground(name, array))
        else:
            kept[name] = array if name.startswith(WHOLE) else reference.thin(array)
    np.savez_compressed(out, **kept)


def _foreground(name: str, array: np.ndarray) -> np.ndarray:
    """Without background's box deltas and masks, which mean nothing and which we do not have."""
    return array[:, {"class_logits": 0, "box_regression": 4, "mask_logits": 1}[name] :]


if __name__ == "__main__":
    for name in ("r18", "r50", "r18_v2"):
        for source in (pathlib.Path(folder) / f"ref_{name}_small.npz" for folder in sys.argv[1:]):
            if source.exists():
                extract(source, reference.HERE / f"{name}.npz")
