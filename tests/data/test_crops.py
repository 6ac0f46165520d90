from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from jaxseg.data import browse, coco_format, crops, entries, geometry, rle, source

IDENTITY = geometry.Geometry((100, 120), (100, 120), (0, 0), (100, 120), False)
CONFIGS = [
    IDENTITY,
    geometry.Geometry((100, 120), (150, 181), (0, 0), (150, 181), True),
    geometry.Geometry((100, 120), (63, 75), (0, 0), (63, 75), False),
]


def _blob(seed: int) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((100, 120)), (0, 0), 9)
    return (noise > np.quantile(noise, 0.7)).astype(np.uint8)


def _polygons(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    found, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return tuple(c.astype(np.float32).ravel() + 0.5 for c in found if len(c) > 8)


def _encode(mask: np.ndarray) -> dict:
    return mask_utils.encode(np.asfortranarray(mask, np.uint8))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def _pasted(crop: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    out = np.zeros(size, bool)
    window, inside = browse.paste(crop, box, *size)
    out[window] = inside
    return out


def test_polygons_on_the_pixel_grid_are_rasterised_as_by_pycocotools():
    polygons = _polygons(_blob(0))
    parts = [polygon.tolist() for polygon in polygons]
    expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(parts, 100, 120)))
    box = np.array([0, 0, 120, 100.0])
    np.testing.assert_array_equal(crops.crop(polygons, IDENTITY, box, (100, 120)), expected)


def test_rle_on_the_pixel_grid_is_decoded():
    mask = _blob(1)
    box = np.array([20, 10, 90, 80.0])
    np.testing.assert_array_equal(
        crops.crop(_encode(mask), IDENTITY, box, (70, 70)), mask[10:80, 20:90]
    )


def test_flip_of_the_left_half_is_the_right_half():
    mask = np.zeros((100, 120), np.uint8)
    mask[:, :60] = 1
    place = geometry.Geometry((100, 120), (100, 120), (0, 0), (100, 120), True)
    box = np.array([0, 0, 120, 100.0])
    np.testing.assert_array_equal(crops.crop(_encode(mask), place, box, (100, 120)), mask[:, ::-1])


@pytest.mark.parametrize("place", CONFIGS)
@pytest.mark.parametrize("kind", ["polygons", "rle"])
@pytest.mark.parametrize("size", [32, 112])
def test_crop_and_paste_give_the_mask_back(place, kind, size):
    mask = _blob(2)
    if kind == "polygons":
        segmentation = _polygons(mask)
        points = [place.points(part.reshape(-1, 2)).ravel().tolist() for part in segmentation]
        expected = mask_utils.decode(mask_utils.merge(mask_utils.frPyObjects(points, *place.size)))
    else:
        segmentation = _encode(mask)
        expected = cv2.resize(mask.astype(np.float32), place.resized[::-1]) >= 0.5
        expected = expected[:, ::-1] if place.flip else expected
    box = place.boxes(crops.extent(mask)[None])[0]
    crop = crops.crop(segmentation, place, box, (size, size))
    pasted = _pasted(crop, box, place.size)
    assert _iou(pasted, expected.astype(bool)) > (0.88 if size == 32 else 0.92)


def test_subpixel_boxes_of_polygons():
    square = (np.array([10.25, 20.25, 30.75, 20.25, 30.75, 40.75, 10.25, 40.75], np.float32),)
    crop = crops.crop(square, IDENTITY, np.array([10.25, 20.25, 30.75, 40.75]), (32, 32))
    assert crop.all()
    half = crops.crop(square, IDENTITY, np.array([10.25, 20.25, 51.25, 40.75]), (32, 32))
    assert half[:, :16].all() and not half[:, 16:].any()


def test_area_average_when_shrinking():
    stripes = np.zeros((100, 120), np.uint8)
    stripes[:, ::4] = 1  # a quarter is set: nowhere a majority
    crop = crops.crop(_encode(stripes), IDENTITY, np.array([0, 0, 120, 100.0]), (8, 8))
    assert not crop.any()
    crop = crops.crop(_encode(1 - stripes), IDENTITY, np.array([0, 0, 120, 100.0]), (8, 8))
    assert crop.all()


