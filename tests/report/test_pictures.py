"""Pictures within the page: which images, what is drawn, and how many bytes."""

import base64

import cv2
import numpy as np
import pytest
from made_runs import detections

from jaxseg.report import folder, pictures


@pytest.fixture(scope="module")
def source(finished):
    found, _ = folder.open_data(folder.read(finished))
    return found


def picture(entry):
    data = base64.b64decode(entry["uri"].removeprefix("data:image/jpeg;base64,"))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_chosen_images_have_objects_and_are_spread(source):
    assert pictures.choose(source, 2) == [2, 4]  # image 1 is empty
    assert pictures.choose(source, 99) == [2, 3, 4, 5, 6]
    assert pictures.choose(source, 99, limit=3) == [2, 3]
    assert pictures.choose(source, 99, limit=1) == [1]  # better than nothing


def test_ground_truth_comes_first_and_scores_decide(source, three_classes):
    results = detections(three_classes[1])
    sheet = pictures.sheet(source, [2, 3], {"<a>": results, "b": results}, score={"<a>": 0, "b": 1})
    assert [(e["position"], e["image"], e["label"]) for e in sheet] == [
        (i, image, label)
        for i, image in enumerate((2, 3))
        for label in ("ground truth", "<a>", "b")
    ]
    shown = sum(r["image_id"] == 2 for r in results)
    assert [e["count"] for e in sheet[:3]] == [3, shown, 0]
    assert sheet[1]["title"] == f"001.png: <a> ({shown})"
    for entry in sheet:
        assert picture(entry).shape[:2] == (entry["height"], entry["width"])
    assert len({e["uri"] for e in sheet[:3]}) == 3


def test_bytes_are_bounded(source, three_classes):
    results = {"a": detections(three_classes[1])}
    free = pictures.sheet(source, [2, 3], results)
    tight = pictures.sheet(source, [2, 3], results, budget=80_000)
    assert sum(len(e["uri"]) for e in free) > sum(len(e["uri"]) for e in tight)
    assert sum(len(e["uri"]) for e in tight) <= 80_000 + 4 * 40  # and the words before the data
    assert all(e["width"] >= 100 for e in tight)


def test_images_that_cannot_be_read_are_left_out(source):
    assert pictures.sheet(source, [99], {}) == []
    assert [e["label"] for e in pictures.sheet(source, [2], {})] == ["ground truth"]


def test_a_run_may_be_called_ground_truth(source, three_classes):
    sheet = pictures.sheet(source, [2], {"ground truth": detections(three_classes[1])})
    assert len(sheet) == len({e["label"] for e in sheet}) == 2
