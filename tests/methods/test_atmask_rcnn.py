"""ATMask R-CNN: sizes, the head and its losses against plain NumPy, each switch, and going on from a detector.

Most of it runs a mask head alone.
"""

import functools
import pathlib

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval as pe

from configs import atmask_rcnn as config_file
from configs import mr_rcnn
from jaxseg import methods
from jaxseg.losses import mask as mask_losses
from jaxseg.methods import atmask_rcnn
from jaxseg.modeling import mask_head as mask_head_lib
from jaxseg.modeling.criterion import MaskTerms
from jaxseg.modeling.mask_head import FCNMaskHead, MaskTargets
from jaxseg.ops import masks
from jaxseg.ops.roi_align import roi_align
from jaxseg.structures import MaskOutputs
from jaxseg.training import freeze, init_from, optimizer, sharding, starting
from jaxseg.training import state as states
from jaxseg.training import step as step_lib
from jaxseg.weights import convert
from tests.methods import atmask_reference as reference
from tests.methods import tiny
from tests.methods.mask_heads import CLASSES, apply, quick, variables_of
from tests.methods.test_maskplus import check_a_step

SIZES = {  # of the mask head alone; the papers' specification, section 6
    "table3.base": 2_643_280,
    "table3.threshold": 4_696_480,
    "table5.p2t": 4_827_808,
    "table3.fusion": 5_549_216,
    "table3.p2": 5_549_216,
    "full": 5_549_216,
    "bmask": 5_418_144,
}


def config(method="mask_rcnn", **changes):
    made = tiny.config()
    made.method = method
    made.model.criterion.roi.samples = 16
    made.model.mask_head.name = "atmask"
    made.model.atmask.update(changes)
    return made


def head(**changes):
    return methods.build(config(**changes)).roi_heads.mask_head


@pytest.mark.parametrize("row", SIZES)
def test_parameters(row):
    made = config_file.get_config(f"r50,{row}")
    assert methods.count_parameters(made) == 44_343_216 - SIZES["table3.base"] + SIZES[row]


FULL = dict(
    threshold=True,
    p2t=True,
    t2p=True,
    fuse="concat1x1",
    thr_source="P2",
    thr_pool=28,
    thr_convs=2,
    thr_target="inverse",
    k=2.0,
    lambda_bin=2.0,
    binarise_on="prob",
    infer_map="B",
)
MULTI = dict(FULL, k=1.0, thr_source="multi")
PAPERS = {  # the specification's section 1.5, and section 5 for BMask
    "full": FULL,
    "table2.atmask": FULL,
    "table3.threshold": dict(MULTI, p2t=False, t2p=False),
    "table3.fusion": MULTI,
    "table3.p2": dict(FULL, k=1.0),
    "table4.p2": dict(FULL, k=1.0),
    "table4.multi": MULTI,
    "table5.none": dict(MULTI, p2t=False, t2p=False),
    "table5.p2t": dict(MULTI, t2p=False),
    "table5.p2t_t2p": MULTI,
    "bmask": dict(FULL, fuse="sum", thr_target="boundary", lambda_bin=0.0, infer_map="P"),
}


@pytest.mark.parametrize("row", config_file.ROWS)
def test_rows_are_those_of_the_papers_tables(row):
    model = config_file.get_config(f"r50,{row}").model
    plain = row.endswith(".base")
    assert model.mask_head.name == ("fcn" if plain else "atmask")
    assert model.atmask.to_dict() == (FULL if plain else PAPERS[row])


