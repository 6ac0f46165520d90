from __future__ import annotations

import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxseg.data import geometry, plan

LSJ = ConfigDict(dict(mode="lsj", scale=(0.1, 2.0), size=(64, 80), short=(40,), max=99))


def _place(size, *, flip=False, offset=(0, 0), out=None, resized=None):
    return geometry.Geometry(size, resized or size, offset, out or resized or size, flip)


def test_flip_known_values():
    place = _place((500, 400), flip=True)
    np.testing.assert_allclose(place.boxes(np.array([[10, 10, 200, 300.0]])), [[200, 10, 390, 300]])
    polygon = np.array([10, 10, 100, 100, 100, 10.0]).reshape(-1, 2)
    np.testing.assert_allclose(place.points(polygon).ravel(), [390, 10, 300, 100, 300, 10])


def test_crop_known_values():
    place = _place((500, 500), offset=(300, 300), out=(10, 10))
    box = place.boxes(np.array([[10, 10, 200, 400.0]]))
    np.testing.assert_allclose(np.clip(box, 0, 10), [[0, 0, 0, 10]])


@pytest.mark.parametrize("seed", range(5))
def test_back_undoes(seed):
    place = geometry.draw(LSJ, 0.5, (70, 50), (64, 80), plan.image_rng(seed, 0, 0))
    box = np.array([5.0, 6, 30, 20])
    np.testing.assert_allclose(place.back(place.boxes(box[None])[0]), box, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1067)),
        ((427, 640), (800, 1199)),
        ((200, 1000), (267, 1333)),
        ((640, 480), (1067, 800)),
    ],
)
def test_shortest_edge(size, expected):
    assert geometry.shortest_edge(size, 800, 1333) == expected


def test_an_image_that_fits_no_bucket_is_shrunk():
    resize = ConfigDict(dict(short=800, max=1333))
    place = geometry.fixed(resize, (1000, 1000), (400, 600))
    assert place.size == (400, 400)
    place = geometry.fixed(resize, (333, 1001), (400, 600))
    assert place.size[1] == 600 and place.size[0] <= 400


@pytest.mark.parametrize(
    ("size", "bucket"),
    [((800, 1067), 0), ((1067, 800), 1), ((800, 800), 0), ((1333, 444), 1), ((5000, 100), 1)],
)
def test_bucket_fits_best(size, bucket):
    assert geometry.choose_bucket(size, ((800, 1344), (1344, 800))) == bucket


def test_the_smallest_bucket_that_fits():
    assert geometry.choose_bucket((500, 500), ((512, 1024), (512, 512), (1024, 1024))) == 1


def test_flip_and_crop_of_the_image_agree_with_those_of_points():
    rng = np.random.default_rng(0)
    image = np.zeros((20, 30, 3), np.uint8)
    image[7, 11] = 255
    place = _place((20, 30), resized=(40, 60), offset=(6, 9), out=(24, 40), flip=True)
    moved = place.image(image)
    assert moved.shape == (24, 40, 3)
    rows, columns = np.nonzero(moved[..., 0] == moved.max())
    centre = place.points(np.array([[11.5, 7.5]]))[0]
    np.testing.assert_allclose((columns.mean() + 0.5, rows.mean() + 0.5), centre, atol=0.51)
    same = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    np.testing.assert_array_equal(_place((20, 30), flip=True).image(same), same[:, ::-1])


def test_drawn_sizes():
    resize = ConfigDict(
        dict(mode="shortest_edge", short=(40, 48), max=200, scale=(1, 1), size=(1, 1))
    )
    places = [
        geometry.draw(resize, 0.5, (50, 100), (64, 128), plan.image_rng(0, 0, i)) for i in range(60)
    ]
    assert {place.size for place in places} == {(40, 80), (48, 96)}
    assert 15 < sum(place.flip for place in places) < 45
    places = [
        geometry.draw(LSJ, 0.5, (50, 100), (64, 128), plan.image_rng(0, 0, i)) for i in range(200)
    ]
    widths = [place.resized[1] for place in places]
    assert min(widths) < 20 and max(widths) > 140
    assert all(place.size[0] <= 64 and place.size[1] <= 80 for place in places)
    offsets = [
        place.offset[1] / (place.resized[1] - 80) for place in places if place.resized[1] > 120
    ]
    assert min(offsets) < 0.2 and max(offsets) > 0.8
