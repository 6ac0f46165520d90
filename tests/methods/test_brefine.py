"""BRefine: sizes, rows, the head against plain NumPy, mask losses, settings, and everything together."""

import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import brefine as config_file
from configs import common
from jaxseg import methods
from jaxseg.losses import boundary
from jaxseg.losses import mask as losses
from jaxseg.methods import brefine, mask_losses, ranking
from jaxseg.modeling import rank_sort
from jaxseg.modeling.mask_head import FCNMaskHead, MaskTargets, cross_entropy
from jaxseg.ops.roi_align import roi_align
from jaxseg.structures import Pyramid, RoIs
from jaxseg.training import freeze, init_from, starting
from jaxseg.weights import convert
from tests.methods import brefine_reference as reference
from tests.methods import tiny
from tests.methods.mask_heads import CLASSES, apply, filled, quick, variables_of
from tests.methods.test_maskplus import check_a_step

KEY = jax.random.key(0, impl="rbg")
FCN = 2_643_280
SIZES = {  # of the mask head alone, 80 classes; the papers' specification, section 6
    "table3.1": 3_479_632,
    "table3.2": 4_578_384,
    "table3.3": 5_677_136,
    "table3.literal3": 4_151_120,
    "table5.multistage": 5_677_136,
    "table5.rs_mask_rcnn": FCN,
}
RAM = {"d1": 213_504, "d12": 361_088, "d123": 508_672, "d123_res": 508_672}


def config(method="mask_rcnn", *, ranked=False, loss="ce", **changes):
    made = tiny.config()
    made.method = method
    made.model.criterion.roi.samples = 16
    made.model.criterion.rank_sort.max_positives = 4
    made.model.mask_head.name, made.model.mask_head.loss = "brefine", loss
    for key, value in changes.items():
        (made.model.mask_head if key in ("convs", "channels") else made.model.brefine)[key] = value
    made.train.batch_size = 2
    if ranked:
        common.ranked(made, score=0.0)
    return made


def head(**changes):
    return methods.build(config(**changes)).roi_heads.mask_head