FORMS = {
    "full": {},
    "multi": {"thr_source": "multi"},
    "concat3x3": {"fuse": "concat3x3"},
    "sum": {"fuse": "sum"},
    "p2t": {"t2p": False},
    "t2p": {"p2t": False},
    "plain": {"p2t": False, "t2p": False},
    "coarse": {"thr_pool": 14, "thr_convs": 0},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_head_is_that_of_the_paper(pyramid, rois, form):
    """Logits of P and T of the RoIs' classes, against NumPy; boxes are spread over two levels."""
    wanted = {**dict(p2t=True, t2p=True, fuse="concat1x1", thr_convs=2, thr_pool=28), **FORMS[form]}
    # The pyramid's cells are small beside its boxes: a RoI is pooled from P2, but for those that are made larger here.
    boxes = rois.boxes.at[0, 0].set(jnp.array([-60.0, -70.0, 70.0, 80.0]))
    rois = rois.replace(boxes=boxes)
    module = head(**FORMS[form])
    variables = variables_of(module, pyramid, rois, CLASSES, train=False)
    found, _ = apply(module, variables, pyramid, rois, CLASSES, train=False)

    source = pyramid
    if wanted.get("thr_source") != "multi":
        source = pyramid.replace(levels=pyramid.levels[:1], strides=pyramid.strides[:1])
    flat = lambda x: np.asarray(x).reshape(-1, *x.shape[2:])  # noqa: E731
    p, t, trunk = reference.head(
        variables["params"],
        flat(roi_align(pyramid, boxes, 14)),
        flat(roi_align(source, boxes, wanted["thr_pool"])),
        **{key: wanted[key] for key in ("p2t", "t2p", "fuse")},
        convs=wanted["thr_convs"],
        stride=wanted["thr_pool"] // 14,
    )
    index = flat(CLASSES[..., None])[:, None, None, :]
    np.testing.assert_allclose(flat(found.features), trunk, rtol=1e-3, atol=1e-3)
    for got, every in ((found.logits, p), (found.extra["thresholds"], t)):
        expected = np.take_along_axis(every, index, -1)[..., 0]
        np.testing.assert_allclose(flat(got), expected, rtol=1e-3, atol=1e-3)


def test_all_maps_are_those_of_the_classes(pyramid, rois):
    module = head()
    variables = variables_of(module, pyramid, rois, CLASSES, train=False)
    one, _ = apply(module, variables, pyramid, rois, CLASSES, train=False)
    every, _ = apply(module, variables, pyramid, rois, None, train=False)
    index = np.asarray(CLASSES)[..., None, None, None]
    for got, maps in (
        (one.logits, every.logits),
        (one.extra["thresholds"], every.extra["thresholds"]),
    ):
        picked = np.take_along_axis(np.asarray(maps), index, -1)[..., 0]
        np.testing.assert_allclose(got, picked, rtol=1e-4, atol=1e-5)


def test_padded_rois_change_nothing(pyramid, rois):
    """Outputs, statistics and gradients, with batch norm in every branch."""
    made = config()
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
            kept = [jnp.where(where, x, 0.0) for x in (found.logits, found.extra["thresholds"])]
            return sum(jnp.sin(x).sum() for x in kept), (kept, stats)

        return jax.grad(loss, has_aux=True)(variables["params"])

    junk = rois.replace(boxes=jnp.where(rois.valid[..., None], rois.boxes, 50.0))
    compare = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    jax.tree.map(compare, run(rois), run(junk))


def test_every_part_computes_in_the_models_dtype(pyramid, rois):
    made = config()
    made.model.dtype = "bfloat16"
    module = methods.build(made).roi_heads.mask_head
    init = functools.partial(module.init, train=False)
    low = pyramid.replace(levels=tuple(x.astype("bfloat16") for x in pyramid.levels))
    variables = jax.eval_shape(init, jax.random.key(0), low, rois, CLASSES)
    run = functools.partial(module.apply, train=False)
    text = str(jax.make_jaxpr(run)(variables, low, rois, CLASSES))
    convolutions = [line for line in text.splitlines() if "conv_general_dilated[" in line]
    assert len(convolutions) == 1 + 1 + 1 + 2 + 1 + 1  # trunk, R_t, P2T, two, T2P, the last
    assert all(":bf16[" in line for line in convolutions)
    found = jax.eval_shape(run, variables, low, rois, CLASSES)
    assert found.features.dtype == jnp.bfloat16
    assert found.logits.dtype == found.extra["thresholds"].dtype == jnp.float32


def test_class_agnostic_masks_have_one_map_of_each_kind():
    made = config()
    made.model.mask_head.class_agnostic = True
    shapes = {
        path: shape for path, shape in convert.shapes(made).items() if "predictor/bias" in path
    }
    assert len(shapes) == 2 and set(shapes.values()) == {(1,)}


def test_without_thresholds_it_is_the_fcn_head():
    plain = tiny.config()
    plain.model.criterion.roi.samples = 16
    made = methods.build(config(threshold=False))
    assert type(made.roi_heads.mask_head) is FCNMaskHead
    assert repr(made) == repr(methods.build(plain))


def outputs(logits, thresholds):
    return MaskOutputs(
        jnp.asarray(logits), jnp.zeros((1, 1, 1, 1, 1)), {"thresholds": jnp.asarray(thresholds)}
    )


@pytest.mark.parametrize(
    ("k", "low", "high", "floor"),
    [(1.0, 0.268941, 0.731059, 0.313262), (2.0, 0.119203, 0.880797, 0.126928)],
)
def test_b_and_its_loss_are_bounded(k, low, high, floor):
    """B lies between the sigmoids of -k and k, so that its loss cannot be less than ln(1 + e^-k)."""
    sure = np.full((1, 1, 28, 28), 60.0, np.float32)
    module = head(k=k)
    assert module.maps(outputs(sure, -sure))["B"].max() == pytest.approx(high, abs=1e-6)
    assert module.maps(outputs(-sure, sure))["B"].min() == pytest.approx(low, abs=1e-6)
    np.testing.assert_array_equal(module.maps(outputs(sure / 70, sure / 70))["B"], 0.5)
    least = mask_losses.binary_cross_entropy(
        module._binary_logits(outputs(sure, -sure)), jnp.ones_like(sure)
    )
    np.testing.assert_allclose(least, floor, atol=1e-6)


@pytest.fixture(scope="module")
def targets(rois):
    made = jax.tree.map(jnp.asarray, tiny.batch(2).targets)
    return MaskTargets(made, jnp.array([[0, 1, 2, 0, 0], [1, 0, 0, 0, 0]]), rois.boxes)


@pytest.fixture(scope="module")
def maps():
    rng = np.random.default_rng(3)
    return rng.normal(0, 2, (2, 2, 5, 28, 28)).astype(np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"k": 50.0, "lambda_bin": 0.5},
        {"lambda_bin": 0.0, "infer_map": "P"},
        {"thr_target": "same"},
        {"soft_targets": True},
        {"thr_target": "none", "binarise_on": "logit"},
        config_file.BMASK,
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "paper",
)
def test_losses_by_hand(targets, maps, changes):
    """Eq. 4 and 5 in float64."""
    changes = dict(changes)
    soft = changes.pop("soft_targets", False)
    made = config(**changes)
    made.model.mask_head.soft_targets = soft
    wanted = dict(k=2.0, lambda_bin=2.0, thr_target="inverse", binarise_on="prob") | changes
    p, t = maps.astype(np.float64)
    y = np.asarray(targets.soft_masks(28) if soft else targets.masks(28), np.float64)
    expected = {"mask": reference.entropy(p, y)}
    if wanted["thr_target"] in ("inverse", "same"):
        goal = 1 - y if wanted["thr_target"] == "inverse" else y
        expected["mask_threshold"] = reference.entropy(t, goal)
    if wanted["thr_target"] == "boundary":
        kernel = np.full((3, 3), -1.0)
        kernel[1, 1] = 8.0
        edges = [
            cv2.filter2D(m, cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT)
            for m in y.reshape(-1, 28, 28)
        ]
        edges = (np.stack(edges) > 0.1).astype(np.float64).reshape(y.shape)
        probability = reference.sigmoid(t)
        both, total = (probability * edges).sum((-2, -1)), (probability + edges).sum((-2, -1))
        expected["mask_boundary"] = reference.entropy(t, edges) + 1 - (2 * both + 1) / (total + 1)
    if wanted["lambda_bin"]:
        a, b = (p, t) if wanted["binarise_on"] == "logit" else map(reference.sigmoid, (p, t))
        expected["mask_binary"] = reference.entropy(wanted["k"] * (a - b), y)
    model = methods.build(made)
    found = model.roi_heads.mask_head.losses(outputs(*maps), targets)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, err_msg=name)


