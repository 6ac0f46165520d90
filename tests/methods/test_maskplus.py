"""MaskPlus: sizes, each technique against a plain NumPy form of it, and that they work together.

Most of it runs a mask head or a part alone, without compilation.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from configs import maskplus as maskplus_config
from jaxseg import methods, paths
from jaxseg.losses import mask as mask_losses
from jaxseg.methods import maskplus
from jaxseg.modeling import norms
from jaxseg.modeling.criterion import MaskTerms, Terms
from jaxseg.modeling.mask_head import FCNMaskHead, MaskTargets
from jaxseg.ops.roi_align import Pool, roi_align
from jaxseg.training import setup, starting
from jaxseg.weights import convert
from tests.methods import tiny
from tests.methods.mask_heads import CHANNELS, CLASSES, STRIDES, apply, quick, variables_of

PARTS = {**maskplus_config.PARTS, "context": {"context": (24, 16)}}
SIZES = {  # parameters that the rows add to Mask R-CNN's 44,343,216 at test
    "table1.base": 0,
    "table1.cf_256_256": 1_180_160,
    "table1.cf_256_256_256": 1_770_240,
    "table1.cf_720_512_512_256": 8_517_584,
    "table2.dpm": 1_704_960,
    "table3.original": 115_360,
    "table3.improved": 16_872,
    "table4.half": -262_400,  # the deconvolution
    "table4.qml_half": 0,
    "table4.qml_double": 0,
    "table5.bt": 0,
    "table7.maskplus": 10_239_416,
}


def config(*parts, method="mask_rcnn", **more):
    made = tiny.config()
    made.method = method
    made.model.criterion.roi.samples = 16
    for part in parts:
        made.model.maskplus.update(PARTS[part])
    made.model.maskplus.update(more)
    return made


def both(head, *arguments, train):
    """What a mask head gives, and the logits of its auxiliary branch in training."""
    outputs = head(*arguments, train=train)
    extra = outputs.extra
    side = (
        head.auxiliary(extra["pooled"], extra["rois"], extra["classes"], train=True)
        if extra
        else None
    )
    return outputs, side


@pytest.mark.parametrize("row", SIZES)
def test_parameters(row):
    """The papers' specification, section 6."""
    made = maskplus_config.get_config(f"r50,{row}")
    assert methods.count_parameters(made) == 44_343_216 + SIZES[row]


@pytest.mark.parametrize(
    ("arg", "parameters"),
    [("r101", 73_522_536), ("r101,maskplus_plus", 101_164_246), ("r50,cascade", 82_224_342)],
)
def test_parameters_of_all_five(arg, parameters):
    assert methods.count_parameters(maskplus_config.get_config(arg)) == parameters


def test_parameters_of_the_auxiliary_branch(rois):
    """0.5x 2,380,880, and 2x 2,905,680; in training only."""
    x, classes = jnp.zeros((1, 1, 14, 14, 256)), jnp.zeros((1, 1), jnp.int32)
    one = jax.tree.map(lambda v: v[:1, :1], rois)
    for size, parameters in (("half", 2_380_880), ("double", 2_905_680)):
        model = maskplus_config.get_config("r50").model
        model.maskplus.quasi = size
        pool = Pool()
        branch = maskplus.parts(model, pool, 80, jnp.float32)["auxiliary_branch"]()
        init = functools.partial(branch.init, train=True)
        shapes = jax.eval_shape(init, jax.random.key(0), x, one, classes)["params"]
        assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == parameters


def convolve(x, params, stride=1):
    """A 3x3 or 1x1 convolution of (N, H, W, C) in plain NumPy."""
    kernel, bias = np.asarray(params["kernel"], np.float64), np.asarray(params["bias"])
    size = kernel.shape[0]
    pad = size // 2
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
    out = bias + sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(size) for j in range(size)
    )
    return out[:, ::stride, ::stride]


def deconvolve(x, params):
    kernel = np.asarray(params["kernel"], np.float64)
    n, h, w, _ = x.shape
    out = np.zeros((n, 2 * h, 2 * w, kernel.shape[-1]))
    for i, j in itertools.product(range(2), range(2)):
        out[:, i::2, j::2] = np.asarray(x, np.float64) @ kernel[i, j]
    return out + np.asarray(params["bias"])