@pytest.mark.parametrize(("row", "convs"), [*((row, 4) for row in SIZES), ("full", 0)])
def test_parameters_of_the_head(row, convs):
    made = config_file.get_config(f"r50,{row}")
    made.model.mask_head.convs = convs
    module = methods.build(made).roi_heads.mask_head
    levels = tuple(jnp.zeros((1, 64 // s, 64 // s, 256)) for s in (4, 8, 16, 32))
    pyramid = Pyramid(levels, jnp.full((1, 2), 64.0), (4, 8, 16, 32))
    one = jnp.ones((1, 1), bool)
    rois = RoIs(jnp.zeros((1, 1, 4)), one, one)
    init = functools.partial(module.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), pyramid, rois, jnp.zeros((1, 1), int))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == (SIZES[row] if convs else 3_316_816)


def test_parameters_of_the_whole():
    assert methods.count_parameters(config_file.get_config("r50")) == 47_376_047


@pytest.mark.parametrize("name", RAM)
def test_parameters_of_the_residual_aware_module(name):
    dilations, residual = brefine.RAMS[name]
    module = brefine.ResidualAwareModule(256, dilations, residual)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 14, 14, 256)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == RAM[name]


RANKED = {
    "criterion.name": "rank_sort",
    "criterion.rpn.coder": (10.0, 10.0, 5.0, 5.0),
    "criterion.weights.rpn_objectness": 0.2,
    "criterion.weights.rpn_box": 0.2,
    "test.score": 0.4,
}


def test_rows_are_those_of_the_papers_tables():
    base = config_file.get_config("r50,table1.base,coco")

    def changed(row):
        made = config_file.get_config(f"r50,{row},coco")
        differ = {
            key: value for key, value in flat(made.model).items() if flat(base.model)[key] != value
        }
        is_ranked = RANKED.items() <= differ.items()
        assert is_ranked or not RANKED.keys() & differ.keys()
        return is_ranked, {key: v for key, v in differ.items() if key not in RANKED}

    stages = {"mask_head.name": "brefine"}
    whole = stages | {"mask_head.loss": "brce"}
    expected = {
        "full": (True, whole),
        "table1.base": (False, {}),
        "table1.brefine": (True, whole),
        "table3.1": (True, whole | {"brefine.stages": 1}),
        "table3.2": (True, whole | {"brefine.stages": 2}),
        "table3.3": (True, whole),
        "table3.literal1": (True, whole | {"brefine.stages": 1, "brefine.ram": "none"}),
        "table3.literal2": (True, whole | {"brefine.stages": 2, "brefine.ram": "none"}),
        "table3.literal3": (True, whole | {"brefine.ram": "none"}),
        "table4.d1": (True, whole | {"brefine.ram": "d1"}),
        "table4.d12": (True, whole | {"brefine.ram": "d12"}),
        "table4.d123": (True, whole | {"brefine.ram": "d123"}),
        "table4.d123_res": (True, whole),
        "table5.multistage": (False, stages),
        "table5.dice": (False, stages | {"mask_head.loss": "dice"}),
        "table5.focal": (False, stages | {"mask_head.loss": "focal"}),
        "table5.ce_dice": (False, stages | {"mask_head.loss": "ce_dice"}),
        "table5.rs_multistage": (True, stages),
        "table5.rs_mask_rcnn": (True, {"mask_head.loss": "dice"}),
        "table6.rs_multistage": (True, stages),
        "table6.brefine": (True, whole),
        "table7.base": (False, {}),  # its data are others here
        "table7.brefine": (True, whole),
        "table8.base": (False, {}),
        "table8.brefine": (True, whole),
        "fig1.multi": (False, {}),
        "fig1.p2": (False, {"mask_head.source": "P2"}),
        "fig2.14_14": (False, {"maskplus.mask_out": "pooled"}),
        "fig2.14_28": (False, {}),
        "fig2.28_28": (False, {"mask_head.pool": 28, "maskplus.mask_out": "pooled"}),
        "fig2.28_56": (False, {"mask_head.pool": 28}),
    }
    assert set(expected) == set(config_file.ROWS)
    assert {row: changed(row) for row in expected} == expected


def flat(config, prefix=""):
    found = {}
    for key, value in config.items():
        more = flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
        found |= more
    return found


@pytest.mark.parametrize(
    ("arg", "classes", "score", "detections", "steps", "drops"),
    [
        ("recipe=brefine,r50,coco,root=DIR", 80, 0.4, 100, 234_528, (156_352, 214_984)),
        ("recipe=brefine,r50,2x,coco,root=DIR", 80, 0.4, 100, 469_056, (312_704, 429_968)),
        ("recipe=brefine,r50,table7.base,root=DIR", 1203, 1e-4, 300, 245_568, (163_712, 225_104)),
        ("recipe=brefine,r50,table7.brefine,root=DIR", 1203, 0.6, 300, 245_568, (163_712, 225_104)),
        ("recipe=brefine,r50,table8.base,root=DIR", 8, 0.05, 100, 31_728, (27_762,)),
        ("recipe=brefine,r50,table8.brefine,root=DIR", 8, 0.4, 100, 31_728, (27_762,)),
        ("recipe=brefine,r50,lvis,root=DIR", 1203, 0.6, 300, 245_568, (163_712, 225_104)),
        (
            "recipe=brefine,lvis,table7.brefine,root=DIR",
            1203,
            0.6,
            300,
            245_568,
            (163_712, 225_104),
        ),
        ("recipe=brefine,table1.base,lvis,root=DIR", 1203, 1e-4, 300, 245_568, (163_712, 225_104)),
        ("recipe=brefine,cityscapes,2x,root=DIR", 8, 0.4, 100, 63_464, (55_531,)),
        ("recipe=brefine,table7.brefine,coco,root=DIR", 80, 0.4, 100, 234_528, (156_352, 214_984)),
    ],
)
def test_data_sets_and_schedules(arg, classes, score, detections, steps, drops):
    made = config_file.get_config(arg)
    assert (made.model.num_classes, made.model.test.score) == (classes, score)
    assert made.model.test.max_detections == made.eval.max_detections == detections
    assert (made.train.steps, made.optim.milestones) == (steps, drops)
    assert (made.train.batch_size, made.optim.lr) == (6, 0.0075)
    assert made.data.root == "DIR" and made.model.backbone.norm != "group_norm"


FORMS = {
    "full": {"stages": 2},
    "one": {"stages": 1},
    "two": {"stages": 2, "ram": "d12"},
    "plain": {"ram": "none", "stages": 2},
    "three": {},
    "d1": {"ram": "d1", "stages": 2},
    "d123": {"ram": "d123", "stages": 2},
    "others": {"upsample": "deconv", "fusion": "concat1x1", "stages": 2},
}


SLOW = ("one", "two", "plain", "d1", "d123", "three")


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.slow) if f in SLOW else f for f in FORMS]
)
def test_the_head_is_that_of_the_paper(pyramid, rois, form):
    """Logits of the RoIs' classes, against NumPy. One box is so large that its main line is pooled from P3."""
    wanted = {"stages": 3, "ram": "d123_res", **FORMS[form]}
    boxes = rois.boxes.at[0, 0].set(jnp.array([-60.0, -70.0, 70.0, 80.0]))
    rois = rois.replace(boxes=boxes)
    module = head(**FORMS[form])
    variables = variables_of(module, pyramid, rois, CLASSES, train=False)
    found, _ = apply(module, variables, pyramid, rois, CLASSES, train=False)

    finest = pyramid.replace(levels=pyramid.levels[:1], strides=pyramid.strides[:1])
    rows = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    sizes = [14 * 2**stage for stage in range(wanted["stages"])]
    every, trunk = reference.head(
        variables["params"],
        rows(roi_align(pyramid, boxes, 14)),
        [rows(roi_align(finest, boxes, size)) for size in sizes],
        ram=brefine.RAMS[wanted["ram"]],
        **{key: wanted[key] for key in ("upsample", "fusion") if key in wanted},
    )
    index = rows(CLASSES[..., None])[:, None, None, :]
    expected = np.take_along_axis(every, index, -1)[..., 0]
    assert found.logits.shape[-2:] == (sizes[-1], sizes[-1])
    np.testing.assert_allclose(rows(found.features), trunk, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(rows(found.logits), expected, rtol=1e-3, atol=2e-3)


def test_padded_rois_change_nothing(pyramid, rois):
    made = config(stages=2)
    made.model.mask_head.norm = "batch_norm"
    module = methods.build(made).roi_heads.mask_head
    variables = variables_of(module, pyramid, rois, CLASSES, train=True)
    where = rois.valid[..., None, None]

    @quick
    def run(rois):
        def loss(params):
            found, stats = module.apply(
                {**variables, "params": params},
                pyramid,
                rois,
                CLASSES,
                train=True,
                mutable=["batch_stats"],
            )
            kept = jnp.where(where, found.logits, 0.0)
            return jnp.sin(kept).sum(), (kept, stats)

        return jax.grad(loss, has_aux=True)(variables["params"])

    junk = rois.replace(boxes=jnp.where(rois.valid[..., None], rois.boxes, 50.0))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, run(rois), run(junk))