@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn", "mr_rcnn"])
def test_lambda_is_the_weight_of_the_loss_of_b(method):
    made = config(method, lambda_bin=3.0)
    made.model.criterion.weights.mask_binary = 0.5
    if method == "cascade_mask_rcnn":
        made.model.cascade.mask_heads = 3
    criterion = methods.build(made).criterion
    name = {"cascade_mask_rcnn": "mask_binary_1", "mr_rcnn": "refine_mask_binary"}.get(
        method, "mask_binary"
    )
    weight = 3.0 * (1.0 if method == "mr_rcnn" else 0.5)
    masks = MaskTerms({name: jnp.float32(2.0), "mask": jnp.float32(1.0)})
    total, log = criterion.total((), [masks], jnp.int32(0))
    assert total == weight * 2.0 + 1.0 and log[name] == 2.0


def test_without_lambda_the_loss_of_b_is_left_out():
    masks = MaskTerms({"mask_binary": jnp.float32(2.0)})
    _, log = methods.build(config(lambda_bin=0.0)).criterion.total((), [masks], jnp.int32(0))
    assert log == {}


@pytest.mark.parametrize(
    ("infer_map", "binarise_on"), [("B", "prob"), ("B", "logit"), ("P", "prob")]
)
def test_the_mask_is_the_map_that_is_asked_for(maps, infer_map, binarise_on):
    module = head(infer_map=infer_map, binarise_on=binarise_on, k=3.0)
    p, t = maps.astype(np.float64)
    a, b = (p, t) if binarise_on == "logit" else map(reference.sigmoid, (p, t))
    expected = reference.sigmoid(p) if infer_map == "P" else reference.sigmoid(3.0 * (a - b))
    found = module.apply({}, outputs(*maps), method="probabilities")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    if infer_map == "B":  # at one half, where P is above T
        sure = np.abs(expected - 0.5) > 1e-4
        np.testing.assert_array_equal((np.asarray(found) >= 0.5)[sure], (p > t)[sure])