def relu(x):
    return np.maximum(x, 0)


def fusion(level=5):
    pool = Pool()
    return maskplus.ContextualFusion((24, CHANNELS), level, pool)


@pytest.mark.parametrize("level", [5, 3])
def test_contextual_fusion_pools_the_image_on_its_level(pyramid, level):
    """RoIAlign of a plane gives the plane at the centres of the bins, whatever the level: here y and x, in pixels."""
    stride = 2**level
    size = 64 // stride
    rows, columns = jnp.mgrid[:size, :size] * stride + stride / 2
    plane = jnp.stack([rows, columns], -1).astype(jnp.float32)
    levels = tuple(
        jnp.broadcast_to(plane, (2, size, size, 2)) if s == stride else jnp.full((2, 4, 4, 2), 1e6)
        for s in STRIDES
    )
    one = pyramid.replace(levels=levels)
    module = maskplus.ContextualFusion((2,), level, fusion(level).pool)
    params = {"conv0": {"kernel": jnp.zeros((3, 3, 2, 2)).at[1, 1].set(jnp.eye(2))}}
    params["conv0"]["bias"] = jnp.zeros(2)
    found = module.apply({"params": params}, one, 8)
    assert found.shape == (2, 1, 8, 8, 2)
    for image, (height, width) in enumerate(np.asarray(pyramid.image_size)):
        for axis, side in enumerate((height, width)):
            # Samples beyond the centres of the outermost cells take those cells.
            cells = np.ceil(side / stride)
            samples = (np.arange(16) + 0.5) * side / 16
            wanted = np.clip(samples, stride / 2, (cells - 0.5) * stride).reshape(8, 2).mean(1)
            got = found[image, 0, :, 0, 0] if axis == 0 else found[image, 0, 0, :, 1]
            np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_contextual_fusion_sees_the_image_and_never_its_padding(pyramid):
    module = fusion()
    variables = variables_of(module, pyramid, 14)
    clean = module.apply(variables, pyramid, 14)
    inside = [
        np.arange(64 // s)[None, :, None] * s < np.asarray(pyramid.image_size)[:, :1, None]
        for s in STRIDES
    ]
    across = [
        np.arange(64 // s)[None, None, :] * s < np.asarray(pyramid.image_size)[:, 1:, None]
        for s in STRIDES
    ]
    junk = tuple(
        jnp.where((rows & columns)[..., None], level, 1e9)
        for level, rows, columns in zip(pyramid.levels, inside, across, strict=True)
    )
    np.testing.assert_array_equal(module.apply(variables, pyramid.replace(levels=junk), 14), clean)
    # Its convolutions, by hand.
    level = pyramid.replace(levels=pyramid.levels[-1:], strides=(32,))
    sizes = np.asarray(pyramid.image_size)
    boxes = jnp.asarray([[[0, 0, w, h]] for h, w in sizes], jnp.float32)
    x = roi_align(level, boxes, 14)[:, 0]
    for index in range(2):
        x = relu(convolve(x, variables["params"][f"conv{index}"]))
    np.testing.assert_allclose(clean[:, 0], x, atol=1e-4)


@pytest.mark.parametrize("doubled", [False, True])
def test_deconvolutional_pyramid(doubled):
    """Up twice, down twice, sums of equal sizes after the ReLU."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 6, 6, 8)), jnp.float32)
    module = maskplus.DeconvPyramid(8, doubled)
    variables = variables_of(module, x)
    p = variables["params"]
    first = relu(deconvolve(x, p["up0"]))
    second = relu(deconvolve(first, p["up1"]))
    back = relu(convolve(second, p["down0"], 2)) + first
    wanted = back if doubled else relu(convolve(back, p["down1"], 2)) + np.asarray(x)
    np.testing.assert_allclose(module.apply(variables, x), wanted, rtol=1e-4, atol=1e-4)
    assert set(p) == {"up0", "up1", "down0"} | (set() if doubled else {"down1"})


def logits(maps=3, seed=3):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 5, 6, 6, maps)), jnp.float32)


def test_original_boundary_refinement(rois):
    module, x = maskplus.BoundaryRefinement(), logits()
    variables = variables_of(module, x, rois.stats, train=True)
    flat = np.asarray(x).reshape(10, 6, 6, 3)
    p = variables["params"]
    wanted = flat + convolve(relu(convolve(flat, p["conv0"])), p["conv1"])
    found = module.apply(variables, x, rois.stats, train=True)
    np.testing.assert_allclose(found.reshape(flat.shape), wanted, rtol=1e-4, atol=1e-4)


def improved(kernels=(1, 3), per_image=True):
    return maskplus.ImprovedBoundaryRefinement(
        kernels, functools.partial(norms.BatchNorm, per_image=per_image)
    )


def normalised(x, params, counted):
    """(x - mean) / deviation over the elements that count, times scale, plus bias; float64."""
    seen = x[counted]
    mean, var = seen.mean((0, 1, 2)), seen.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * np.asarray(params["scale"]) + np.asarray(
        params["bias"]
    )


@pytest.mark.parametrize("kernels", [(1, 3), (3, 3)])
@pytest.mark.parametrize("per_image", [True, False])
def test_improved_boundary_refinement(rois, kernels, per_image):
    """Four dense modules in plain NumPy, statistics over the RoIs that count: of each image, or of all."""
    x = logits()
    module = improved(kernels, per_image)
    variables = variables_of(module, x, rois.stats, train=True)
    p = variables["params"]

    def reference(x, counted):
        dense = np.asarray(x, np.float64)
        for index in range(4):
            y = dense
            for step in range(2):
                name = f"{index}_{step}"
                y = normalised(y, p[f"norm{name}"], counted)
                y = np.where(y >= 0, y, y * np.asarray(p[f"prelu{name}"]["slope"]))
                y = convolve(y, p[f"conv{name}"])
            dense = np.concatenate([dense, y], -1)
        return np.asarray(x) + convolve(dense, p["last"])

    stats = np.asarray(rois.stats)
    groups = [slice(0, 1), slice(1, 2)] if per_image else [slice(0, 2)]
    found, _ = apply(module, variables, x, rois.stats, train=True)
    for group in groups:
        counted = stats[group].reshape(-1)
        wanted = reference(np.asarray(x)[group].reshape(-1, 6, 6, 3), counted)
        got = np.asarray(found)[group].reshape(-1, 6, 6, 3)
        np.testing.assert_allclose(got[counted], wanted[counted], rtol=2e-4, atol=2e-4)


def test_improved_boundary_refinement_begins_as_the_identity(rois):
    module, x = improved(), logits()
    init = functools.partial(module.init, train=True)
    variables = quick(init)(jax.random.key(0, impl="rbg"), x, rois.stats)
    found, _ = apply(module, variables, x, rois.stats, train=True)
    np.testing.assert_array_equal(found, x)
    slopes = variables["params"]["prelu0_0"]["slope"]
    np.testing.assert_array_equal(slopes, np.full(3, 0.25, np.float32))
    run = functools.partial(module.apply, train=True, mutable=["batch_stats"])
    total = lambda v: run({**variables, "params": v}, x, rois.stats)[0].sum()  # noqa: E731
    moved = quick(jax.grad(total))(variables["params"])
    assert np.abs(moved["last"]["kernel"]).sum() > 0  # and can leave it


@pytest.mark.parametrize("per_image", [True, False])
def test_padded_rois_enter_no_statistic_and_none_at_all_changes_none(rois, per_image):
    module, x = improved(per_image=per_image), logits()
    variables = variables_of(module, x, rois.stats, train=True)

    compiled = quick(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    run = functools.partial(compiled, variables)
    clean, updates = run(x, rois.stats)
    dirty, same = run(jnp.where(rois.stats[..., None, None, None], x, 1e6), rois.stats)
    np.testing.assert_array_equal(dirty[rois.stats], clean[rois.stats])
    jax.tree.map(np.testing.assert_array_equal, same, updates)

    none = jnp.zeros_like(rois.stats)
    out, kept = run(x, none)
    assert np.isfinite(out).all()
    jax.tree.map(np.testing.assert_array_equal, kept["batch_stats"], variables["batch_stats"])
    at_test, _ = apply(module, variables, x, none, train=False)
    np.testing.assert_allclose(out, at_test, rtol=1e-6)  # the running statistics serve


def test_an_image_alone_has_the_statistics_that_it_has_among_others(rois):
    """The paper's one image a device; the running statistics follow the mean over images with foreground."""
    module, x = improved(), logits()
    variables = variables_of(module, x, rois.stats, train=True)

    compiled = quick(functools.partial(module.apply, train=True, mutable=["batch_stats"]))
    run = functools.partial(compiled, variables)
    both, together = run(x, rois.stats)
    alone = [run(x[i : i + 1], rois.stats[i : i + 1]) for i in range(2)]
    for image in range(2):
        np.testing.assert_allclose(both[image], alone[image][0][0], rtol=1e-4, atol=1e-4)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, alone[0][1], alone[1][1])
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), together, mean
    )
    _, with_empty = run(x, rois.stats.at[1].set(False))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), with_empty, alone[0][1]
    )


