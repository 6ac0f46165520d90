"""Weights for other classes: every class layer of every method gets its rows by name, before anything is compiled."""

import functools
import itertools

import numpy as np
import pytest

from jaxseg import methods, paths
from jaxseg.data.sources import Category
from jaxseg.training import class_rows, init_from, starting
from jaxseg.weights import convert, run
from jaxseg.weights.report import Report
from tests.methods import tiny

OURS, THEIRS = ("bus", "rider", "car"), ("car", "person", "train", "bus", "truck")
PAIRS = ((0, 3), (1, 1), (2, 0))  # with rider=person
MODELS = {  # between them every layer that depends on the classes
    "mr_rcnn": {
        "method": "mr_rcnn",
        "model.mask_head.name": "atmask",
        "model.maskplus.boundary": "improved",
        "model.maskplus.quasi": "half",
    },
    "ranked": {
        "model.mask_head.name": "brefine",
        "model.brefine.stages": 1,
        "model.criterion.name": "rank_sort",
        "model.maskplus.boundary": "original",
    },
    "cascade": {
        "method": "cascade_mask_rcnn",
        "model.box_head.class_agnostic": True,
        "model.cascade.mask_heads": 3,
    },
}
TRACED = [pytest.param(name, marks=[pytest.mark.slow] * (name == "cascade")) for name in MODELS]
NAMES = [*TRACED, "mask_rcnn"]


@functools.cache
def config(name, classes=len(OURS)):
    made = tiny.config()
    made.update_from_flattened_dict(MODELS.get(name, {}))
    made.model.num_classes = classes
    return made


@functools.cache
def shapes(name, classes):
    if name == "mask_rcnn":  # a part of the other, which is traced already
        whole = shapes("mr_rcnn", classes)
        parts = ("/refine_", "/flow/", "/threshold/", "/fusion/", "/logit_", "/auxiliary/")
        return {p: s for p, s in whole.items() if not any(part in p for part in parts)}
    return convert.shapes(config(name, classes))


def values(like, sign=1.0):
    return {
        path: sign * np.random.default_rng(i).uniform(0.1, 1.0, shape).astype(np.float32)
        for i, (path, shape) in enumerate(sorted(like.items()))
    }


def class_layers(name):
    patterns = methods.class_layers(config(name))
    like = shapes(name, len(OURS))
    return {p: s for p, s in like.items() if paths.matches(p.partition("/")[2], patterns)}