@pytest.mark.parametrize("binarise_on", ["prob", "logit"])
def test_the_loss_of_b_reaches_both_maps(targets, maps, binarise_on):
    module = head(binarise_on=binarise_on)
    loss = lambda p, t: module.losses(outputs(p, t), targets)["mask_binary"].sum()  # noqa: E731
    to_p, to_t = jax.grad(loss, (0, 1))(*maps)
    # Where the mask is, B is to rise: P up and T down; elsewhere the other way round.
    inside = np.asarray(targets.masks(28)) > 0
    assert (to_p[inside] < 0).all() and (to_t[inside] > 0).all()
    assert (to_p[~inside] > 0).all() and (to_t[~inside] < 0).all()


@pytest.mark.parametrize(
    "changes", [{"k": 50.0}, {"k": 50.0, "binarise_on": "logit"}, config_file.BMASK], ids=str
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_losses_and_gradients_of_sure_maps_are_finite(targets, maps, changes, dtype):
    module = head(**changes)

    def total(p, t):
        found = module.losses(outputs(p, t), targets)
        return sum(x.sum() for x in found.values()), found

    for value in (80.0, -80.0):
        p, t = (jnp.asarray(np.sign(m) * value, dtype) for m in maps)
        gradients, found = jax.grad(total, (0, 1), has_aux=True)(p, t)
        for x in jax.tree.leaves((gradients, found)):
            assert np.isfinite(np.asarray(x, np.float32)).all()


def test_the_edge_of_a_mask():
    """What has a pixel outside the mask, or beyond the frame, among its eight neighbours: of a full mask 108."""
    assert masks.boundary(jnp.ones((28, 28))).sum() == 108
    drawn = np.random.default_rng(0).random((20, 7, 9)) < 0.9
    around = np.pad(drawn, ((0, 0), (1, 1), (1, 1)))
    expected = np.zeros_like(drawn)
    for n, y, x in np.argwhere(drawn):
        expected[n, y, x] = not around[n, y : y + 3, x : x + 3].all()
    np.testing.assert_array_equal(masks.boundary(jnp.asarray(drawn)), expected)


def test_dice_is_zero_for_what_is_right_and_one_for_what_is_not():
    wanted = jnp.zeros((2, 28, 28)).at[:, :14].set(1.0)
    logits = jnp.where(wanted > 0, 60.0, -60.0)
    np.testing.assert_allclose(mask_losses.dice(logits, wanted), 0.0, atol=1e-6)
    np.testing.assert_allclose(mask_losses.dice(-logits, wanted), 1.0, atol=2e-3)
    assert jnp.isfinite(jax.grad(lambda x: mask_losses.dice(x, 0 * wanted).sum())(logits)).all()


REACHES = {  # a setting, another value, and what must be on for it to matter
    "threshold": (False, {}),
    "p2t": (False, {}),
    "t2p": (False, {}),
    "fuse": ("sum", {}),
    "thr_source": ("multi", {}),
    "thr_pool": (56, {}),
    "thr_convs": (1, {}),
    "thr_target": ("same", {}),
    "k": (10.0, {}),
    "lambda_bin": (1.0, {}),
    "binarise_on": ("logit", {}),
    "infer_map": ("P", {}),
}


def test_every_setting_reaches_the_model():
    assert set(REACHES) == set(atmask_rcnn.DEFAULTS)
    for key, (value, needs) in REACHES.items():
        before, after = (
            methods.build(config(**needs)),
            methods.build(config(**needs, **{key: value})),
        )
        assert repr(before) != repr(after), key


CHANGED = {  # of the head's parameters, by the settings of REACHES; None: it is another head
    "threshold": None,
    "p2t": {"threshold/conv_p2t"},
    "t2p": {"fusion/conv_t2p", "fusion/conv_final"},
    "fuse": {"threshold/conv_p2t", "fusion/conv_t2p"},
    "thr_convs": {"threshold/conv1"},
}


def test_every_setting_changes_the_parameters_that_it_names(pyramid, rois):
    def shapes(**changes):
        init = functools.partial(head(**changes).init, train=False)
        made = jax.eval_shape(init, jax.random.key(0), pyramid, rois, CLASSES)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(made)
        return {freeze.path_string(path): leaf.shape for path, leaf in leaves}

    before = shapes()
    for key, (value, needs) in REACHES.items():
        after = shapes(**needs, **{key: value})
        differ = {p for p in {**before, **after} if before.get(p) != after.get(p)}
        expected = CHANGED.get(key, set())
        if expected is None:
            expected = {p.rpartition("/")[0] for p in before if p.startswith(atmask_rcnn.PARTS)}
        assert {path.rpartition("/")[0] for path in differ} == expected, key


def test_defaults_are_those_of_the_config():
    assert tiny.config().model.atmask.to_dict() == atmask_rcnn.DEFAULTS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fuse": "mul"}, "fuse='mul': allowed is concat1x1, concat3x3, sum"),
        ({"k": 0.0}, "k=0.0: allowed is a number > 0"),
        ({"k": float("nan")}, "k=nan: allowed is a number > 0"),
        ({"thr_target": "edge"}, "allowed is inverse, same, none, boundary"),
        ({"thr_pool": 20}, "thr_pool=20.*mask_head.pool=14.*multiples"),
        (
            {"fuse": "sum", "p2t": False, "t2p": False},
            "fuse='sum' has no effect with .*p2t=False and t2p=False",
        ),
        ({"k": 3.0, "lambda_bin": 0.0, "infer_map": "P"}, "k=3.0 has no effect with"),
        (
            {"threshold": False, "k": 3.0},
            "k=3.0 has no effect with config.model.atmask.threshold=False",
        ),
    ],
)
def test_settings_without_meaning_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        methods.build(config(**changes))