def head(*parts, **more) -> FCNMaskHead:
    return methods.build(config(*parts, **more)).roi_heads.mask_head


def test_the_order_of_the_parts(pyramid, rois):
    """Pooled + context -> convolutions -> pyramid -> deconvolution -> predictor -> refinement of all maps -> a map."""
    module = head("context", "pyramid", "boundary", "quasi")
    arguments = (pyramid, rois, CLASSES)
    variables = variables_of(module, *arguments, train=True, method=both)
    p = variables["params"]
    (found, found_side), _ = apply(module, variables, *arguments, train=True, method=both)

    context = fusion().apply({"params": p["image_context"]}, pyramid, 14)
    x = np.asarray(roi_align(pyramid, rois.boxes, 14) + context).reshape(10, 14, 14, CHANNELS)
    main = relu(convolve(x, p["conv0"]))
    np.testing.assert_allclose(
        np.asarray(found.features).reshape(main.shape), main, rtol=1e-3, atol=1e-3
    )
    refined = maskplus.DeconvPyramid(CHANNELS).apply(
        {"params": p["feature_refinement"]}, jnp.asarray(main, jnp.float32)
    )
    up = relu(deconvolve(refined, p["deconv"]))
    maps = up @ np.asarray(p["predictor"]["kernel"]) + np.asarray(p["predictor"]["bias"])
    maps = jnp.asarray(maps.reshape(2, 5, 28, 28, 3), jnp.float32)
    own = {
        "params": p["logit_refinement"],
        "batch_stats": variables["batch_stats"]["logit_refinement"],
    }
    maps, _ = apply(improved(), own, maps, rois.stats, train=True)

    aux = p["auxiliary"]
    side = relu(convolve(x, aux["conv0"])) @ np.asarray(aux["predictor"]["kernel"])
    side = (side + np.asarray(aux["predictor"]["bias"])).reshape(2, 5, 14, 14, 3)
    for image, slot in np.argwhere(np.asarray(rois.stats)):
        label = int(CLASSES[image, slot])
        for got, wanted in (
            (found.logits, maps[image, slot, ..., label]),
            (found_side, side[image, slot, ..., label]),
        ):
            np.testing.assert_allclose(got[image, slot], wanted, rtol=5e-3, atol=5e-3)


