"""Mask Refining R-CNN: sizes, the paper's rows, what guides what, and where gradients go.

Most of it runs the RoI heads alone, on a fixed pyramid and fixed proposals. What they compute, in numbers:
test_mr_rcnn_reference.py.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import mr_rcnn as mr_rcnn_config
from jaxseg import methods
from jaxseg.modeling.criterion import Selection
from jaxseg.modeling.mask_head import FCNMaskHead
from jaxseg.modeling.roi_heads import likeliest_class
from jaxseg.structures import Pyramid, RoIs
from tests.methods import refining, tiny
from tests.methods.refining import config, quick
from tests.methods.scene import Inputs
from tests.pallas_kernels import oracles

STRIDES = (4, 8, 16, 32)
IMAGES, PROPOSALS = 2, 12


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    levels = tuple(
        jnp.asarray(rng.normal(size=(IMAGES, 64 // s, 64 // s, 16)), jnp.float32) for s in STRIDES
    )
    corner = rng.uniform(0, 40, (IMAGES, PROPOSALS, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(6, 24, corner.shape)], -1)
    valid = np.ones((IMAGES, PROPOSALS), bool)
    valid[:, -2:] = False
    targets = jax.tree.map(jnp.asarray, tiny.batch(IMAGES).targets)
    size = jnp.full((IMAGES, 2), 64.0)
    rois = RoIs(jnp.asarray(boxes, jnp.float32), jnp.asarray(valid), jnp.asarray(valid))
    return Inputs(Pyramid(levels, size, STRIDES), rois, targets)


class Ones(FCNMaskHead):
    def probabilities(self, outputs):
        return jnp.ones_like(outputs.logits)


def heads(*, ones: bool = False, **refine):
    """With `ones`, masks that are 1 everywhere."""
    module = refining.heads(**refine)
    if not ones:
        return module
    names = {f.name for f in dataclasses.fields(FCNMaskHead)} - {"name", "parent"}
    return module.clone(mask_head=Ones(**{n: getattr(module.mask_head, n) for n in names}))


@pytest.fixture(scope="module")
def variables(inputs):
    """Of the full model: He's initialisation, in NumPy, with predictors and biases that matter."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[:-1], initial=1)
        return jnp.asarray(rng.normal(0, np.sqrt(2 / max(fan_in, 100)), leaf.shape), leaf.dtype)

    return jax.tree.map(draw, refining.shapes(inputs))


def without(variables, *path):
    """A copy of the variables without what `path` leads to."""
    copy = jax.tree.map(lambda x: x, variables)
    group = functools.reduce(lambda node, name: node[name], path[:-1], copy["params"])
    del group[path[-1]]
    return copy


def _losses(module, variables, arguments):
    """(the sum of the refining losses, every loss by name)."""
    terms, masks = module.apply(
        variables, *arguments, jax.random.key(1), train=True, method="losses"
    )
    found = {name: loss for term in (*masks, *terms) for name, loss in term.losses.items()}
    return sum(v for k, v in found.items() if k.startswith("refine_")), found


@functools.cache
def compiled(kind, **refine):
    """One compilation for each kind of result and each setting of the module."""
    module = heads(**refine)
    if kind == "detect":
        return quick(lambda v, p, r: module.apply(v, p, r, method="detect"))
    total = functools.partial(_losses, module)
    return quick(total if kind == "losses" else jax.grad(total, has_aux=True))


def losses(inputs, variables, **refine):
    """Every loss by name."""
    arguments = (inputs.pyramid, inputs.proposals, inputs.targets)
    return jax.device_get(compiled("losses", **refine)(variables, arguments)[1])


def gradients(inputs, variables, **refine):
    """Of the refining losses alone, by parameter."""
    arguments = (inputs.pyramid, inputs.proposals, inputs.targets)
    return jax.device_get(compiled("gradients", **refine)(variables, arguments)[0]["params"])


def detections(inputs, variables, **refine):
    return jax.device_get(compiled("detect", **refine)(variables, inputs.pyramid, inputs.proposals))


@pytest.mark.parametrize(
    ("arg", "parameters"),
    [
        ("r50", 61_358_993),
        ("r101", 80_298_897),
        ("x101", 124_443_537),
        ("table3.rm", 61_358_993),
        ("table3.base", 44_343_216),
        ("table4.cls", 44_343_216 + 2_709_072 + 13_978_705),
        ("table4.reg", 44_343_216 + 2_709_072 + 14_223_680),
    ],
)
def test_parameters(arg, parameters):
    """The papers' specification, section 6: the refining box head 14,306,705, the mask head 2,709,072 with its 1x1."""
    assert methods.count_parameters(mr_rcnn_config.get_config(arg)) == parameters


