"""Several views of an image become one set of instances: geometry, merging, suppression, averages; every method."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import methods
from jaxseg.methods import views as views_lib
from jaxseg.modeling import roi_heads
from jaxseg.modeling.roi_heads import DetectionSettings
from jaxseg.structures import Batch, RoIs, ScoredBoxes, Views
from jaxseg.training import sharding
from jaxseg.training import step as step_lib
from tests.methods import tiny
from tests.methods.refining import quick

# A model whose answers are made up, and a slow reference.

SIZES = np.array([[[40, 50], [32, 64]], [[40, 50], [32, 64]], [[61, 75], [47, 96]]], np.float32)
FLIPS = (False, True, False)
SETTINGS = DetectionSettings(score=0.0, nms_iou=0.5, max_detections=7, candidates=12)
CELLS = 4


class MadeUp(nn.Module):
    """Finds what `tables` say of each view; masks depend on where in the view a box and its RoI lie."""

    tables: Any
    test = SETTINGS

    @property
    def roi_heads(self):
        return self

    def propose(self, batch):
        return batch, None

    def candidates(self, batch, proposals):
        del proposals
        return self.tables[int(batch.images.shape[1])], None

    def masks(self, batch, found, seen=None):
        assert seen is None
        del batch
        at = (jnp.arange(CELLS) + 0.5) / CELLS
        x0, y0, x1, y1 = jnp.moveaxis(found.boxes[..., None, None], 2, 0)
        x, y = x0 + (x1 - x0) * at[None, :], y0 + (y1 - y0) * at[:, None]
        return probability(x, y, found.origins[..., 0, None, None], jnp)


def probability(x, y, origin, xp):
    return 0.5 + 0.2 * xp.sin(0.31 * x) + 0.1 * xp.sin(0.17 * y) + 0.2 * xp.sin(0.11 * origin)


def made_up_views():
    """Views whose canvases differ, by which the model knows them, and what it finds there: the same objects, moved."""
    rng = np.random.default_rng(3)
    corner = rng.uniform(0.05, 0.6, (2, 4, 2))
    objects = np.concatenate([corner, corner + rng.uniform(0.15, 0.35, corner.shape)], -1)
    batches, tables = [], {}
    for number, (size, flip) in enumerate(zip(SIZES, FLIPS, strict=True)):
        canvas = 64 + 32 * number
        images = np.zeros((2, canvas, 96, 3), np.uint8)
        batches.append(Batch(images, size, np.ones(2, bool)))
        boxes = objects[:, np.arange(12) % 4] + rng.normal(0, 0.03, (2, 12, 4))
        boxes = np.clip(boxes, 0, 1) * size[:, None, [1, 0, 1, 0]]
        if flip:
            width = size[:, None, 1]
            x0, y0, x1, y1 = np.moveaxis(boxes, -1, 0)
            boxes = np.stack([width - x1, y0, width - x0, y1], -1)
        tables[canvas] = ScoredBoxes(
            boxes=jnp.asarray(boxes, jnp.float32),
            scores=jnp.asarray(rng.uniform(0.1, 1, (2, 12)), jnp.float32),
            classes=jnp.asarray(rng.integers(0, 2, (2, 12)), jnp.int32),
            valid=jnp.asarray(rng.uniform(size=(2, 12)) < 0.9),
            rois=jnp.zeros((2, 12), jnp.int32),
            origins=jnp.asarray(boxes * 0.9, jnp.float32),
        )
    return Views(tuple(batches), FLIPS), tables


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (area - shared)


def to_first(box, image, view):
    """One box, number by number, as shares of the image."""
    (height, width), (first_height, first_width) = SIZES[view][image], SIZES[0][image]
    x0, y0, x1, y1 = box[0] / width, box[1] / height, box[2] / width, box[3] / height
    if FLIPS[view]:
        x0, x1 = 1 - x1, 1 - x0
    return [x0 * first_width, y0 * first_height, x1 * first_width, y1 * first_height]


def from_first(box, image, view):
    (height, width), (first_height, first_width) = SIZES[view][image], SIZES[0][image]
    x0, x1 = box[0] / first_width, box[2] / first_width
    if FLIPS[view]:
        x0, x1 = 1 - x1, 1 - x0
    return [x0 * width, box[1] / first_height * height, x1 * width, box[3] / first_height * height]


def slow_mask(box, origin, image, view):
    x0, y0, x1, y1 = from_first(box, image, view)
    start = from_first(origin, image, view)[0]
    rows = []
    for i in range(CELLS):
        y = y0 + (y1 - y0) * (i + 0.5) / CELLS
        across = [x0 + (x1 - x0) * (j + 0.5) / CELLS for j in range(CELLS)]
        row = [probability(x, y, start, np) for x in across]
        rows.append(row[::-1] if FLIPS[view] else row)
    return np.array(rows)


def slow_merge(tables, image):
    """[(box, score, class, mask)], one by one."""
    everything = []
    for view, canvas in enumerate(sorted(tables)):
        found = jax.tree.map(lambda x: np.asarray(x[image], np.float64), tables[canvas])
        for c in np.flatnonzero(found.valid):
            box, origin = (to_first(b[c], image, view) for b in (found.boxes, found.origins))
            everything.append((box, found.scores[c], int(found.classes[c]), origin))
    kept = []
    for box, score, label, origin in sorted(everything, key=lambda entry: -entry[1]):
        if all(overlap(box, other[0]) <= 0.5 for other in kept if other[2] == label):
            kept.append((box, score, label, origin))
    every_view = range(len(FLIPS))
    return [
        (b, s, k, np.mean([slow_mask(b, o, image, v) for v in every_view], axis=0))
        for b, s, k, o in kept[: SETTINGS.max_detections]
    ], len(everything)


def test_boxes_are_merged_suppressed_and_masks_averaged_as_one_by_one():
    views, tables = made_up_views()
    found = quick(lambda v: views_lib.detect(MadeUp(tables), v))(views)
    assert found.masks.shape == (2, 7, CELLS, CELLS)
    for image in range(2):
        wanted, before = slow_merge(tables, image)
        assert before > 2 * len(wanted)
        count = int(found.valid[image].sum())
        assert count == len(wanted)
        boxes, scores, classes, masks = zip(*wanted, strict=True)
        np.testing.assert_allclose(found.boxes[image, :count], boxes, atol=1e-4)
        np.testing.assert_allclose(found.scores[image, :count], scores, atol=1e-6)
        np.testing.assert_array_equal(found.classes[image, :count], classes)
        np.testing.assert_allclose(found.masks[image, :count], masks, atol=1e-5)


def test_the_first_view_is_in_its_own_pixels_and_none_leaves_the_image():
    size = jnp.array([[37.0, 53.0]])
    first = Batch(np.zeros((1, 64, 64, 3), np.uint8), size, np.ones(1, bool))
    second = first.replace(image_size=jnp.array([[61.0, 90.0]]))
    views = Views((first, second), (False, True))
    boxes = jnp.asarray([[[0, 0, 53, 37], [3.3, 4.7, 11.1, 29.9]]], jnp.float32)
    np.testing.assert_array_equal(views_lib._from_first(boxes, views, first, False), boxes)
    moved = views_lib._from_first(boxes, views, second, True)
    np.testing.assert_allclose(moved[0, 0], [0, 0, 90, 61], atol=1e-4)
    back = views_lib._to_first(moved, views, second, True)
    np.testing.assert_allclose(back, boxes, atol=1e-4)
    assert (back[..., 2] <= 53).all() and (back[..., 3] <= 37).all()


# Whole models.

HEIGHT, WIDTH = 52, 60


def settings(method="mask_rcnn", head="fcn", criterion="softmax", **maskplus):
    config = tiny.config()
    config.method = method
    config.model.mask_head.name = head
    config.model.criterion.name = criterion
    config.model.criterion.roi.samples = 16
    config.model.maskplus.update(maskplus)
    return config


CASES = {
    "mask_rcnn": {},
    "cascade_mask_rcnn": dict(method="cascade_mask_rcnn"),
    "atmask": dict(head="atmask"),
    "brefine": dict(head="brefine"),
    "maskplus": dict(context=(16,), pyramid="doubled", boundary="improved"),
    "mr_rcnn": dict(method="mr_rcnn"),
}


def images(seed=0) -> Batch:
    """On canvases larger than the images, so that mirroring is about them and not about the canvas."""
    batch = tiny.batch(seed=seed).replace(targets=None)
    pixels = batch.images.copy()
    pixels[:, HEIGHT:] = pixels[:, :, WIDTH:] = 0
    return batch.replace(images=pixels, image_size=np.array([[HEIGHT, WIDTH]] * 2, np.float32))


def mirrored(batch: Batch) -> Batch:
    pixels = batch.images.copy()
    pixels[:, :, :WIDTH] = pixels[:, :, :WIDTH][:, :, ::-1]
    return batch.replace(images=pixels)


def enlarged(batch: Batch) -> Batch:
    pixels = batch.images.repeat(2, axis=1).repeat(2, axis=2)
    return batch.replace(images=pixels, image_size=2 * batch.image_size)


@functools.cache
def made(case, criterion="softmax"):
    """(model, variables) of a case."""
    model = methods.build(settings(**CASES[case], criterion=criterion))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images(), method="detect"))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key in ("var", "scale"):
            return jnp.ones(leaf.shape, leaf.dtype)
        if path[-1].key in ("mean", "bias"):
            return jnp.zeros(leaf.shape, leaf.dtype)
        # Scores that are all 1 would be in any order.
        gain = {"classes": 0.2, "deltas": 0.1}.get(path[-2].key, 1.0)
        spread = gain * np.sqrt(2 / max(np.prod(leaf.shape[:-1], initial=1), 50))
        return jnp.asarray(rng.normal(0, spread, leaf.shape), leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def compiled(case, criterion="softmax"):
    """(detections, maps of the mask head) of views."""
    model, variables = made(case, criterion)

    def call(variables, views):
        found, seen = model.apply(
            variables, views, method=views_lib.detect, mutable=["intermediates"]
        )
        return found, views_lib.maps_of(seen["intermediates"]["roi_heads"], views)

    program = quick(call)
    return lambda views: jax.device_get(program(variables, views))


def check_mirrored(found, other):
    """Two sets of detections are those of an image and of its mirror image, whatever the order of equal scores."""
    assert found.valid.any(1).all()
    np.testing.assert_array_equal(found.valid.sum(1), other.valid.sum(1))
    for image in range(len(found.valid)):
        a, b = (np.flatnonzero(d.valid[image]) for d in (found, other))
        turned = other.boxes[image][b] * [-1, 1, -1, 1] + [WIDTH, 0, WIDTH, 0]
        turned = turned[:, [2, 1, 0, 3]]
        distance = np.abs(found.boxes[image][a][:, None] - turned).max(-1)
        distance += 100.0 * (found.classes[image][a][:, None] != other.classes[image][b])
        partner = distance.argmin(1)
        assert sorted(partner) == list(range(len(b)))
        assert distance[np.arange(len(a)), partner].max() < 1e-2
        np.testing.assert_allclose(
            found.scores[image][a], other.scores[image][b][partner], atol=1e-4
        )
        np.testing.assert_allclose(
            found.masks[image][a], other.masks[image][b][partner][..., ::-1], atol=1e-3
        )


EVERY = [(case, criterion) for criterion in ("softmax", "rank_sort") for case in CASES]
SLOW = [pytest.param(*both, marks=pytest.mark.slow) for both in EVERY[1:]]


@pytest.mark.parametrize(("case", "criterion"), [EVERY[0], *SLOW])
def test_a_mirrored_image_has_mirrored_instances(case, criterion):
    """With flips, whatever the method and the criterion; and every map is averaged as the masks are."""
    detect, batch = compiled(case, criterion), images()
    sizes = 1 if (case, criterion) == EVERY[0] else 2

    def both_ways(batch):
        each = [(batch, mirrored(batch)), (enlarged(batch), enlarged(mirrored(batch)))][:sizes]
        return Views(sum(each, ()), (False, True) * sizes)

    found, maps = detect(both_ways(batch))
    inside = found.boxes[found.valid]
    assert inside.min() >= 0 and (inside <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    assert (np.diff(np.where(found.valid, found.scores, 0)) <= 0).all()
    assert ((found.masks >= 0) & (found.masks <= 1)).all() and found.masks.std() > 1e-4
    assert any(np.allclose(found.masks, one, atol=1e-6) for one in maps.values()), maps.keys()
    other, _ = detect(both_ways(mirrored(batch)))
    check_mirrored(found, other)


@pytest.mark.slow
def test_one_view_is_the_model_itself():
    """Bit for bit, also by the way that several views take."""
    model, variables = made("mask_rcnn")
    batch = images()
    plain = quick(lambda v, b: model.apply(v, b, method="detect"))(variables, batch)
    found, _ = compiled("mask_rcnn")(Views((batch,), (False,)))
    assert plain.valid.any()
    jax.tree.map(np.testing.assert_array_equal, found, jax.device_get(plain))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_view_that_is_there_twice_changes_nothing(case):
    """In every method: each box of the copy falls to the same one of the original."""
    model, variables = made(case)
    batch = images()
    plain = quick(lambda v, b: model.apply(v, b, method="detect"))(variables, batch)
    found, _ = compiled(case)(Views((batch, batch), (False, False)))
    np.testing.assert_array_equal(found.valid, plain.valid)
    for name in ("boxes", "scores", "classes", "masks"):
        a, b = (np.asarray(getattr(d, name))[plain.valid] for d in (found, plain))
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_refined_masks_know_their_first_box_in_other_views():
    """What MR R-CNN remembers of a view and what it computes anew from the first boxes are the same."""
    model, variables = made("mr_rcnn")

    def both(module, batch):
        pyramid, proposals = module.propose(batch)
        found, seen = module.roi_heads.candidates(pyramid, proposals)
        moved = found.replace(origins=found.origins + 7.0)
        masks = module.roi_heads.masks
        return found, [
            masks(pyramid, found, seen),
            masks(pyramid, found),
            masks(pyramid, moved),
        ]

    found, (kept, anew, moved) = quick(lambda v, b: model.apply(v, b, method=both))(
        variables, images()
    )
    np.testing.assert_allclose(kept[found.valid], anew[found.valid], atol=1e-5)
    assert np.abs(moved - anew)[found.valid].max() > 1e-3


@pytest.mark.slow
def test_entries_that_fill_a_batch_up_find_nothing():
    """`make_detect`, with maps, of views with an absent image."""
    model, variables = made("atmask")
    batch = images().replace(valid=np.array([True, False]))
    views = Views((batch, enlarged(mirrored(batch))), (False, True))
    detect = step_lib.make_detect(model, sharding.make_mesh(jax.devices()[:1]), maps=True)
    found = jax.device_get(detect(variables, views))
    assert found.valid[0].any() and not found.valid[1].any()
    assert set(found.maps) == {"P", "T", "B"}
    np.testing.assert_allclose(found.maps["B"], found.masks, atol=1e-6)
    alone = jax.tree.map(lambda x: x[:1], views)
    single = jax.device_get(detect(variables, alone))
    np.testing.assert_allclose(single.boxes, found.boxes[:1], atol=1e-3)


def test_a_box_keeps_the_roi_that_it_was_made_of():
    """`origins` are the boxes of `rois`: what other views need to find the same RoI again."""
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (1, 9, 2))
    boxes = jnp.asarray(np.concatenate([corner, corner + 12], -1), jnp.float32)
    exist = jnp.ones((1, 9), bool)
    scores = jnp.asarray(rng.uniform(size=(1, 9, 2)), jnp.float32)
    best = quick(lambda *x: roi_heads.best_pairs(*x, (1.0, 1.0, 1.0, 1.0), SETTINGS))
    rois = RoIs(boxes, exist, exist)
    found = best(scores, jnp.zeros((1, 9, 1, 4)), rois, jnp.array([[64.0, 64.0]]))
    np.testing.assert_array_equal(found.origins, boxes[0][found.rois[0]][None])
    np.testing.assert_allclose(found.boxes, found.origins, atol=1e-4)
    assert (np.diff(found.scores[0]) <= 0).all() and found.boxes.shape == (1, 12, 4)