def test_all_maps_are_those_of_the_classes(pyramid, rois):
    """`classes=None` gives every map, with boundary refinement as without."""
    for parts in ((), ("boundary",)):
        module = head(*parts)
        variables = variables_of(module, pyramid, rois, CLASSES, train=False)
        one = apply(module, variables, pyramid, rois, CLASSES, train=False)[0].logits
        every = apply(module, variables, pyramid, rois, None, train=False)[0].logits
        index = np.asarray(CLASSES)[..., None, None, None]
        picked = np.take_along_axis(np.asarray(every), index, -1)[..., 0]
        np.testing.assert_allclose(one, picked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "size"),
    [
        ({}, 28),
        ({"mask_out": "pooled"}, 14),
        ({"pyramid": "pooled"}, 28),
        ({"pyramid": "doubled"}, 28),
        ({"pyramid": "pooled", "mask_out": "pooled"}, 14),
        ({"quasi": "half"}, 28),
        ({"quasi": "double"}, 28),
    ],
)
def test_sizes_of_masks(pyramid, rois, changes, size):
    module = head(**changes)
    init = functools.partial(module.init, train=True, method=both)
    variables = jax.eval_shape(init, jax.random.key(0), pyramid, rois, CLASSES)
    run = functools.partial(module.apply, train=True, mutable=["batch_stats"], method=both)
    (found, side), _ = jax.eval_shape(run, variables, pyramid, rois, CLASSES)
    assert found.logits.shape == (2, 5, size, size)
    extra = {"half": 14, "double": 56}.get(changes.get("quasi"))
    assert (None if side is None else side.shape[2]) == extra
    assert ("deconv" in variables["params"]) == (
        "doubled" not in changes.values() and changes.get("mask_out") != "pooled"
    )


