"""Resizing as other libraries do it."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import common
from jaxseg.data import batches, geometry, resize, settings

IMAGE = np.random.default_rng(0).integers(0, 256, (31, 47, 3), dtype=np.uint8)


def sampled(image, size, *, antialias):
    """Bilinear resizing as a product of two matrices, in float64."""

    def weights(before, after):
        scale = before / after
        reach = max(scale, 1.0) if antialias else 1.0
        place = (np.arange(after) + 0.5) * scale - 0.5
        if not antialias:
            place = np.clip(place, 0, before - 1)
        rows = np.maximum(1 - np.abs(place[:, None] - np.arange(before)) / reach, 0)
        return rows / rows.sum(1, keepdims=True)

    down, across = weights(image.shape[0], size[0]), weights(image.shape[1], size[1])
    return np.einsum("yi,xj,ijc->yxc", down, across, image.astype(float))


@pytest.mark.parametrize("size", [(62, 90), (17, 20), (40, 30)])
@pytest.mark.parametrize(
    ("method", "antialias", "tolerance"),
    # Pillow rounds twice, after each axis; OpenCV once, with weights of 11 bits.
    [("torchvision", False, 1e-3), ("detectron2", True, 1.01), ("mmdet", False, 0.8)],
)
def test_what_each_method_computes(method, antialias, tolerance, size):
    expected = sampled(IMAGE, size, antialias=antialias)
    np.testing.assert_allclose(resize.resample(IMAGE, size, method), expected, atol=tolerance)


def test_pillows_bytes():
    expected = Image.fromarray(IMAGE).resize((20, 17), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resize.resample(IMAGE, (17, 20), "detectron2"), expected)


@pytest.mark.parametrize("method", resize.METHODS)
def test_an_image_of_the_right_size_keeps_its_values(method):
    same = resize.resample(IMAGE, (31, 47), method)
    assert same.dtype == resize.dtype(method)
    np.testing.assert_array_equal(same, IMAGE)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("opencv", (267, 1333)),  # 266.6
        ("torchvision", (266, 1333)),
        ("detectron2", (267, 1333)),
        ("mmdet", (267, 1333)),
    ],
)
def test_how_sides_become_whole(method, expected):
    assert geometry.shortest_edge((200, 1000), 800, 1333, method) == expected


def test_halves_go_up_but_for_ours():
    sizes = {m: geometry.shortest_edge((100, 125), 10, 99, m) for m in resize.METHODS}
    assert sizes == {
        "opencv": (10, 12),
        "torchvision": (10, 12),
        "detectron2": (10, 13),
        "mmdet": (10, 13),
    }


def test_geometry_takes_the_method_of_the_config():
    config = ConfigDict(dict(method="torchvision", short=40, max=99))
    place = geometry.fixed(config, IMAGE.shape[:2], (64, 96))
    assert place.size == (40, 60) and place.image(IMAGE).dtype == np.float32
    training = ConfigDict(dict(config, mode="shortest_edge"))
    drawn = geometry.draw(training, 1.0, IMAGE.shape[:2], (64, 96), np.random.default_rng(0))
    np.testing.assert_array_equal(drawn.image(IMAGE), place.image(IMAGE)[:, ::-1])


@pytest.mark.parametrize("targets", [True, False])
def test_batches_keep_what_is_not_rounded(targets):
    config = common.data()
    config.resize.method = "torchvision"
    images = batches._blank(1, (32, 32), batches.Options.of(config), targets=targets)["images"]
    assert images.dtype == (np.float32 if targets else np.uint8)


@pytest.mark.parametrize("key", ["resize", "eval_resize"])
def test_unknown_methods_are_named(key):
    config = common.data()
    config[key].method = "pil"
    with pytest.raises(ValueError, match=rf"data\.{key}\.method='pil': allowed are opencv, torch"):
        settings.check(config)
