"""Pictures: checked by facts about their pixels."""

import cv2
import numpy as np
import pytest

from jaxseg import visualization as V


def instances(boxes, size, classes=None, scores=None):
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    classes = np.zeros(len(boxes), int) if classes is None else np.array(classes)
    return V.Instances(np.array(boxes, float).reshape(-1, 4), classes, scores, masks)


def test_masks_are_coloured_and_the_rest_is_left_alone():
    image = np.full((700, 800, 3), 100, np.uint8)
    picture = V.draw(image, instances([(200, 300, 400, 500)], (700, 800)), ["cat"])
    assert picture.shape == image.shape
    assert (image == 100).all()  # the argument stays unchanged
    assert (picture[350:450, 250:350] != 100).any(axis=2).all()
    assert len(np.unique(picture[350:450, 250:350].reshape(-1, 3), axis=0)) == 1
    assert (picture[520:] == 100).all() and (picture[:, 420:] == 100).all()
    assert (picture[280:300, 200:240] != 100).any()  # the label above the box


def test_small_images_are_enlarged():
    image = np.zeros((32, 64, 3), np.uint8)
    picture = V.draw(image, instances([(8, 8, 24, 24)], (32, 64)), ["cat"], side=640)
    assert picture.shape == (256, 512, 3)  # 8 times at most
    assert picture[128, 128].any() and not picture[20, 400].any()


def test_the_mask_is_drawn_where_it_is_not_where_the_box_is():
    found = instances([(100, 100, 300, 300)], (700, 700))
    found.masks[0, 200:] = False
    picture = V.draw(np.zeros((700, 700, 3), np.uint8), found, ["cat"])
    assert picture[150, 200].any() and not picture[250, 200].any()


def test_small_objects_lie_over_large_ones():
    found = instances([(300, 300, 400, 400), (100, 100, 600, 600)], (700, 700), classes=[0, 1])
    picture = V.draw(np.zeros((700, 700, 3), np.uint8), found, ["a", "b"], opacity=1.0)
    assert tuple(picture[350, 350]) == V.colors([0, 1], 2)[0]
    assert tuple(picture[500, 200]) == V.colors([0, 1], 2)[1]


def test_no_instances_and_hundreds_of_them():
    image = np.random.default_rng(0).integers(0, 255, (640, 640, 3), dtype=np.uint8)
    np.testing.assert_array_equal(V.draw(image, instances([], (640, 640)), ["a"]), image)
    boxes = [(x, y, x + 20, y + 20) for x in range(0, 600, 30) for y in range(0, 600, 30)]
    scores = np.linspace(1, 0, len(boxes))
    picture = V.draw(image, instances(boxes, image.shape[:2], scores=scores), ["a"])
    gap = picture[22:28, 22:28]  # labels would cover the space between the objects
    np.testing.assert_array_equal(gap, image[22:28, 22:28])


def test_colours_are_the_same_each_time_and_tell_classes_apart():
    assert V.colors([0, 5, 0], 10) == V.colors([0, 5, 0], 10)
    assert len(set(V.colors(range(10), 10))) == 10
    assert len(set(V.colors(np.zeros(20, int), 1))) == 20  # one class: instances apart


def test_side_by_side_and_grid():
    image = np.zeros((640, 480, 3), np.uint8)
    found = instances([(10, 10, 100, 100)], (640, 480), scores=np.array([0.9]))
    both = V.side_by_side(image, found, instances([], (640, 480)), ["cat"])
    assert both.shape[1] == 2 * 480 + 6 and both.shape[0] > 640
    assert (both[:, 480:486] == 255).all()  # the gap
    assert both[-600:, :480].any() and not both[-600:, 486:].any()
    assert V.grid([image] * 5).shape == (2 * 640 + 6, 3 * 480 + 12, 3)
    assert V.grid([image, image[:10, :20]], columns=1).shape == (656, 480, 3)


@pytest.mark.parametrize("name", ["a.png", "deep/er/a.jpg"])
def test_pictures_are_written_as_rgb(tmp_path, name):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 0] = 255  # red
    path = V.write_image(tmp_path / name, picture)
    back = cv2.imread(str(path))[..., ::-1]
    np.testing.assert_allclose(back.astype(int), picture, atol=2)
    assert V.png(picture)[:4] == b"\x89PNG"


def test_crops_and_maps_of_a_box_are_alike():
    """A crop shows the box, grey where it sticks out; a map over it has its size, and goes from dark to bright."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:20, 30:60] = (200, 100, 50)
    box = (20.0, 10.0, 80.0, 30.0)
    crop = V.crop(image, box, 120)
    assert crop.shape == (40, 120, 3)
    assert (crop[4:16, 24:76] == (200, 100, 50)).all() and (crop[24:, 4:76] == 0).all()
    assert (crop[:, 84:] == 128).all() and (crop[4:16, 4:16] == 0).all()
    heat = V.heat(np.array([[0.0, 0.4, 1.0]]), box, 120)
    assert heat.shape == crop.shape
    brightness = heat[20, [20, 60, 100]].astype(int).sum(-1)
    assert brightness[0] < brightness[1] < brightness[2]
    assert len(np.unique(heat.reshape(-1, 3), axis=0)) == 3
    assert V.crop(image, (5, 5, 5.001, 35), 120).shape == (120, 1, 3)


def test_errors():
    with pytest.raises(ValueError, match=r"'a.gif': use .png"):
        V.write_image("a.gif", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(ValueError, match="float64"):
        V.draw(np.zeros((2, 2, 3)), instances([], (2, 2)), [])