@pytest.mark.parametrize("quasi", ["half", "double"])
def test_quasi_multitask_learns_masks_of_its_own_size_and_changes_no_output(pyramid, rois, quasi):
    module, plain = head(quasi=quasi), head()
    variables = variables_of(module, pyramid, rois, CLASSES, train=True, method=both)
    targets = jax.tree.map(jnp.asarray, tiny.batch(2).targets)
    matched = jnp.array([[0, 1, 2, 0, 0], [1, 0, 0, 0, 0]])
    wanted = MaskTargets(targets, matched, rois.boxes)

    def head_losses(head):
        outputs, side = both(head, pyramid, rois, CLASSES, train=True)
        return side, head.losses(outputs, wanted)

    def losses(params):
        return module.apply({"params": params}, method=head_losses)

    side, found = quick(losses)(variables["params"])
    assert set(found) == {"mask", "mask_auxiliary"}
    size = 14 if quasi == "half" else 56
    by_hand = mask_losses.binary_cross_entropy(side, wanted.masks(size))
    np.testing.assert_allclose(found["mask_auxiliary"], by_hand, rtol=1e-5)
    auxiliary = lambda p: losses(p)[1]["mask_auxiliary"].sum()  # noqa: E731
    gradient = quick(jax.grad(auxiliary))(variables["params"])
    reached = {k: any(np.abs(x).sum() > 0 for x in jax.tree.leaves(v)) for k, v in gradient.items()}
    assert reached == {k: k == "auxiliary" for k in gradient}  # nothing is shared but the features

    at_test, _ = apply(module, variables, pyramid, rois, CLASSES, train=False)
    without = {k: v for k, v in variables["params"].items() if k != "auxiliary"}
    same, _ = apply(plain, {"params": without}, pyramid, rois, CLASSES, train=False)
    jax.tree.map(np.testing.assert_array_equal, at_test, same)
    assert at_test.extra == {}


def test_the_auxiliary_branch_is_part_of_training_alone():
    """It is in what training makes, and not in what detection asks for."""
    model, batch = methods.build(config("quasi")), tiny.batch(1)

    def names(method, *more):
        init = functools.partial(model.init, method=method)
        shapes = jax.eval_shape(init, jax.random.key(0), batch, *more)["params"]
        return set(shapes["roi_heads"]["mask_head"])

    training = names("losses", jax.random.key(1), jnp.int32(0))
    assert training - names("detect") == {"auxiliary"}


def test_biased_training_weighs_the_masks_until_its_step():
    made = config("bias", "quasi")
    made.train.steps, made.model.maskplus.alpha_until = 10, 0.3
    criterion = methods.build(made).criterion
    masks = [MaskTerms({"mask": jnp.float32(2.0), "mask_auxiliary": jnp.float32(1.0)})]
    totals = [float(criterion.total((), masks, jnp.int32(step))[0]) for step in range(10)]
    assert totals == [4.5] * 3 + [3.0] * 7
    _, log = criterion.total((), masks, jnp.int32(0))
    assert log["mask"] == 2.0 and log["mask_weight"] == 1.5  # losses are logged as they are
    assert "mask_weight" not in methods.build(config()).criterion.total((), masks, jnp.int32(0))[1]


@pytest.mark.parametrize(
    ("step", "refused"), [(40, False), (60, True), (99, True), (100, False), (150, False)]
)
def test_more_steps_do_not_bring_the_weight_back(tmp_path, step, refused):
    """100 steps, the first 50 biased, become 200, the first 100 biased."""
    made = config("bias")
    made.train.steps = 200
    changed = {"train.steps": (100, 200)}
    check = functools.partial(setup._check_mask_weight, tmp_path, made, changed, step)
    if refused:
        with pytest.raises(ValueError, match=f"is at step {step}, where its masks no longer have"):
            check()
    else:
        check()