def test_paste_known_value():
    out = _pasted(np.ones((6, 6), np.uint8), np.array([0, 2, 6, 8]), (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:8, 0:6] = True
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        ((2, 5), (3, 7), [3, 2, 7, 5]),
        ((0, 4), (1, 4), [1, 0, 4, 4]),
        ((1, 3), (1, 3), [1, 1, 3, 3]),
    ],
)
def test_extent_known_values(rows, columns, box):
    mask = np.zeros((8, 8), bool)
    mask[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(crops.extent(mask), box)
    assert crops.extent(np.zeros((4, 4), bool)) is None


@pytest.mark.parametrize("d", [5, 10, 1000])
def test_polygon_area_known_values(d):
    square, triangle = np.array([0, 0, d, 0, d, d, 0, d]), np.array([0, 0, d, 0, d, d])
    assert coco_format._area((square,)) == d * d
    assert coco_format._area((triangle,)) == d * d / 2


def test_pack():
    crop = np.random.default_rng(0).integers(0, 2, (3, 16, 16)).astype(np.uint8)
    assert crops.pack(crop).shape == (3, 16, 2)
    np.testing.assert_array_equal(crops.unpack(crops.pack(crop)), crop)


@pytest.mark.parametrize("seed", range(20))
def test_rle_agrees_with_pycocotools(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random(rng.integers(1, 40, 2)) < rng.random()).astype(np.uint8)
    mask = mask * (seed % 5 != 0)
    encoded = _encode(mask)
    assert rle.covers(encoded["counts"], mask.size)
    assert not rle.covers(encoded["counts"], mask.size + 1)
    first, last = sorted(rng.integers(0, mask.shape[1] + 1, 2).tolist())
    np.testing.assert_array_equal(rle.decode_columns(encoded, first, last), mask[:, first:last])


def _objects(items, place, **options):
    options = dict(max_instances=5, max_crowds=2, mask_crop_size=16) | options
    return entries.make_objects(items, place, **options)


def _instance(box, *, area=None, crowd=False, cls=0):
    x0, y0, x1, y1 = map(float, box)
    polygon = np.array([x0, y0, x1, y0, x1, y1, x0, y1], np.float32)
    area = (x1 - x0) * (y1 - y0) if area is None else area
    return source.Instance(
        cls, np.array(box, np.float32), None if crowd else (polygon,), area, crowd
    )


@pytest.mark.parametrize(("share", "times"), [(0.001, 1), (0.02, 2), (0.05, 5)])
@pytest.mark.parametrize("flip", [False, True])
def test_erosion_in_the_image(share, times, flip):
    """On the pixel grid it is OpenCV's of the part in the box, beyond which is nothing."""
    mask, place = _blob(1), geometry.Geometry((100, 120), (100, 120), (0, 0), (100, 120), flip)
    part = (mask[:, ::-1] if flip else mask)[10:80, 20:90]
    square = np.ones((3, 3), np.uint8)
    nothing = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 0}
    expected = cv2.erode(np.ascontiguousarray(part), square, iterations=times, **nothing)
    assert 0 < expected.sum() < part.sum()
    box = np.array([20, 10, 90, 80.0])
    found = crops.eroded(_encode(mask), place, box, (70, 70), share)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["polygons", "rle"])
def test_erosion_is_as_wide_as_the_object_is_large(kind):
    """Of the moved image: of a disc, the share of its diagonal is left out all around, whatever the scale."""
    disc = cv2.circle(np.zeros((100, 120), np.uint8), (60, 50), 40, 1, -1)
    segmentation = _polygons(disc) if kind == "polygons" else _encode(disc)
    for scale in (0.5, 1.0, 2.0):
        size = (round(100 * scale), round(120 * scale))
        place = geometry.Geometry((100, 120), size, (0, 0), size, False)
        box = scale * np.array([20, 10, 101, 91.0])
        mask = crops.crop(segmentation, place, box, (112, 112))
        kept = crops.eroded(segmentation, place, box, (112, 112), 0.05)
        assert (kept <= mask).all()
        pixel = 112 / 81 / scale  # of the moved image, in cells of the crop
        expected = pixel * round(0.05 * np.hypot(81, 81) * scale)
        # The middle row loses that much on both sides.
        assert (mask[56].sum() - kept[56].sum()) / 2 == pytest.approx(expected, abs=pixel + 1)