def test_a_head_without_convolutions():
    """What is pooled has another width than the head; sums need equal ones."""
    made = config()
    made.model.mask_head.convs, made.model.mask_head.channels = 0, 8
    assert ("params/roi_heads/mask_head/fusion/conv_t2p/kernel") in convert.shapes(made)
    made.model.atmask.fuse = "sum"
    with pytest.raises(ValueError, match=r"fuse='sum' adds features of 8 channels .* pooled, 16 "):
        methods.build(made)


def test_thresholds_without_their_head_are_named():
    made = config(k=3.0)
    made.model.mask_head.name = "fcn"
    with pytest.raises(
        ValueError, match=r"atmask\.k=3\.0 has no effect with .*mask_head.name='fcn'"
    ):
        methods.build(made)
    made = config()
    made.model.maskplus.mask_out = "pooled"
    with pytest.raises(ValueError, match=r"mask_out='pooled' leaves out the upsampling.*28 x 28"):
        methods.build(made)


def test_runs_from_before_have_the_fcn_head():
    made = tiny.config()
    del made.model.atmask
    assert type(methods.build(made).roi_heads.mask_head) is FCNMaskHead
    made.model.mask_head.name = "atmask"
    with pytest.raises(ValueError, match=r"config\.model\.atmask is missing"):
        methods.build(made)