def test_the_weight_of_masks_touches_no_other_loss():
    losses = {"classification": jnp.float32(1.0), "box": jnp.float32(3.0)}
    terms = Terms(losses, jnp.ones((1, 1)), {})
    criterion = methods.build(config("bias")).criterion
    masks = [MaskTerms({"mask": jnp.float32(2.0)})]
    total, _ = criterion.total([terms], masks, jnp.int32(0))
    assert total == 1.0 + 3.0 + 1.5 * 2.0


SUBSETS = [
    subset for count in range(6) for subset in itertools.combinations(maskplus_config.PARTS, count)
]


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_is_a_mask_head(pyramid, rois, subset):
    init = functools.partial(head(*subset).init, train=True, method=both)
    made = set(jax.eval_shape(init, jax.random.key(0), pyramid, rois, CLASSES)["params"])
    names = {"context": "image_context", "pyramid": "feature_refinement"}
    names |= {"boundary": "logit_refinement", "quasi": "auxiliary"}
    assert made & set(names.values()) == {names[part] for part in subset if part != "bias"}


def check_a_step(model, batch):
    """Trains a step and predicts; every parameter of a mask head learns."""
    variables = tiny.variables(model, batch)
    loss = quick(jax.value_and_grad(tiny.loss_function(model), has_aux=True))
    (total, (log, stats)), gradient = loss(
        variables["params"], variables.get("batch_stats", {}), batch, jax.random.key(0)
    )
    assert np.isfinite(total) and all(np.isfinite(v) for v in log.values())
    moved = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], gradient)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((moved, stats)))
    detect = quick(lambda v: model.apply(v, batch, method="detect"))
    found = detect({"params": moved, "batch_stats": stats})
    assert np.isfinite(found.masks).all() and found.valid.any()
    return log | {"total": total}, gradient


@pytest.mark.slow
def test_all_five_train_a_step_and_predict():
    log, gradient = check_a_step(methods.build(config(*PARTS)), tiny.batch())
    assert log["mask_auxiliary"] > 0 and log["mask_weight"] == 1.5
    for name, group in gradient["roi_heads"]["mask_head"].items():
        if name != "logit_refinement":  # all of it but its last layer waits for that to leave zero
            assert all(np.abs(x).sum() > 0 for x in jax.tree.leaves(group)), name


@pytest.mark.slow
@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_trains_a_step_and_predicts(subset):
    check_a_step(methods.build(config(*subset)), tiny.batch())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mr_rcnn", "cascade_mask_rcnn"])
@pytest.mark.parametrize("parts", [*((part,) for part in PARTS), tuple(PARTS)], ids="+".join)
def test_parts_work_in_other_methods(method, parts):
    check_a_step(methods.build(config(*parts, method=method)), tiny.batch())


@pytest.mark.parametrize("method", ["mr_rcnn", "cascade_mask_rcnn"])
def test_other_methods_have_every_part_in_every_mask_head(method):
    made = config(*PARTS, method=method)
    if method == "cascade_mask_rcnn":
        made.model.cascade.mask_heads = 3
    model, batch = methods.build(made), tiny.batch(1)
    init = functools.partial(model.init, method="losses")
    shapes = jax.eval_shape(init, jax.random.key(0), batch, jax.random.key(1), jnp.int32(0))
    heads = {k: v for k, v in shapes["params"]["roi_heads"].items() if "mask_head" in k}
    assert len(heads) == (2 if method == "mr_rcnn" else 3)
    assert all(set(maskplus.PARTS) <= set(group) for group in heads.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": (16, 8)}, "its last width must be 16"),
        ({"context": (0, 16)}, "context=.*allowed is a tuple of any number"),
        ({"context_level": 6}, "context_level=6: allowed is 2, 3, 4, 5"),
        ({"pyramid": "doubled", "mask_out": "pooled"}, "pyramid='doubled' is about"),
        ({"quasi": "half", "mask_out": "pooled"}, "quasi='half' is about"),
        ({"boundary_kernels": (3, 3)}, "has no effect with config.model.maskplus.boundary='none'"),
        ({"boundary_norm": "batch"}, "boundary_norm='batch' has no effect with"),
        ({"context_level": 3}, r"context_level=3 has no effect with .*context=\(\)"),
        ({"alpha_until": 0.2}, "alpha_until=0.2 has no effect with .*alpha=1.0"),
        ({"alpha": 1.5, "alpha_until": 0.0}, "alpha=1.5 has no effect with .*alpha_until=0"),
        ({"boundary": "better"}, "boundary='better': allowed is none, original, improved"),
        ({"boundary": "improved", "boundary_kernels": (5, 5)}, r"allowed is \(1, 3\) or \(3, 3\)"),
        ({"alpha": -1.0}, "alpha=-1.0: allowed is a number >= 0"),
        ({"alpha_until": 2.0}, "alpha_until=2.0: allowed is a number >= 0 and <= 1"),
    ],
)
def test_settings_without_meaning_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        methods.build(config(**changes))