def test_every_part_computes_in_the_models_dtype(pyramid, rois):
    made = config()
    made.model.dtype = "bfloat16"
    module = methods.build(made).roi_heads.mask_head
    low = pyramid.replace(levels=tuple(x.astype("bfloat16") for x in pyramid.levels))
    init = functools.partial(module.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), low, rois, CLASSES)
    run = functools.partial(module.apply, train=False)
    text = str(jax.make_jaxpr(run)(variables, low, rois, CLASSES))
    convolutions = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert len(convolutions) == 1 + 3 * (
        1 + 1 + 3 + 1
    )  # trunk; of each stage: fine, in, three, out
    assert all(":bf16[" in line for line in convolutions)
    assert jax.eval_shape(run, variables, low, rois, CLASSES).logits.dtype == jnp.float32


def test_masks_from_p2_alone(pyramid, rois):
    """The FCN head of Figure 1: as if all boxes belonged to P2."""
    boxes = rois.boxes.at[0, 0].set(jnp.array([-60.0, -70.0, 70.0, 80.0]))
    rois = rois.replace(boxes=boxes)
    made = config()
    made.model.mask_head.name, made.model.mask_head.source = "fcn", "P2"
    module = methods.build(made).roi_heads.mask_head
    assert type(module) is FCNMaskHead
    plain = methods.build(tiny.config()).roi_heads.mask_head
    variables = variables_of(module, pyramid, rois, CLASSES, train=False)
    finest = pyramid.replace(levels=pyramid.levels[:1], strides=pyramid.strides[:1])
    (found, _), (expected, _), (other, _) = (
        apply(m, variables, p, rois, CLASSES, train=False)
        for m, p in ((module, pyramid), (plain, finest), (plain, pyramid))
    )
    np.testing.assert_allclose(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    differs = np.abs(found.logits - other.logits).max((2, 3)) > 1e-3
    assert differs[0, 0] and differs.sum() == 1


@pytest.fixture(scope="module")
def targets(rois):
    batch = tiny.batch(2).targets
    rng = np.random.default_rng(5)
    eroded = batch.masks & rng.integers(0, 256, batch.masks.shape).astype(np.uint8)
    made = jax.tree.map(jnp.asarray, batch.replace(eroded=eroded))
    return MaskTargets(made, jnp.array([[0, 1, 2, 0, 0], [1, 0, 0, 0, 0]]), rois.boxes)


def band_of(targets, size, changes):
    masks = targets.masks(size)
    if changes.get("boundary_on") == "image":
        other = MaskTargets(
            targets.targets.replace(masks=targets.targets.eroded), targets.matched, targets.boxes
        )
        return np.maximum(masks - other.masks(size), 0)
    return boundary.inner_band(
        masks,
        ratio=changes.get("boundary_ratio", 0.02),
        border=changes.get("boundary_border", "zero"),
    )


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (56, {}),
        (28, {"boundary_lambda": 3.0, "boundary_ratio": 0.06}),
        pytest.param(28, {"boundary_border": "edge"}, marks=pytest.mark.slow),
        (28, {"boundary_on": "image"}),
    ],
    ids=str,
)
def test_the_boundary_loss_by_hand(targets, size, changes):
    """Eq. 2 in float64, of 0/1 targets."""
    model = config(loss="brce", **changes).model
    logits = np.random.default_rng(3).normal(0, 2, (2, 5, size, size)).astype(np.float32)
    y = np.asarray(targets.masks(size), np.float64)
    band = np.asarray(band_of(targets, size, changes))
    assert 0.01 < band[targets_of(targets)].mean() < 0.6
    pixels = np.logaddexp(0, np.where(y > 0, -1, 1) * np.float64(logits))
    weight = changes.get("boundary_lambda", 1.0)
    expected = ((1 + weight * band) * pixels).mean((2, 3))
    run = quick(lambda x: mask_losses.of(model)(x, targets.masks(size), targets))
    np.testing.assert_allclose(run(jnp.asarray(logits)), expected, rtol=1e-5)