@pytest.mark.parametrize("name", TRACED)
def test_the_class_axes_are_those_that_grow_with_the_classes(name):
    few, many, layers = shapes(name, 3), shapes(name, 5), class_layers(name)
    assert set(few) == set(many)
    for path, shape in few.items():
        grown = np.subtract(many[path], shape)
        each = methods.class_axes(path) if path in layers else {}
        found = {axis: each.get(axis, 0) for axis in range(-len(shape), 0)}
        assert {axis: grown[axis] // 2 for axis in found} == found, path
    assert class_rows.resized(few, layers, 3, 5) == dict(many)


def expected(path, fresh, saved, pairs):
    """Class by class and entry by entry, with what is known of the layer's form."""
    made, (ours, theirs) = fresh.copy(), (len(OURS), len(THEIRS))
    layer, leaf = path.split("/")[-2:]
    if layer == "deltas":
        made, saved = made.reshape(-1, ours, 4), saved.reshape(-1, theirs, 4)
        for a, b in pairs:
            made[:, a] = saved[:, b]
        return made.reshape(fresh.shape)
    inner = "logit_refinement" in path
    one_by_one = [(a, b) for a, b in pairs]
    outputs = layer in ("classes", "predictor", "last", "conv0", "conv1") or leaf != "kernel"
    inputs = inner and leaf == "kernel"
    inputs_of = (
        one_by_one + [(ours + i, theirs + i) for i in range(fresh.shape[-2] - ours)]
        if inputs
        else []
    )
    rest = fresh.shape[-1] - ours
    outputs_of = one_by_one + [(ours + i, theirs + i) for i in range(rest)]
    if inputs and outputs:
        for (a, b), (c, d) in itertools.product(inputs_of, outputs_of):
            made[..., a, c] = saved[..., b, d]
    elif inputs:
        for a, b in inputs_of:
            made[..., a, :] = saved[..., b, :]
    else:
        for a, b in outputs_of:
            made[..., a] = saved[..., b]
    return made


@pytest.mark.parametrize(
    ("wish", "pairs"), [("by_name", PAIRS[::2]), ("by_name,rider=person", PAIRS)]
)
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_every_class_layer(name, wish, pairs):
    like, layers = shapes(name, 3), class_layers(name)
    saved, fresh = values(shapes(name, 5)), values(like, -1.0)
    rows, told = class_rows.between(wish, OURS, THEIRS, layers, saved)
    assert set(rows) == set(layers)
    start = starting.of_run(saved, like, copies=methods.copies(config(name)), rows=rows)
    params, stats = start.complete(fresh)
    made = convert.flat({"params": params, "batch_stats": stats})
    assert set(made) == set(like)
    changed = 0
    for path, value in made.items():
        grows = path in layers and methods.class_axes(path)
        right = expected(path, fresh[path], saved[path], pairs) if grows else saved[path]
        np.testing.assert_array_equal(value, right, err_msg=path)
        changed += bool(grows)
    assert changed >= 6
    fraction = [(made[p] < 0).any() for p in layers if methods.class_axes(p)]
    assert all(fraction) if len(pairs) < 3 else not any(fraction)
    assert start.fresh == ([p for p in rows if not rows[p].whole] if len(pairs) < 3 else [])
    assert told == (
        ["classes  2 of 3 start as those of their names", "initial  rows of classes: rider"]
        if len(pairs) < 3
        else ["classes  2 of 3 start as those of their names, rider as person"]
    )


def test_background_is_kept_where_both_have_one():
    """A softmax classifier has it as its last row, a ranking one has none."""
    path, chosen = "params/roi_heads/box_head/classes/kernel", (3, 1, 0)
    saved = {rest: np.arange(2 * (5 + rest), dtype=np.float32).reshape(2, -1) for rest in (0, 1)}
    for ours, theirs in itertools.product((0, 1), (0, 1)):
        fresh = np.full((2, 3 + ours), -1.0, np.float32)
        like, there = {path: fresh.shape}, {path: saved[theirs].shape}
        made = class_rows.of_layers(like, there, chosen, 5)[path].into(fresh, saved[theirs])
        np.testing.assert_array_equal(made[:, :3], saved[theirs][:, [3, 1, 0]])
        if ours:
            np.testing.assert_array_equal(made[:, 3], saved[1][:, 5] if theirs else [-1, -1])


def test_a_layer_of_another_form_is_not_taken():
    """Of one box for all classes: then the shapes are named, as those of any other difference."""
    path = "params/roi_heads/box_head/deltas/kernel"
    assert class_rows.of_layers({path: (8, 12)}, {path: (8, 4)}, (3, 1, 0), 5) == {}
    with pytest.raises(ValueError, match=r"is of shape \(8, 4\) there and of shape \(8, 12\) here"):
        starting.of_run({path: np.zeros((8, 4))}, {path: (8, 12)}, copies={})


def categories(names):
    return tuple(Category(i, name) for i, name in enumerate(names, 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a Mask R-CNN for THEIRS, and its variables."""
    folder, like = tmp_path_factory.mktemp("run"), shapes("mask_rcnn", 5)
    made = values(like)
    filled = convert.Filled(made, Report("", {}), config("mask_rcnn", 5), None, {})
    run.write(folder, filled.complete({}), categories(THEIRS), "a file")
    return folder, made


def from_run(folder, name, **settings):
    made = type(config(name))({**config(name).to_dict(), "init_from": str(folder)})
    made.update_from_flattened_dict(settings)
    return init_from.start(made, shapes(name, 3), categories(OURS))


def test_a_run_of_other_classes_and_refining_heads_that_copy_it(trained):
    folder, saved = trained
    made = from_run(folder, "mask_rcnn", init_classes="by_name,rider=person")
    kernel = "params/roi_heads/box_head/classes/kernel"
    fresh = values(shapes("mask_rcnn", 3), -1.0)
    params, _ = made.complete(fresh)
    np.testing.assert_array_equal(
        params["roi_heads"]["box_head"]["classes"]["kernel"], saved[kernel][:, [3, 1, 0, 5]]
    )
    assert made.told[-1] == "classes  2 of 3 start as those of their names, rider as person"
    refining = from_run(folder, "mr_rcnn", init_classes="by_name")
    params, _ = refining.complete(values(shapes("mr_rcnn", 3), -1.0))
    heads = params["roi_heads"]
    np.testing.assert_array_equal(
        heads["refine_box_head"]["classes"]["kernel"], heads["box_head"]["classes"]["kernel"]
    )
    taken = heads["refine_mask_head"]["predictor"]["bias"]
    there = saved["params/roi_heads/mask_head/predictor/bias"]
    np.testing.assert_array_equal(taken[[0, 2]], there[[3, 0]])
    assert taken[1] < 0


def test_starts_that_cannot_be_meant(trained):
    folder, _ = trained
    with pytest.raises(ValueError, match="would stay random: roi_heads/box_head/classes"):
        from_run(folder, "mask_rcnn", init_classes="by_name", freeze=("roi_heads/box_head",))
    whole = {"init_classes": "by_name,rider=person", "freeze": ("roi_heads/box_head",)}
    assert from_run(folder, "mask_rcnn", **whole).values
    with pytest.raises(ValueError, match=r"init_classes='by_name' .*init_from, which is empty"):
        from_run("", "mask_rcnn", init_classes="by_name")
    with pytest.raises(
        ValueError, match=r"'persona' is none of the classes of the weights \(did you mean person"
    ):
        from_run(folder, "mask_rcnn", init_classes="by_name,rider=persona")


def test_without_it_class_layers_start_anew(trained):
    made = from_run(trained[0], "mask_rcnn")
    assert set(made.initial) == set(class_layers("mask_rcnn")) and not made.rows


@pytest.mark.parametrize(
    ("text", "ours", "theirs", "chosen"),
    [
        ("by_name", "abc", "cab", (1, 2, 0)),
        ("by_name", "abc", "xb", (-1, 1, -1)),
        ("by_name,a=x", "abc", "xb", (0, 1, -1)),
        (" by_name , a = x , c = x ", "abc", "xb", (0, 1, 0)),
        ("by_name,a=c", "abc", "bca", (2, 0, 1)),  # nothing needs a stand-in
    ],
)
def test_choices(text, ours, theirs, chosen):
    assert class_rows.choose(text, list(ours), list(theirs)) == chosen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name", "allowed are .*by_name,rider=person"),
        ("rider=person", "allowed are"),
        ("by_name,rider", "'rider' is not OURS=THEIRS"),
        ("by_name,=person", "'=person' is not OURS=THEIRS"),
        ("by_name,rider=person,rider=car", "two sources for 'rider'; give one"),
        ("by_name,car=truck", "two sources for 'car', which the weights have themselves"),
        (
            "by_name,ridr=person",
            r"'ridr' is none .* of the data set \(did you mean rider\?\): bus, rider, car\.",
        ),
        (
            "by_name,rider=cyclist",
            "'cyclist' is none .* of the weights: car, person, train, bus, truck",
        ),
    ],
)
def test_mistakes_list_what_there_is(text, message):
    with pytest.raises(ValueError, match=f"config.init_classes=.*{message}"):
        class_rows.choose(text, OURS, THEIRS)


def test_classes_without_any_counterpart_are_refused():
    with pytest.raises(ValueError, match=r"no class of the data set \(cell\) .*\(car, person,"):
        class_rows.choose("by_name", ["cell"], THEIRS)
    with pytest.raises(ValueError, match="allowed are"):
        class_rows.parse(("by_name",))