ROWS = {  # align, cls, reg, alpha
    "full": ("shape", True, True, 1.0),
    "table3.rm": ("roi", True, True, 1.0),
    "table3.rm_sara": ("shape", True, True, 1.0),
    "table4.cls": ("shape", True, False, 1.0),
    "table4.reg": ("shape", False, True, 1.0),
    "table4.cls_reg": ("shape", True, True, 1.0),
    "table5.alpha0": ("shape", True, True, 0.0),
    "table5.alpha0.1": ("shape", True, True, 0.1),
    "table5.alpha0.2": ("shape", True, True, 0.2),
    "table5.alpha0.5": ("shape", True, True, 0.5),
    "table5.alpha1": ("shape", True, True, 1.0),
    "table5.alpha2": ("shape", True, True, 2.0),
    "table5.alpha5": ("shape", True, True, 5.0),
    "table5.alpha10": ("shape", True, True, 10.0),
}


def test_rows_are_the_papers():
    """And every other setting is what the paper has, with loss weights of 1."""
    plain = {"table3.base", "table4.base"}
    assert set(mr_rcnn_config.ROWS) == plain | set(ROWS)
    for row, wanted in ROWS.items():
        model = mr_rcnn_config.get_config(row).model
        refine, weights = model.refine, model.criterion.weights
        assert (refine.align, refine.cls, refine.reg, model.test.score_alpha) == wanted, row
        assert (refine.guidance, refine.iou, refine.info_flow) == ("mul", 0.5, "B"), row
        assert refine.relabel and refine.pseudo_labels and refine.mask_grad and refine.flow_relu
        assert {v for k, v in weights.items() if k.startswith("refine_")} == {1.0}


@pytest.mark.parametrize("row", mr_rcnn_config.ROWS)
def test_every_row_is_a_model(row):
    for data in ("coco", "root=DIR", "runlocal", "detectron2"):
        made = mr_rcnn_config.get_config(f"r101_dcn,{row},{data}")
        made.model.num_classes = 3
        model = methods.build(made)
        assert (made.method == "mr_rcnn") == (not row.endswith("base"))
        assert model.backbone.deform == ("none" if data == "runlocal" else "v1")


def test_every_loss_is_there(inputs, variables):
    found = losses(inputs, variables)
    names = {"classification", "box", "mask"}
    assert set(found) == names | {f"refine_{name}" for name in names}
    assert all(np.isfinite(v) and v > 0 for v in found.values())


def test_a_mask_of_ones_guides_nothing(inputs, variables):
    """Shape-aware RoIAlign with P = 1 is RoIAlign, bit for bit."""
    shape = losses(inputs, variables, ones=True)
    plain = losses(inputs, variables, ones=True, align="roi")
    assert {k: float(v) for k, v in shape.items()} == {k: float(v) for k, v in plain.items()}


def norm(tree, part) -> float:
    return sum(float(np.abs(x).sum()) for x in jax.tree.leaves(tree[part]))


def test_gradients_reach_the_mask_and_never_the_first_boxes(inputs, variables):
    """The refining losses move the vanilla mask head, through P and F^-, but not the box head: B has no gradient."""
    found = gradients(inputs, variables)
    assert norm(found, "box_head") == 0.0
    for part in ("mask_head", "refine_box_head", "refine_mask_head", "flow"):
        assert norm(found, part) > 0.0
    # The predictor of masks makes P but not F^-.
    assert norm(found["mask_head"], "predictor") > 0.0
    cut = gradients(inputs, variables, mask_grad=False)
    assert norm(cut["mask_head"], "predictor") == 0.0 < norm(cut["mask_head"], "conv0")


def test_background_is_guided_by_pseudo_labels(inputs, variables):
    """Without any object all RoIs are background: they train the refining classifier, through masks of their own."""
    none = dataclasses.replace(
        inputs, targets=inputs.targets.replace(valid=jnp.zeros_like(inputs.targets.valid))
    )
    found = losses(none, variables)
    assert found["refine_classification"] > 0 and found["refine_box"] == found["refine_mask"] == 0
    assert norm(gradients(none, variables)["mask_head"], "predictor") > 0
    assert losses(none, variables, pseudo_labels=False)["refine_classification"] == 0


@pytest.mark.parametrize(
    ("switch", "absent", "layer"), [("cls", "classification", "classes"), ("reg", "box", "deltas")]
)
def test_rows_train_what_they_say(inputs, variables, switch, absent, layer):
    everything = losses(inputs, variables)
    found = losses(inputs, without(variables, "refine_box_head", layer), **{switch: False})
    assert set(everything) - set(found) == {f"refine_{absent}"}
    other = "box" if switch == "cls" else "classification"
    assert found[f"refine_{other}"] == pytest.approx(everything[f"refine_{other}"], rel=1e-5)


