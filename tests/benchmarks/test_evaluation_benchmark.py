"""What is generated is what is said, and all stages run on it."""

import json

import numpy as np
import pytest

from benchmarks import evaluation, evaluation_data, evaluation_stages
from jaxseg.evaluation import coco, coco_input


def test_the_data_are_the_same_each_time_and_of_the_sizes_of_coco():
    data = evaluation_data.Data(images=60, detections=20, classes=5)
    truth = data.ground_truth()
    assert truth == data.ground_truth() != evaluation_data.Data(60, 20, 5, seed=1).ground_truth()
    assert 5 < len(truth["annotations"]) / 60 < 10
    area = np.array([entry["area"] for entry in truth["annotations"]])
    assert 0.25 < np.mean(area < 32**2) < 0.6 and 0.1 < np.mean(area > 96**2) < 0.45
    assert {entry["category_id"] for entry in truth["annotations"]} == {1, 2, 3, 4, 5}
    batches = list(data.batches())
    assert sum(int((batch.image_ids >= 0).sum()) for batch, _ in batches) == 60
    for batch, found in batches:
        np.testing.assert_array_equal(found.valid.sum(1), np.where(batch.image_ids >= 0, 20, 0))
        assert found.masks.shape == (8, 20, 28, 28)
        assert (np.diff(found.scores, axis=1) <= 0).all()


def test_all_stages(tmp_path):
    data = evaluation_data.Data(images=12, detections=15, classes=3)
    path = tmp_path / "results.json"
    pasted = evaluation_stages.paste(data, 1, str(path))
    results = json.loads(path.read_text())
    assert 0.9 * 12 * 15 < len(results) == pasted["masks"] <= 12 * 15
    assert len(pasted["workers_peak_mib"]) == 1 and pasted["peak_mib"] >= pasted["before_mib"] > 10
    assert 0 < pasted["workers_cpu_seconds"][0] < 60
    rows = [
        evaluation_stages.evaluate(data, evaluator, iou_type, str(path))
        for evaluator in coco.EVALUATORS
        for iou_type in coco_input.IOU_TYPES
    ]
    for row in rows:
        same = [r["AP"] for r in rows if r["iou_type"] == row["iou_type"]]
        assert row["AP"] == pytest.approx(same[0], abs=1e-9) and row["AP"] > 0.05
        parts = sum(row[f"{name}_seconds"] for name in ("prepare", "match", "accumulate"))
        assert row["seconds"] == pytest.approx(parts)
        assert row["match_seconds"] > 0 and row["accumulate_seconds"] > 0
    text = evaluation.table(
        {"paste": pasted, "evaluate": rows, "whole_seconds": {"pycocotools": 1.25}}
    )
    lines = text.splitlines()
    assert len(lines) == 4 + len(rows) + 1
    assert {line.count("|") for line in lines} == {7}