def targets_of(targets):
    return np.asarray(targets.masks(28)).any((2, 3))


def test_without_lambda_it_is_cross_entropy():
    """Literally: the same function, and so the same bits."""
    assert mask_losses.of(config(loss="brce", boundary_lambda=0.0).model) is cross_entropy
    assert mask_losses.of(config(loss="ce").model) is cross_entropy


@pytest.mark.parametrize("loss", mask_losses.NAMES)
def test_every_loss_is_that_of_its_name(targets, loss):
    made = config(loss=loss)
    module = methods.build(made).roi_heads.mask_head
    logits = jnp.asarray(np.random.default_rng(3).normal(0, 2, (2, 5, 28, 28)), jnp.float32)
    wanted = targets.masks(28)
    entropy = losses.binary_cross_entropy
    expected = {
        "ce": entropy,
        "balanced_ce": losses.balanced_cross_entropy,
        "dice": losses.squared_dice,
        "focal": losses.focal,
        "ce_dice": lambda x, y: entropy(x, y) + losses.squared_dice(x, y),
        "brce": lambda x, y: boundary.cross_entropy(x, y, boundary.inner_band(y)),
    }[loss]
    found = quick(lambda x: module._loss(x, targets))(logits)
    np.testing.assert_allclose(found, quick(expected)(logits, wanted), rtol=1e-5)
    sure = quick(jax.grad(lambda x: module._loss(x, targets).sum()))
    for value in (80.0, -80.0):
        assert np.isfinite(sure(jnp.full_like(logits, value))).all()