def test_alpha_weighs_the_two_scores(inputs, variables):
    """alpha = 0 are the first scores; a very large one the refined; between, the average of the logits."""
    own = without(variables, "refine_box_head", "classes")
    first = detections(inputs, own, cls=False)
    zero = detections(inputs, variables, score_alpha=0.0)
    jax.tree.map(np.testing.assert_array_equal, first, zero)

    def fused(alpha):
        module = heads(score_alpha=alpha)
        return module.apply({}, jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0]), method="_fuse")

    for large in (1e9, 1e39, 1e300):
        np.testing.assert_allclose(fused(large), [3.0, 4.0], rtol=1e-6)
    np.testing.assert_allclose(fused(0.5), [5 / 3, 0.0], atol=1e-6)


def test_boxes_that_are_not_refined_are_those_of_their_roi(inputs, variables):
    """CLS only: whatever the class, a detection has the first box of its RoI, that of its likeliest class."""
    own = without(variables, "refine_box_head", "deltas")
    found = detections(inputs, own, reg=False)

    def first(module, pyramid, proposals):
        logits, deltas = module.box_head(pyramid, proposals, train=False)
        classes = likeliest_class(logits, tiny.CLASSES)
        return module._decode(deltas, classes, proposals.boxes, pyramid)

    boxes = heads(reg=False).apply(own, inputs.pyramid, inputs.proposals, method=first)
    for image in range(IMAGES):
        for box in found.boxes[image][found.valid[image]]:
            assert np.abs(np.asarray(boxes[image]) - box).max(-1).min() < 1e-4


def test_what_lies_in_padded_proposals_does_not_matter(inputs, variables):
    junk = inputs.proposals.boxes.at[:, -2:].set(jnp.array([-7.0, 3.0, 1e4, 2e4]))
    dirty = dataclasses.replace(inputs, proposals=inputs.proposals.replace(boxes=junk))
    for results in (losses, gradients):
        same, clean = results(dirty, variables), results(inputs, variables)
        jax.tree.map(np.testing.assert_array_equal, same, clean)


@pytest.mark.parametrize("guidance", ["one_plus", "normalised"])
def test_other_forms_of_guidance(inputs, guidance):
    """RoIAlign times (1 + mean of P in the bin); Shape-aware RoIAlign of the features over that of ones."""
    module = heads(guidance=guidance)
    mask = np.random.default_rng(3).random((IMAGES, PROPOSALS, 28, 28)).astype(np.float32)
    boxes = inputs.proposals.boxes
    pooled = module.guided_pool(inputs.pyramid, boxes, jnp.asarray(mask), 7)
    if guidance == "one_plus":
        plain = module.box_head.pool(inputs.pyramid, boxes, 7)
        bins = [
            [mask[..., 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].mean((-2, -1)) for x in range(7)]
            for y in range(7)
        ]
        wanted = plain * (1 + np.moveaxis(np.array(bins), (0, 1), (2, 3)))[..., None]
    else:
        levels = np.zeros((IMAGES, PROPOSALS), int)  # all of these boxes are small

        def shape_aware(features):
            return oracles.loop(
                features, np.asarray(boxes), levels, mask, strides=STRIDES, output_size=(7, 7)
            )

        features = [np.asarray(level) for level in inputs.pyramid.levels]
        wanted = shape_aware(features) / shape_aware([np.ones_like(x) for x in features])
    np.testing.assert_allclose(pooled, wanted, rtol=1e-4, atol=1e-4)


def test_without_information_flow_only_refined_masks_change(inputs, variables):
    everything = losses(inputs, variables)
    found = losses(inputs, without(variables, "flow"), info_flow="none")
    changed = {k for k in found if not np.isclose(found[k], everything[k], rtol=1e-6)}
    assert changed == {"refine_mask"} and np.isfinite(found["refine_mask"])


def test_what_no_longer_fits_its_object_becomes_background(inputs, variables):
    """Every B a third as wide as its RoI: no foreground is left, unless RoIs keep their labels."""
    moved = jax.tree.map(lambda x: x, variables)
    layer = moved["params"]["box_head"]["deltas"]
    layer["bias"] = layer["bias"].reshape(-1, 4).at[:, 2].add(-5.0).reshape(-1)
    again = losses(inputs, moved)
    assert again["mask"] > 0 and again["refine_mask"] == again["refine_box"] == 0
    kept = losses(inputs, moved, relabel=False)
    assert kept["refine_mask"] > 0 and kept["refine_box"] > 0


def test_boxes_without_extent_teach_nothing(inputs, variables):
    """RoIs that keep their labels, moved off the image: a delta from such a B to its object would have no bound."""
    moved = jax.tree.map(lambda x: x, variables)
    layer = moved["params"]["box_head"]["deltas"]
    layer["bias"] = layer["bias"].reshape(-1, 4).at[:, 0].add(1000.0).reshape(-1)
    found = losses(inputs, moved, relabel=False)
    assert found["mask"] > 0 and found["refine_box"] == found["refine_mask"] == 0