@pytest.mark.parametrize("method", ["mr_rcnn", "cascade_mask_rcnn"])
def test_other_methods_have_it_in_every_mask_head(method):
    made = config(method)
    if method == "cascade_mask_rcnn":
        made.model.cascade.mask_heads = 3
    model, batch = methods.build(made), tiny.batch(1)
    init = functools.partial(model.init, method="losses")
    shapes = jax.eval_shape(init, jax.random.key(0), batch, jax.random.key(1), jnp.int32(0))
    heads = {k: v for k, v in shapes["params"]["roi_heads"].items() if "mask_head" in k}
    assert len(heads) == (2 if method == "mr_rcnn" else 3)
    assert all(set(atmask_rcnn.PARTS) <= set(group) for group in heads.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mask_rcnn", "mr_rcnn", "cascade_mask_rcnn"])
def test_other_methods_and_parts_train_a_step_and_predict(method):
    """With all of MaskPlus too; norms in every branch."""
    made = config(method)
    made.model.mask_head.norm = "batch_norm"
    made.model.maskplus.update(
        context=(24, 16), pyramid="pooled", boundary="improved", quasi="half", alpha=1.5
    )
    log, gradient = check_a_step(methods.build(made), tiny.batch())
    prefix = "refine_" if method == "mr_rcnn" else ""
    assert all(
        log[f"{prefix}{name}"] > 0
        for name in ("mask", "mask_threshold", "mask_binary", "mask_auxiliary")
    )
    for name in atmask_rcnn.PARTS:
        group = gradient["roi_heads"][f"{prefix}mask_head"][name]
        assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(group)), name


def trained(made, batch):
    """(state before, state after, what is logged) of one step."""
    model = methods.build(made)
    variables = tiny.variables(model, batch)
    params, stats = variables["params"], variables["batch_stats"]
    transform, schedule = optimizer.make(made, params)
    state = states.create(params, stats, transform, ema=False)
    mesh = sharding.make_mesh(jax.devices()[:1])
    step = step_lib.make_train_step(model, transform, schedule, mesh, freeze=tuple(made.freeze))
    before = jax.tree.map(np.array, state)
    after, log = step(state, sharding.put_batch(batch, mesh))
    return before, jax.device_get(after), jax.device_get(log)