REACHES = {  # a setting, another value, and what must be on for it to matter
    "context": ((24, 16), {}),
    "context_level": (3, {"context": (16,)}),
    "pyramid": ("pooled", {}),
    "boundary": ("improved", {}),
    "boundary_kernels": ((3, 3), {"boundary": "improved"}),
    "boundary_norm": ("batch", {"boundary": "improved"}),
    "quasi": ("half", {}),
    "mask_out": ("pooled", {}),
    "alpha": (1.5, {}),
}


@pytest.mark.parametrize("key", REACHES)
def test_every_setting_reaches_the_model(key):
    value, needs = REACHES[key]
    assert repr(methods.build(config(**needs))) != repr(
        methods.build(config(**needs, **{key: value}))
    )


@pytest.mark.parametrize("method", ["mask_rcnn", "mr_rcnn", "cascade_mask_rcnn"])
def test_parts_compute_in_the_models_dtype_with_its_norm(method):
    made = config(*PARTS, method=method)
    made.model.dtype, made.model.mask_head.norm = "bfloat16", "group_norm"
    head = methods.build(made).roi_heads.mask_head
    parts = [head.image_context, head.feature_refinement, head.logit_refinement]
    assert {part.keywords["dtype"] for part in (*parts, head.auxiliary_branch)} == {
        jnp.dtype("bfloat16")
    }
    assert head.auxiliary_branch.keywords["norm"] is norms.GroupNorm


