"""Pasting masks with continuous coordinates, and boxes on their way back to the original image."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.evaluation import coco_input
from jaxseg.evaluation import results as results_lib
from jaxseg.structures import Detections


def paste(probabilities, box, size, threshold=0.5):
    probabilities = np.asarray(probabilities, np.float32)
    rle = results_lib.paste_rle(probabilities, np.array(box, float), size, threshold)
    return results_lib.decode(rle)


def reference_paste(probabilities, box, size, threshold):
    """Bilinear sampling at pixel centres, cell by cell; zero outside of the grid."""
    rows, columns = probabilities.shape
    padded = np.pad(probabilities.astype(float), 2)
    out = np.zeros(size, bool)
    for y in range(size[0]):
        for x in range(size[1]):
            v = (y + 0.5 - box[1]) / (box[3] - box[1]) * rows - 0.5
            u = (x + 0.5 - box[0]) / (box[2] - box[0]) * columns - 0.5
            if not (-1 < u < columns and -1 < v < rows):
                continue
            i, j = int(np.floor(v)), int(np.floor(u))
            fy, fx = v - i, u - j
            corner = padded[i + 2 : i + 4, j + 2 : j + 4]
            value = np.array([1 - fy, fy]) @ corner @ np.array([1 - fx, fx])
            out[y, x] = value >= threshold
    return out


def test_a_mask_on_a_box_of_its_own_size_is_exact():
    mask = np.array(
        [
            [0, 0, 0, 1, 1, 1],
            [0, 0, 0, 1, 1, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [0, 1, 0, 1, 0, 1],
        ]
    )
    pasted = paste(mask, (0, 2, 6, 8), (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:8, 0:6] = mask
    np.testing.assert_array_equal(pasted, expected)


@pytest.mark.parametrize("threshold", [0.5, 0.1])
@pytest.mark.parametrize(
    "box",
    [
        (3.3, 2.1, 17.8, 21.4),
        (-6, -4, 9, 40),  # sticks out on three sides
        (0, 0, 20, 24),
        (5.2, 5.2, 5.9, 5.8),  # less than a pixel
        (30, 2, 40, 9),  # outside
        (6, 6, 6, 9),  # no area
    ],
)
def test_pasting_equals_sampling_pixel_by_pixel(box, threshold):
    probabilities = np.random.default_rng(1).random((5, 7))
    size = (24, 20)
    if box[2] > box[0]:
        expected = reference_paste(probabilities, box, size, threshold)
    else:
        expected = np.zeros(size, bool)
    np.testing.assert_array_equal(paste(probabilities, box, size, threshold), expected)


def test_run_lengths_equal_those_of_the_whole_image():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 9, 2).tolist()
        x, y = (
            int(rng.integers(0, width + 1)),
            int(rng.integers(0, height + 1)) * (rng.random() < 0.6),
        )
        w = int(rng.integers(0, width - x + 1))
        h = int(rng.integers(0, height - y + 1)) if rng.random() < 0.5 else height - y
        region = rng.random((w, h)) < 0.7
        whole = np.zeros((height, width), np.uint8, order="F")
        whole[y : y + h, x : x + w] = region.T
        rle = results_lib.region_rle(x, y, region, (height, width))
        assert rle["counts"] == mask_utils.encode(whole)["counts"].decode()


def test_real_masks_survive_a_crop_to_28_and_back(test_data):
    """Over real annotations, as Detectron2's test has it; the mean IoU is 0.968."""
    truth = json.loads((test_data / "coco_cc/annotations/instances_train.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    ious = []
    for entry in [a for a in truth["annotations"] if not a["iscrowd"]][:300]:
        size = sizes[entry["image_id"]]
        rle = coco_input.to_rle(entry["segmentation"], *size)
        mask = mask_utils.decode(rle)
        x, y, w, h = entry["bbox"]
        crop = area_crop(mask, (x, y, x + w, y + h), 28)
        pasted = results_lib.paste_rle(crop, np.array([x, y, x + w, y + h]), size)
        ious.append(mask_utils.iou([pasted], [rle], [0])[0, 0])
    assert np.mean(ious) > 0.96


def area_crop(mask, box, cells, samples=4):
    """The mean of samples x samples points in each cell."""
    points = (np.arange(cells * samples) + 0.5) / (cells * samples)
    ys = np.clip(np.floor(box[1] + points * (box[3] - box[1])), 0, mask.shape[0] - 1).astype(int)
    xs = np.clip(np.floor(box[0] + points * (box[2] - box[0])), 0, mask.shape[1] - 1).astype(int)
    grid = mask[np.ix_(ys, xs)].astype(np.float32)
    return grid.reshape(cells, samples, cells, samples).mean((1, 3)) >= 0.5


def detections(boxes, classes, valid, size=4):
    boxes = np.array(boxes, np.float32)
    return Detections(
        boxes=boxes,
        scores=np.linspace(0.9, 0.1, boxes[..., 0].size, dtype=np.float32).reshape(boxes.shape[:2]),
        classes=np.array(classes, np.int32),
        valid=np.array(valid),
        masks=np.ones((*boxes.shape[:2], size, size), np.float32),
    )


def test_boxes_go_back_to_the_original_image():
    found = detections([[[10, 20, 50, 60], [-4, 0, 130, 70]]], [[1, 0]], [[True, True]])
    results = results_lib.detections_to_results(
        found,
        image_ids=np.array([42]),
        image_size=np.array([[64.0, 128.0]]),
        original_size=np.array([[32, 256]]),
        category_ids=(3, 9),
    )
    assert [r["category_id"] for r in results] == [9, 3]
    assert {r["image_id"] for r in results} == {42}
    assert results[0]["bbox"] == [20, 10, 80, 20]
    assert results[1]["bbox"] == [0, 0, 256, 32]  # clipped
    assert results[0]["score"] == pytest.approx(0.9)
    mask = results_lib.decode(results[0]["segmentation"])
    assert mask.shape == (32, 256)
    rows, columns = np.nonzero(mask)  # a mask falls to 0 at its border, which rounds its corners
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 20, 99)
    assert mask[20, 20:100].all() and mask[10:30, 60].all()
    assert json.loads(json.dumps(results)) == results


def test_padded_images_padded_detections_and_boxes_outside_give_nothing():
    found = detections(
        [
            [[0, 0, 9, 9], [1, 1, 5, 5]],
            [[0, 0, 9, 9], [99, 0, 120, 9]],
            [[0, 0, 9, 9], [0, 0, 5, 5]],
        ],
        np.zeros((3, 2)),
        [[True, False], [True, True], [True, True]],
    )
    results = results_lib.detections_to_results(
        found,
        image_ids=np.array([1, 2, -1]),
        image_size=np.full((3, 2), 64.0),
        original_size=np.full((3, 2), 64),
        category_ids=(1,),
    )
    assert [r["image_id"] for r in results] == [1, 2]


def test_an_empty_mask_keeps_its_box():
    found = detections([[[2, 2, 9, 9]]], [[0]], [[True]])
    found = found.replace(masks=np.zeros_like(found.masks))
    sizes = dict(image_size=np.full((1, 2), 16.0), original_size=np.full((1, 2), 16))
    (only,) = results_lib.detections_to_results(found, np.array([1]), category_ids=(1,), **sizes)
    assert only["bbox"] == [2, 2, 7, 7]
    assert not results_lib.decode(only["segmentation"]).any()


def torchvision_paste(probabilities, box, size):
    """torchvision's paste_masks_in_image, pixel by pixel."""
    cells = probabilities.shape[0]
    padded = np.pad(probabilities, 1)
    centre, half = (box[2:] + box[:2]) / 2, (box[2:] - box[:2]) / 2 * (cells + 2) / cells
    x0, y0, x1, y1 = np.concatenate([centre - half, centre + half]).astype(np.int64).tolist()
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    out = np.zeros(size, bool)
    for y in range(max(y0, 0), min(y1 + 1, size[0])):
        for x in range(max(x0, 0), min(x1 + 1, size[1])):
            v = np.clip((y - y0 + 0.5) * (cells + 2) / height - 0.5, 0, cells + 1)
            u = np.clip((x - x0 + 0.5) * (cells + 2) / width - 0.5, 0, cells + 1)
            i, j = min(int(v), cells), min(int(u), cells)
            corner = padded[i : i + 2, j : j + 2]
            value = np.array([1 - v + i, v - i]) @ corner @ np.array([1 - u + j, u - j])
            out[y, x] = value > 0.5
    return out


@pytest.mark.parametrize(
    "box",
    [
        (3.3, 2.1, 17.8, 21.4),
        (-6.5, -4.2, 9.1, 30.7),  # sticks out on three sides; cut towards zero
        (-0.4, -0.4, 12.9, 11.2),
        (5.2, 5.2, 5.9, 5.8),  # less than a pixel
        (30, 2, 40, 9),  # outside
        (6, 6, 6, 9),  # no width: one pixel there
    ],
)
def test_pasting_as_torchvision_does(box):
    probabilities = np.random.default_rng(2).random((6, 6)).astype(np.float32)
    rle = results_lib.paste_rle(probabilities, np.array(box), (24, 20), paste="torchvision")
    expected = torchvision_paste(probabilities, np.array(box, np.float32), (24, 20))
    np.testing.assert_array_equal(results_lib.decode(rle), expected)


def test_torchvisions_threshold_is_exclusive():
    half = np.full((4, 4), 0.5, np.float32)
    box = np.array([0.0, 0.0, 8.0, 8.0])
    assert results_lib.decode(results_lib.paste_rle(half, box, (8, 8)))[4, 4]
    rle = results_lib.paste_rle(half, box, (8, 8), paste="torchvision")
    assert not results_lib.decode(rle).any()


def test_unknown_ways_to_paste_are_named_and_the_settings_know_the_others():
    from jaxseg.methods import settings

    with pytest.raises(ValueError, match="paste='nearest': allowed are continuous, torchvision"):
        results_lib.paste_region(np.ones((2, 2)), np.array([0, 0, 2, 2]), (4, 4), paste="nearest")
    assert tuple(results_lib.PASTES) == settings.PASTES


def test_a_results_file_is_written_piece_by_piece_and_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(results_lib, "_WRITTEN", 3)
    path = tmp_path / "new" / "results.json"
    for count in (0, 1, 3, 7):
        entries = [{"image_id": i, "bbox": [0.5, i]} for i in range(count)]
        results_lib.save(path, iter(entries))
        assert path.read_text() == json.dumps(entries)

    def broken():
        yield from entries
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        results_lib.save(path, broken())
    assert path.read_text() == json.dumps(entries)
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