def test_eroded_masks_come_with_the_objects_that_are_kept():
    items = [_instance([5, 5, 45, 45]), _instance([0, 0, 4, 4]), _instance([50, 50, 90, 90])]
    assert _objects(items, IDENTITY).eroded is None
    objects = _objects(items, IDENTITY, max_instances=2, eroded_masks=0.05)
    assert objects.eroded.shape == objects.masks.shape == (2, 16, 2)
    kept, masks = crops.unpack(objects.eroded), crops.unpack(objects.masks)
    assert masks.all() and kept[:, 2:14, 2:14].all() and not kept[:, 0].any()


def test_a_whole_object_keeps_its_annotated_box():
    loose = source.Instance(
        1,
        np.array([10, 10, 50, 50], np.float32),
        _instance([20, 20, 40, 40]).segmentation,
        9.0,
        False,
    )
    place = geometry.Geometry((100, 100), (50, 50), (0, 0), (50, 50), True)
    objects = _objects([loose], place)
    np.testing.assert_allclose(objects.boxes, [[25, 5, 45, 25]])
    assert objects.classes.tolist() == [1]


def test_a_cut_object_gets_the_box_of_what_is_left():
    # An L: the crop takes away its foot, so that the box becomes narrower than the clipped one.
    points = np.array([10, 10, 20, 10, 20, 60, 60, 60, 60, 80, 10, 80], np.float32)
    item = source.Instance(0, np.array([10, 10, 60, 80], np.float32), (points,), 1000.0, False)
    place = geometry.Geometry((100, 100), (100, 100), (0, 0), (50, 100), False)
    np.testing.assert_allclose(_objects([item], place).boxes, [[10, 10, 20, 50]])
    mask = np.zeros((100, 100), np.uint8)
    mask[10:80, 10:20] = mask[60:80, 10:60] = 1
    item = source.Instance(0, item.box, _encode(mask), 1000.0, False)
    np.testing.assert_allclose(_objects([item], place).boxes, [[10, 10, 20, 50]])


def test_objects_out_of_sight_are_dropped():
    corner = np.array(
        [10, 90, 90, 10, 90, 90], np.float32
    )  # its box reaches the crop, its mask does not
    items = [
        _instance([60, 60, 90, 90]),
        source.Instance(0, np.array([10, 10, 90, 90], np.float32), (corner,), 3200.0, False),
        _instance([5, 5, 15, 15], cls=2),
    ]
    place = geometry.Geometry((100, 100), (100, 100), (0, 0), (40, 40), False)
    assert _objects(items, place).classes.tolist() == [2]


def test_the_largest_are_kept_in_their_order():
    items = [_instance([0, 0, 10 + i, 10], cls=i) for i in (3, 9, 1, 7)]
    assert _objects(items, IDENTITY, max_instances=2).classes.tolist() == [9, 7]


def test_crowds_are_no_targets():
    items = [_instance([10, 10, 30, 30]), _instance([0, 0, 50, 50], crowd=True)]
    objects = _objects(items, geometry.Geometry((100, 100), (50, 50), (0, 0), (20, 20), False))
    assert len(objects.boxes) == 1
    np.testing.assert_allclose(objects.crowd_boxes, [[0, 0, 20, 20]])


def test_a_polygon_much_bigger_than_its_box_is_harmless():
    polygon = (np.array([-1e5, -1e5, 1e6, -1e5, 1e6, 1e6], np.float32),)
    crop = crops.crop(polygon, IDENTITY, np.array([50, 50, 50.001, 50.001]), (16, 16))
    assert crop.shape == (16, 16)