def test_context_never_sees_padding_whatever_the_conventions(pyramid, rois):
    """As torchvision's: RoIs may reach into the padding; the image does not."""
    made = config("context", context_level=3)
    made.model.ignore_padding = False
    module = methods.build(made).roi_heads.mask_head.image_context(name="image_context")
    variables = variables_of(module, pyramid, 14)
    rows = jnp.arange(64 // 8) * 8
    inside = (rows < pyramid.image_size[:, :1])[:, :, None] & (rows < pyramid.image_size[:, 1:])[
        :, None
    ]
    assert not inside.all()
    junk = pyramid.levels[1] + 1e9 * ~inside[..., None]
    dirty = pyramid.replace(levels=(pyramid.levels[0], junk, *pyramid.levels[2:]))
    clean, same = (module.apply(variables, p, 14) for p in (pyramid, dirty))
    np.testing.assert_array_equal(clean, same)


ROWS = {  # what they change
    "table1.base": {},
    "table1.cf_256_256": {"context": (256, 256)},
    "table1.cf_256_256_256": {"context": (256, 256, 256)},
    "table1.cf_512_256_256": {"context": (512, 256, 256)},
    "table1.cf_720_512_512_256": {"context": (720, 512, 512, 256)},
    "table2.dpm": {"pyramid": "pooled"},
    "table3.original": {"boundary": "original"},
    "table3.improved": {"boundary": "improved"},
    "table4.half": {"mask_out": "pooled"},
    "table4.qml_half": {"quasi": "half"},
    "table4.qml_double": {"quasi": "double"},
    "table5.bt": {"alpha": 1.5},
    "table6.bt": {"alpha": 1.5},
}
ALL = {"context": (720, 512, 512, 256), "pyramid": "pooled", "boundary": "improved"}
ALL |= {"quasi": "half", "alpha": 1.5}
ROWS |= dict.fromkeys(("all", "table7.maskplus", "table7.maskplus_plus", "maskplus_plus"), ALL)
ROWS |= {f"table{number}.base": {} for number in range(1, 8)}


def test_rows_are_the_papers():
    plain = dict(common.maskplus())
    assert set(maskplus_config.ROWS) == set(ROWS)
    for row, changes in ROWS.items():
        made = maskplus_config.get_config(f"r50,{row}")
        assert dict(made.model.maskplus) == {**plain, **changes}, row
        assert (made.method == "cascade_mask_rcnn") == row.endswith("maskplus_plus")
        assert made.model.cascade.mask_heads == 1
    assert maskplus_config.get_config("r50,mmdet,maskplus_plus").model.cascade.mask_heads == 1


@pytest.mark.parametrize("method", ["mask_rcnn", "mr_rcnn", "cascade_mask_rcnn"])
def test_layers_of_classes_are_known(method):
    """Those whose shapes change with the number of classes; other layers of the same part start anew with them."""
    made = config(*PARTS, method=method)
    few = convert.shapes(made)
    made.model.num_classes += 1
    changed = {path for path, shape in convert.shapes(made).items() if shape != few[path]}
    known = methods.class_layers(made)
    assert changed and all(paths.matches(path.partition("/")[2], known) for path in changed)


@pytest.mark.parametrize("method", ["mask_rcnn", "cascade_mask_rcnn"])
def test_what_only_training_needs_may_stay_behind(method):
    made = config("quasi", method=method)
    theirs = {path: np.zeros(shape, np.float32) for path, shape in convert.shapes(made).items()}
    made.model.maskplus.quasi = "none"
    ours = {path: value.shape for path, value in theirs.items() if "/auxiliary/" not in path}
    copies, alone = methods.copies(made), methods.dispensable(made)
    start = starting.of_run(theirs, ours, copies=copies, dispensable=alone)
    assert set(start.values) == set(ours) != set(theirs)
    assert any(
        line.startswith(f"left     {len(theirs) - len(ours)}: for training alone")
        for line in start.told
    )


def test_every_mask_head_of_a_cascade_may_lack_its_parts():
    made = config(method="cascade_mask_rcnn")
    copies = methods.copies(made)
    assert {f"roi_heads/mask_head_{i}/{part}" for i in range(3) for part in maskplus.PARTS} <= set(
        copies
    )


def test_what_a_trained_mask_rcnn_lacks_begins_anew():
    """In every mask head; the refining one is a copy of the other, of its fresh parts too."""
    made = config(*PARTS, method="mr_rcnn")
    ours = convert.shapes(made)
    rng = np.random.default_rng(0)
    values = {path: rng.normal(size=shape).astype(np.float32) for path, shape in ours.items()}
    new = {path for path in values if any(f"/{part}/" in path for part in maskplus.PARTS)}
    refining = {path for path in values if "refine_" in path or "/flow/" in path}
    plain = {path: v for path, v in values.items() if path not in new | refining}
    start = starting.of_run(plain, ours, copies=methods.copies(made))
    flow = {path for path in ours if "/flow/" in path}
    assert set(start.values) == set(plain)
    assert set(start.initial) == (new - refining) | flow
    params, _ = start.complete({path: values[path] for path in start.initial})
    heads = params["roi_heads"]
    jax.tree.map(np.testing.assert_array_equal, heads["refine_mask_head"], heads["mask_head"])


def test_a_config_of_before_has_no_part():
    made = config()
    del made.model.maskplus
    head = methods.build(made).roi_heads.mask_head
    fields = ("image_context", "feature_refinement", "logit_refinement", "auxiliary_branch")
    assert head.upsample and not any(getattr(head, field) for field in fields)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("parts=context+mask", "'mask' is not a part; allowed are context, pyramid"),
        ("parts=", "'' is not a part"),
        ("table1.base,parts=quasi", "a row has parts of its own"),
        ("table8.base", "And of maskplus: all, table1.base"),
    ],
)
def test_mistyped_arguments_are_told_what_there_is(arg, message):
    with pytest.raises(ValueError, match=message):
        maskplus_config.get_config(arg)


def test_the_schedule_of_maskplus_plus_is_half_as_long_again():
    plus = maskplus_config.get_config("recipe=maskplus,r101,2x,maskplus_plus,pretrained")
    assert (plus.train.steps, plus.optim.milestones) == (540_000, (360_000, 480_000))
    assert (plus.train.batch_size, plus.optim.lr) == (8, 0.01)
    assert plus.method == "cascade_mask_rcnn"