REACHES = {  # another value of each setting, and what must be on for it to matter
    "stages": (2, {}),
    "ram": ("d12", {}),
    "upsample": ("deconv", {}),
    "fusion": ("concat1x1", {}),
}
CHANGED = {
    "stages": {"stage2"},
    "ram": {f"stage{s}/ram/dilated3" for s in range(3)},
    "upsample": {"deconv0", "deconv1"},
    "fusion": {f"stage{s}/conv_fusion" for s in range(3)},
}


def test_every_setting_of_the_head_changes_the_parameters_that_it_names(pyramid, rois):
    assert set(REACHES) == set(brefine.DEFAULTS)

    def shapes(**changes):
        init = functools.partial(head(**changes).init, train=False)
        made = jax.eval_shape(init, jax.random.key(0), pyramid, rois, CLASSES)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(made)
        return {freeze.path_string(path): leaf.shape for path, leaf in leaves}

    before = shapes()
    for key, (value, needs) in REACHES.items():
        after = shapes(**needs, **{key: value})
        differ = {p for p in {**before, **after} if before.get(p) != after.get(p)}
        named = {path for path in differ if path.startswith(tuple(CHANGED[key]))}
        assert differ and differ == named, key
        assert all(any(p.startswith(name) for p in differ) for name in CHANGED[key]), key


def test_defaults_are_those_of_the_config():
    model = common.base().model
    defaults = brefine.DEFAULTS | mask_losses.DEFAULTS
    assert model.brefine.to_dict() == defaults
    own = model.criterion.rank_sort.to_dict()
    assert own == ranking.DEFAULTS | {"max_positives": 100}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 4}, "brefine.stages=4: allowed is 1, 2, 3"),
        ({"ram": "d2"}, "ram='d2': allowed is none, d1"),
        ({"stages": 1, "upsample": "deconv"}, "upsample='deconv' has no effect with .*stages=1"),
        ({"boundary_lambda": 2.0}, r"boundary_lambda=2\.0 has no effect with .*loss='ce'"),
        (
            {"loss": "brce", "boundary_lambda": 0.0, "boundary_ratio": 0.1},
            r"boundary_ratio=0\.1 has no effect with .*boundary_lambda=0",
        ),
        ({"loss": "brce", "boundary_on": "image"}, r"needs the masks eroded.*data\.eroded_masks"),
        ({"loss": "dices"}, "mask_head.loss='dices': allowed is ce, balanced_ce"),
        ({"convs": 0, "channels": 24}, r"convs=0 leaves .*channels=16 .*channels=24 .*concat1x1"),
        ({"channels": 1}, r"channels=1 has no half, which .*ram='d123_res'"),
    ],
)
def test_settings_without_meaning_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        methods.build(config(**changes))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.mask_head.name", "fcn", r"brefine\.ram='d1' has no effect with .*name='fcn'"),
        ("model.maskplus.mask_out", "pooled", "mask_out='pooled' is about the deconvolution"),
        ("model.maskplus.pyramid", "doubled", "pyramid='doubled' is about the deconvolution"),
        (
            "data.eroded_masks",
            0.02,
            r"eroded_masks=0\.02 has no effect with .*boundary_on='target'",
        ),
        ("model.criterion.rank_sort.delta", 1.0, r"delta=1\.0 has no effect with .*name='softmax'"),
        ("model.mask_head.source", "P3", "source='P3': allowed is multi, P2"),
    ],
)
def test_settings_that_contradict_each_other_are_named(key, value, message):
    made = config(ram="d1")
    made.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=message):
        methods.build(made)