def test_all_but_the_mask_head_is_frozen():
    """No update, no decay, no optimizer state, no statistics, and no loss, for all but the mask head."""
    made = config()
    source = config_file.get_config("r101,own,freeze=all_but_mask")
    made.freeze = source.freeze
    made.model.criterion.weights = source.model.criterion.weights
    made.optim.warmup_steps, made.optim.lr = 0, 0.1
    before, after, log = trained(made, tiny.batch())
    losses = {name for name in log if name in made.model.criterion.weights}
    assert losses == {"mask", "mask_threshold", "mask_binary"}
    assert {"rpn_positives", "roi_accuracy"}.isdisjoint(log)
    total = log["mask"] + log["mask_threshold"] + 2.0 * log["mask_binary"]
    assert log["loss"] == pytest.approx(total, rel=1e-5)

    def heads(tree):
        return {k: v for k, v in tree.items() if k != "roi_heads"}, tree["roi_heads"]

    (rest, rois_before), (rest_after, rois_after) = heads(before.params), heads(after.params)
    jax.tree.map(np.testing.assert_array_equal, rest, rest_after)
    jax.tree.map(np.testing.assert_array_equal, rois_before["box_head"], rois_after["box_head"])
    jax.tree.map(np.testing.assert_array_equal, before.batch_stats, after.batch_stats)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max() > 0, rois_before["mask_head"], rois_after["mask_head"]
    )
    assert all(jax.tree.leaves(moved))
    momentum = sum(x.size for x in jax.tree.leaves(after.opt_state) if x.ndim)
    assert momentum == sum(x.size for x in jax.tree.leaves(rois_after["mask_head"]))


def used_parameters(made):
    """Paths of the parameters on which losses, what is logged and statistics of a step depend."""
    model, batch, key = methods.build(made), tiny.batch(1), jax.random.key(0)
    init = functools.partial(model.init, method="losses")
    variables = jax.eval_shape(init, key, batch, key, jnp.int32(0))
    loss = tiny.loss_function(model)
    traced = jax.make_jaxpr(loss)(variables["params"], variables["batch_stats"], batch, key)
    _, used = pe.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    paths = [
        freeze.path_string(p) for p, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    ]
    return {path for path, is_used in zip(paths, used, strict=False) if is_used}


def test_a_head_without_losses_is_not_computed():
    made = config()
    assert any("box_head" in path for path in used_parameters(made))
    made.model.criterion.weights = config_file.get_config(
        "r101,own,freeze=all_but_mask"
    ).model.criterion.weights
    used = used_parameters(made)
    assert not any("box_head" in path for path in used)
    assert any("mask_head" in path for path in used) and any("rpn" in path for path in used)


def test_frozen_heads_keep_their_losses():
    made = config_file.get_config("r101,coco,freeze=heads")
    heads = ("rpn", r"roi_heads/(refine_)?box_head(_\d+)?")
    assert made.freeze == ("backbone/stem", "backbone/stage1", *heads)
    assert all(weight == 1.0 for weight in made.model.criterion.weights.values())
    schedule = made.train.steps, made.optim.milestones, made.train.batch_size
    assert schedule == (50_000, (30_000, 40_000), 8)
    assert made.optim.lr == 0.02 and made.optim.base_batch_size == 8


@pytest.mark.parametrize(
    ("arg", "frozen"),
    [
        ("recipe=atmask,r101,coco", True),
        ("atmask,r101,coco,table2.atmask", True),
        ("recipe=atmask,r101,coco,freeze=none", False),
        ("recipe=atmask,r101,coco,table2.base", False),
        ("recipe=atmask,r50,coco", False),
        ("r101,coco", False),
    ],
)
def test_the_papers_resnet101_trains_the_mask_head_alone(arg, frozen):
    made = config_file.get_config(arg)
    assert ("backbone" in made.freeze) == frozen
    assert made.train.steps == (50_000 if frozen else 90_000)


