"""The random images are the same for both sides, and are what they say."""

import numpy as np
import pytest

from benchmarks import scene

SIZE = (96, 160)
MADE = scene.make(2, SIZE, classes=5)


def test_objects_lie_in_their_images():
    height, width = SIZE
    assert MADE.images.shape == (2, *SIZE, 3) and MADE.images.dtype == np.uint8
    assert (MADE.boxes >= 0).all() and (MADE.boxes <= (width, height, width, height)).all()
    sides = MADE.boxes[..., 2:] - MADE.boxes[..., :2]
    assert (sides >= 0.049 * np.array([width, height])).all()
    assert MADE.classes.min() >= 0 and MADE.classes.max() < 5


def test_the_same_seed_draws_the_same():
    again, other = (scene.make(2, SIZE, classes=5, seed=seed) for seed in (0, 1))
    assert np.array_equal(MADE.boxes, again.boxes) and np.array_equal(MADE.images, again.images)
    assert not np.array_equal(MADE.boxes, other.boxes)


def test_both_forms_have_the_same_objects():
    batch = scene.batch_of(MADE, instances=9, crowds=2, mask_size=64)
    targets = batch.targets
    assert targets.boxes.shape == (2, 9, 4) and targets.crowd_boxes.shape == (2, 2, 4)
    assert targets.valid.sum(1).tolist() == [scene.OBJECTS] * 2 and not targets.crowd_valid.any()
    assert np.array_equal(targets.boxes[:, : scene.OBJECTS], MADE.boxes)
    crops = np.unpackbits(targets.masks, axis=-1)
    assert crops.shape == (2, 9, 64, 64) and not crops[:, scene.OBJECTS :].any()
    for image in range(2):
        masks = scene.full_masks(MADE, image)
        assert masks.shape == (scene.OBJECTS, *SIZE)
        for mask, crop, (x1, y1, x2, y2) in zip(
            masks, crops[image], MADE.boxes[image], strict=False
        ):
            rows, columns = np.nonzero(mask)
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert np.abs(np.subtract(found, (x1, y1, x2, y2))).max() <= 2
            # An ellipse fills pi / 4 of its box, in both forms.
            assert mask.sum() / ((x2 - x1) * (y2 - y1)) == pytest.approx(np.pi / 4, abs=0.15)
            assert crop.mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_too_few_slots():
    with pytest.raises(ValueError, match="is 3: at least 7"):
        scene.batch_of(MADE, instances=3, crowds=1, mask_size=64)