def test_rows_log_what_they_train():
    """Without a classifier of its own, the refining stage has no accuracy."""
    log = {}
    for cls in (True, False):
        module = heads(cls=cls)
        numbers = jnp.zeros((1, 2, tiny.CLASSES + 1)), jnp.zeros((1, 2, tiny.CLASSES, 4))
        boxes = jnp.array([[[0, 0, 9, 9], [5, 5, 9, 9]]], jnp.float32)
        yes = jnp.ones((1, 2), bool)
        matched = jnp.zeros((1, 2), jnp.int32)
        again = Selection(RoIs(boxes, yes, yes), matched, matched, yes, matched, boxes)
        terms = module.apply({}, numbers[0], *numbers, again, method="_refined_terms")
        log[cls] = set(terms.log)
    assert log[True] - log[False] == {"refine_accuracy"} and "refine_positives" in log[False]


def test_masks_of_56_pixels(inputs):
    """Twice the usual size: F^- is as large as what the mask head pools."""
    made = config()
    made.model.mask_head.pool = 28
    module, key = methods.build(made).roi_heads, jax.random.key(0)
    arguments = (inputs.pyramid, inputs.proposals, inputs.targets)
    init = functools.partial(module.init, train=True, method="losses")
    variables = jax.eval_shape(init, key, *arguments, key)
    detect = functools.partial(module.apply, method="detect")
    found = jax.eval_shape(detect, variables, inputs.pyramid, inputs.proposals)
    assert found.masks.shape[-2:] == (56, 56)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cls": False, "reg": False}, "has nothing to do"),
        ({"align": "roi", "guidance": "one_plus"}, "refine.guidance='one_plus' has no effect"),
        ({"align": "roi", "mask_grad": False}, "refine.mask_grad=False has no effect with"),
        ({"info_flow": "none", "flow_relu": False}, "flow_relu=False has no effect"),
        ({"cls": False, "score_alpha": 2.0}, "score_alpha=2.0 has no effect with .*cls=False"),
        ({"score_alpha": float("inf")}, "score_alpha=inf: allowed is a number >= 0"),
    ],
)
def test_settings_that_contradict_each_other_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        methods.build(config(**changes))


@pytest.mark.parametrize("backbone", ["r50", "x101", "r101_dcn"])
def test_the_schedule_is_the_papers(backbone):
    made = mr_rcnn_config.get_config(f"mr_rcnn,{backbone},table3.base,pretrained")
    train, optim = made.train, made.optim
    assert (train.steps, train.batch_size, optim.lr, optim.base_batch_size) == (9000, 16, 0.002, 16)
    assert (optim.milestones, optim.gamma) == ((6000,), 0.1)
    small = mr_rcnn_config.get_config("r50,shapes,small")
    assert (small.train.steps, small.optim.lr) == (110, pytest.approx(0.002))


def test_freezing_the_vanilla_part_leaves_the_refining_heads():
    from jaxseg import paths

    frozen = mr_rcnn_config.get_config("r50,freeze_vanilla").freeze
    parts = {"backbone": True, "fpn": True, "rpn": True, "roi_heads/box_head": True}
    parts |= {"roi_heads/mask_head": True, "roi_heads/refine_box_head": False}
    parts |= {"roi_heads/refine_mask_head": False, "roi_heads/flow": False}
    assert {part: paths.matches(f"{part}/x", frozen) for part in parts} == parts
    with pytest.raises(ValueError, match="cannot be frozen"):
        mr_rcnn_config.get_config("r50,freeze_vanilla,end_to_end")


def test_a_mistyped_row_is_told_the_rows_there_are():
    with pytest.raises(ValueError, match=r"'table5.alpha3'.*table5\.alpha0\.1.*freeze_vanilla"):
        mr_rcnn_config.get_config("table5.alpha3")


@functools.cache
def _messages():
    return {
        ("guidance", "times"): "refine.guidance='times': allowed is mul, one_plus, normalised",
        ("info_flow", "C"): "refine.info_flow='C': allowed is B, Br, none",
        ("iou", 0.0): "refine.iou=0.0: allowed is a number > 0 and <= 1",
        ("cls", "yes"): "refine.cls='yes': allowed is True, False",
    }


@pytest.mark.parametrize(("key", "value"), list(_messages()))
def test_settings_without_meaning_are_named(key, value):
    made = config()
    with made.ignore_type():
        made.model.refine[key] = value
    with pytest.raises(ValueError, match=_messages()[key, value]):
        methods.build(made)