@pytest.mark.parametrize("arg", ["r101,2x,coco,freeze=heads", "recipe=atmask,r101,3x,coco"])
def test_a_schedule_without_effect_is_refused(arg):
    with pytest.raises(ValueError, match=r"trains 50,000 steps.*freeze=none"):
        config_file.get_config(arg)


@pytest.mark.parametrize("arg", ["heads", "all_but_mask", "heads,runlocal"])
def test_what_is_frozen_must_be_trained(arg):
    made = config_file.get_config(f"r101,coco,freeze={arg}")
    with pytest.raises(
        ValueError, match=r"config\.init_from is empty.*trained detector.*freeze=none"
    ):
        init_from._check_heads(made, None)
    one = np.zeros(1)
    box_head = {"params/roi_heads/box_head/fc0/kernel": one}
    faster_rcnn = starting.Start({"params/rpn/head/conv0/kernel": one, **box_head})
    init_from._check_heads(made, faster_rcnn)  # a mask head is not asked for
    with pytest.raises(ValueError, match="has no trained rpn"):
        init_from._check_heads(made, starting.Start(box_head))


def test_a_mask_rcnn_that_goes_on_needs_its_mask_head():
    """Of configs/mr_rcnn.py, also in the rows without refining."""
    one = np.zeros(1)
    start = starting.Start(
        {"params/rpn/head/conv0/kernel": one, "params/roi_heads/box_head/fc0/kernel": one}
    )
    with pytest.raises(ValueError, match="has no trained roi_heads/mask_head"):
        init_from._check_heads(mr_rcnn.get_config("r50,coco,table3.base"), start)


def test_a_trained_mask_rcnn_gives_the_line_of_probabilities():
    """Its mask head is taken over whole; thresholds and fusion begin anew."""
    fcn = tiny.config()
    saved = {path: np.zeros(shape) for path, shape in convert.shapes(fcn).items()}
    made = config()
    made.model.criterion.roi.samples = fcn.model.criterion.roi.samples
    start = starting.of_run(saved, convert.shapes(made), copies=methods.copies(made))
    assert {p.split("/")[3] for p in start.initial} == set(atmask_rcnn.PARTS)
    assert set(start.values) == set(saved)


def test_every_map_can_be_had_beside_the_detections():
    model, batch = methods.build(config()), tiny.batch(1)
    variables = tiny.variables(model, batch)
    mesh = sharding.make_mesh(jax.devices()[:1])
    found = step_lib.make_detect(model, mesh, maps=True)(variables, batch)
    assert set(found.maps) == {"P", "T", "B"} and set(found.maps) <= set(mask_head_lib.MAPS)
    assert found.valid.any()
    np.testing.assert_array_equal(found.maps["B"], found.masks)
    p, t = (np.asarray(found.maps[name], np.float64) for name in "PT")
    np.testing.assert_allclose(found.masks, reference.sigmoid(2.0 * (p - t)), atol=1e-5)


def test_maps_of_bmask_are_its_probabilities_and_edges(maps):
    assert set(head(**config_file.BMASK).maps(outputs(*maps))) == {"P", "edge"}


def test_maps_of_several_heads_are_means_and_those_that_refine_come_first():
    def sown(value):
        return {"maps": ({"P": jnp.full((1, 1, 2, 2), value)},)}

    heads = {"box_head": {}, "mask_head_0": sown(0.25), "mask_head_1": sown(0.75)}
    np.testing.assert_array_equal(mask_head_lib.maps_of(heads)["P"], 0.5)
    heads = {"mask_head": sown(0.0), "refine_mask_head": sown(1.0)}
    np.testing.assert_array_equal(mask_head_lib.maps_of(heads)["P"], 1.0)


def test_the_page_names_every_file_of_the_method():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "methods" / "atmask_rcnn.md").read_text()
    for file in (
        "jaxseg/methods/atmask_rcnn.py",
        "configs/atmask_rcnn.py",
        "configs/tables/atmask_rcnn.py",
    ):
        assert file in page
    for key in atmask_rcnn.DEFAULTS:
        assert f"`{key}`" in page, key