@pytest.mark.parametrize(
    ("batch", "accumulate", "group", "right"),
    [(2, 1, 2, True), (8, 2, 4, True), (6, 1, 4, False), (8, 2, 3, False), (1, 1, 2, False)],
)
def test_groups_divide_what_is_computed_at_once(batch, accumulate, group, right):
    made = config(ranked=True)
    made.train.batch_size, made.optim.accumulate = batch, accumulate
    made.model.criterion.rank_sort.group = group
    if right:
        methods.build(made)
        return
    with pytest.raises(
        ValueError, match=rf"group={group} images .* divide the {batch // accumulate} "
    ):
        methods.build(made)


def test_runs_from_before_have_the_fcn_head():
    made = tiny.config()
    for group, key in (
        ("model", "brefine"),
        ("model.criterion", "rank_sort"),
        ("data", "eroded_masks"),
    ):
        parent = made
        for part in group.split("."):
            parent = parent[part]
        del parent[key]
    del made.model.mask_head.loss, made.model.mask_head.source
    model = methods.build(made)
    assert repr(model) == repr(methods.build(tiny.config()))
    made.model.criterion.name = "rank_sort"
    with pytest.raises(ValueError, match=r"criterion\.rank_sort is missing"):
        methods.build(made)
    made.model.criterion.name, made.model.mask_head.name = "softmax", "brefine"
    with pytest.raises(ValueError, match=r"config\.model\.brefine is missing"):
        methods.build(made)


@pytest.mark.slow
def test_a_cascade_has_all_of_it():
    made = config("cascade_mask_rcnn", ranked=True, loss="brce")
    made.model.cascade.mask_heads = 3
    assert isinstance(methods.build(made).criterion.rpn, rank_sort.RankSortRPN)
    shapes = convert.shapes(made)
    for stage in range(3):
        for part in ("stage0", "stage1", "stage2"):
            assert f"params/roi_heads/mask_head_{stage}/{part}/ram/squeeze/kernel" in shapes
        assert shapes[f"params/roi_heads/box_head_{stage}/classes/bias"] == (3,)


def test_masks_are_learned_of_at_most_as_many_positives_as_are_asked_for():
    made = config(ranked=True)
    model, batch, seen = methods.build(made), tiny.batch(2), []

    def record(call, args, kwargs, context):
        if isinstance(context.module, brefine.BRefineHead) and context.method_name == "__call__":
            seen.append(args[1].boxes.shape)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        init = functools.partial(model.init, method="losses")
        jax.eval_shape(init, jax.random.key(0), batch, jax.random.key(1), jnp.int32(0))
    assert seen == [(2, 4, 4)]


def test_a_ranked_run_goes_on_as_mask_refining_r_cnn_with_the_same_criterion():
    made, refining = (
        config(method, ranked=True, loss="brce") for method in ("mask_rcnn", "mr_rcnn")
    )
    saved = {path: np.zeros(shape) for path, shape in convert.shapes(made).items()}
    extra = {"copies": methods.copies(refining), "dispensable": methods.dispensable(refining)}
    wanted = convert.shapes(refining)
    start = starting.of_run(saved, wanted, **extra)
    assert not [path for path in start.initial if "/flow/" not in path]
    for head in ("mask_head", "refine_mask_head"):
        assert f"params/roi_heads/{head}/stage2/ram/squeeze/kernel" in wanted
    told = init_from._settings_that_differ(made, config("mr_rcnn", loss="brce"))
    assert "config.model.criterion.name is 'rank_sort' there and 'softmax' here" in told


def test_a_trained_mask_rcnn_gives_the_main_line():
    fcn = tiny.config()
    saved = {path: np.zeros(shape) for path, shape in convert.shapes(fcn).items()}
    made = config()
    extra = {"copies": methods.copies(made), "dispensable": methods.dispensable(made)}
    start = starting.of_run(saved, convert.shapes(made), **extra)
    assert {p.split("/")[3] for p in start.initial} == {"stage0", "stage1", "stage2"}
    assert set(saved) - set(start.values) == {
        f"params/roi_heads/mask_head/deconv/{leaf}" for leaf in ("kernel", "bias")
    }
    left = "left     2: stages take its place (roi_heads/mask_head/deconv)"
    assert left in start.told


