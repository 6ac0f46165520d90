"""The whole model: what it holds, and that padding, empty images and dtypes do it no harm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mask_rcnn as mask_rcnn_config
from jaxseg import methods
from tests.methods import tiny

LOSSES = {"rpn_objectness", "rpn_box", "classification", "box", "mask"}


def _same(a, b, tolerance=1e-4):
    """Equal up to the order of sums, relative to the largest number of each array."""

    def compare(x, y):
        x, y = np.asarray(x), np.asarray(y)
        scale = max(np.abs(y).max(initial=0), 1e-3)
        np.testing.assert_allclose(x / scale, y / scale, atol=tolerance)

    jax.tree.map(compare, a, b)


def test_parameter_count_of_the_standard_model():
    """ResNet-50-FPN with 80 classes, without the constants of frozen batch norms."""
    assert methods.count_parameters(mask_rcnn_config.get_config()) == 44_343_216
    r101 = mask_rcnn_config.get_config("r101")
    assert methods.count_parameters(r101) == 44_343_216 + 17 * (1024 * 256 * 2 + 256 * 256 * 9)


def test_every_loss_is_there_and_has_a_gradient(setup):
    (total, (log, _)), gradients = setup.losses(setup.batch)
    assert set(log) >= LOSSES
    assert all(np.isfinite(v) and v > 0 for k, v in log.items() if k in LOSSES), log
    assert float(total) == pytest.approx(float(sum(log[name] for name in LOSSES)), rel=1e-6)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        # On images of 64 pixels no sampled anchor need lie on P5.
        assert np.any(leaf) or "output5" in name or "stage4" in name or "lateral5" in name, name


def test_what_lies_in_padded_places_does_not_matter(setup):
    """Junk in unused object slots and in the canvas outside of the image."""
    small = setup.batch.replace(image_size=np.full((2, 2), 48.0, np.float32))
    junk = tiny.batch(seed=9)
    images = small.images.copy()
    images[:, 48:] = junk.images[:, 48:]
    images[:, :, 48:] = junk.images[:, :, 48:]
    targets = small.targets
    unused = ~targets.valid
    boxes, classes, masks = (np.array(x) for x in (targets.boxes, targets.classes, targets.masks))
    boxes[unused], classes[unused], masks[unused] = [-5.0, 3.0, 1e4, 2e4], 99, 255
    crowds = np.full_like(targets.crowd_boxes, 60.0)
    dirty = small.replace(
        images=images,
        targets=targets.replace(boxes=boxes, classes=classes, masks=masks, crowd_boxes=crowds),
    )
    _same(setup.losses(dirty), setup.losses(small), 0.0)


def test_a_padded_batch_entry_is_absent(setup):
    """An invalid second image, whatever it holds, leaves the loss, gradients and statistics of the first alone."""
    alone = jax.tree.map(lambda x: x[:1], setup.batch)
    both = setup.batch.replace(valid=np.array([True, False]))
    junk = setup.batch.replace(
        valid=np.array([True, False]),
        images=np.stack([both.images[0], tiny.batch(seed=5).images[1]]),
    )
    _same(setup.losses(junk), setup.losses(both), 0.0)
    _same(setup.losses(both), setup.losses(alone))


def test_images_without_objects(setup):
    targets = setup.batch.targets.replace(valid=np.zeros_like(setup.batch.targets.valid))
    (total, (log, _)), gradients = setup.losses(setup.batch.replace(targets=targets))
    assert np.isfinite(total) and log["rpn_objectness"] > 0 and log["classification"] > 0
    assert log["box"] == log["mask"] == log["rpn_box"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_a_batch_with_nothing_valid_has_no_loss_and_no_gradient(setup):
    (total, (_, stats)), gradients = setup.losses(setup.batch.replace(valid=np.zeros(2, bool)))
    assert total == 0 and not any(np.any(leaf) for leaf in jax.tree.leaves(gradients))
    _same(stats, setup.variables["batch_stats"], 0.0)


@pytest.fixture(scope="module")
def detect(setup):
    call = jax.jit(lambda v, b: setup.model.apply(v, b, method="detect"))
    return lambda batch: call(setup.variables, batch)


def test_detections_are_sorted_and_inside_the_image(setup, detect):
    found = detect(setup.batch.replace(image_size=np.full((2, 2), 50.0, np.float32), targets=None))
    assert found.masks.shape == (2, 10, 28, 28) and found.valid.any(1).all()
    scores = np.where(found.valid, found.scores, 0)
    assert (np.diff(scores) <= 0).all()
    boxes = np.asarray(found.boxes)[np.asarray(found.valid)]
    assert boxes.min() >= 0 and boxes.max() <= 50
    assert ((found.classes >= 0) & (found.classes < tiny.CLASSES)).all()
    assert ((found.masks >= 0) & (found.masks <= 1)).all()


def test_an_invalid_entry_has_no_detections_and_does_not_touch_the_others(setup, detect):
    full = setup.batch.replace(targets=None)
    one = detect(full.replace(valid=np.array([True, False])))
    assert not one.valid[1].any()
    first = lambda d: jax.tree.map(lambda x: x[0], d)  # noqa: E731
    _same(first(one), first(detect(full)), 0.0)


def test_bfloat16_keeps_boxes_and_losses_in_float32(setup):
    model = methods.build(tiny.config("bfloat16"))
    found = jax.eval_shape(
        lambda v, b: model.apply(v, b, method="detect"), setup.variables, setup.batch
    )
    assert found.boxes.dtype == found.scores.dtype == found.masks.dtype == jnp.float32
    total, (log, _) = jax.jit(tiny.loss_function(model))(
        setup.variables["params"], setup.variables["batch_stats"], setup.batch, jax.random.key(0)
    )
    assert total.dtype == jnp.float32 and all(np.isfinite(v) for v in log.values())
    assert float(total) == pytest.approx(float(setup.losses(setup.batch)[0][0]), rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "yolo"}, "method='yolo': allowed are mask_rcnn"),
        ({"model.backbone.depth": 42}, "depth=42: allowed is 10, 18, 34, 50, 101"),
        ({"model.backbone.norm": "bn"}, "norm='bn': allowed is frozen_bn"),
        ({"model.backbone.width": 0}, "width=0: allowed is a whole number >= 1"),
        ({"model.dtype": "float16"}, "model.dtype='float16'"),
        ({"model.dtype": "float64"}, "jax_enable_x64"),
        ({"model.num_classes": 0}, "num_classes=0"),
        ({"model.mask_head.name": "pointrend"}, "mask_head.name='pointrend': allowed is fcn"),
        ({"model.roi_align": "cuda"}, "roi_align='cuda': allowed is auto, xla"),
        ({"model.rpn.anchor_sizes": (32, 64)}, "anchor_sizes=.*: allowed is a tuple of 5, each"),
        ({"model.criterion.roi.coder": (1.0, 1.0)}, "coder=.*: allowed is a tuple of 4"),
        ({"model.criterion.roi.positive_fraction": 0.01}, "no slot for a positive"),
        ({"model.criterion.rpn.negative_iou": 0.9}, "negative_iou=0.9 is above positive_iou=0.7"),
        ({"model.test.score": 1.5}, "score=1.5: allowed is a number >= 0 and <= 1"),
    ],
)
def test_settings_without_meaning_are_named_before_anything_is_compiled(changes, message):
    config = tiny.config()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        methods.build(config)


def test_a_config_of_an_older_version_is_told_what_it_lacks():
    config = tiny.config()
    with config.unlocked():
        del config.model.rpn.round_anchors
    with pytest.raises(ValueError, match=r"rpn\.round_anchors is missing: .* another version"):
        methods.build(config)


@pytest.mark.parametrize("agnostic", [True, False])
def test_class_layers_are_exactly_those_that_depend_on_the_classes(agnostic):
    from jaxseg import paths

    def shapes(classes):
        config = tiny.config()
        config.model.num_classes = classes
        config.model.box_head.class_agnostic = config.model.mask_head.class_agnostic = agnostic
        model = methods.build(config)
        batch = tiny.batch(1)
        made = jax.eval_shape(lambda: model.init(jax.random.key(0), batch, method="detect"))
        leaves = jax.tree_util.tree_leaves_with_path(made["params"])
        return {"/".join(p.key for p in path): leaf.shape for path, leaf in leaves}, config

    (few, config), (many, _) = shapes(3), shapes(7)
    differ = {path for path in few if few[path] != many[path]}
    patterns = methods.class_layers(config)
    assert differ == {path for path in few if paths.matches(path, patterns)}