@pytest.mark.slow
def test_all_of_brefine_learns():
    """lambda_3 L_3 has the value of the box head's ranking, and so has lambda_2 L_2."""
    made = config(ranked=True, loss="brce", stages=2)
    model, batch = methods.build(made), tiny.batch()
    init = functools.partial(model.init, method="losses")
    variables = filled(jax.eval_shape(init, KEY, batch, KEY, jnp.int32(0)))
    learn = quick(jax.value_and_grad(tiny.loss_function(model), has_aux=True))
    (total, (log, _)), gradient = learn(variables["params"], variables["batch_stats"], batch, KEY)
    np.testing.assert_allclose(log["box"], log["classification"], rtol=1e-5)
    np.testing.assert_allclose(log["rpn_box"], log["rpn_objectness"], rtol=1e-5)
    expected = 0.4 * log["rpn_objectness"] + 3 * log["classification"]  # 2 L_1 and 3 L_2
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, group in gradient["roi_heads"]["mask_head"].items():
        assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(group)), name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mask_rcnn", "mr_rcnn", "cascade_mask_rcnn"])
def test_other_methods_and_parts_train_a_step_and_predict(method):
    """With all of MaskPlus that has a meaning, norms in every branch, and everything that is not the default."""
    made = config(method, ranked=True, loss="brce", upsample="deconv", fusion="concat1x1")
    made.model.mask_head.norm = "batch_norm"
    made.model.maskplus.update(
        context=(24, 16), pyramid="pooled", boundary="improved", quasi="half", alpha=1.5
    )
    if method == "cascade_mask_rcnn":
        made.model.cascade.mask_heads, made.model.cascade.loss_weights = 3, (1.0, 0.5, 0.25)
    log, gradient = check_a_step(methods.build(made), tiny.batch())
    prefix = "refine_" if method == "mr_rcnn" else ""
    suffix = "_2" if method == "cascade_mask_rcnn" else ""
    assert all(log[f"{prefix}{name}{suffix}"] > 0 for name in ("mask", "mask_auxiliary"))
    # A stage's boxes and masks, of weight alpha, count as much as its ranking.
    weights = {
        "mask_rcnn": {"classification": 1},
        "mr_rcnn": {"classification": 1, "refine_classification": 1},
        "cascade_mask_rcnn": {f"classification_{stage}": 0.5**stage for stage in range(3)},
    }[method]
    rankings = sum(weight * log[name] for name, weight in weights.items())
    total = 0.4 * log["rpn_objectness"] + (2 + 1.5) * rankings
    np.testing.assert_allclose(log["total"], total, rtol=1e-5)
    for name in ("stage0", "stage1", "stage2", "deconv0", "deconv1"):
        group = gradient["roi_heads"][f"{prefix}mask_head{suffix}"][name]
        assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(group)), name


@pytest.mark.slow
@pytest.mark.parametrize("head", ["fcn", "atmask"])
@pytest.mark.parametrize("loss", ["dice", "brce"])
def test_other_heads_with_its_losses_and_criterion(head, loss):
    made = config(ranked=True, loss=loss)
    made.model.mask_head.name = head
    check_a_step(methods.build(made), tiny.batch())


def test_the_page_names_every_file_of_the_method():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "methods" / "brefine.md").read_text()
    for file in (
        "jaxseg/methods/brefine.py",
        "jaxseg/methods/mask_losses.py",
        "jaxseg/modeling/rank_sort.py",
        "jaxseg/losses/rank_sort.py",
        "jaxseg/losses/boundary.py",
        "configs/brefine.py",
        "configs/tables/brefine.py",
    ):
        assert file in page, file
    for row in config_file.ROWS:
        assert f"`{row}`" in page, row
    for key in (*brefine.DEFAULTS, *mask_losses.DEFAULTS, *ranking.DEFAULTS):
        assert f"`{key}`" in page or f"{key}`" in page, key
