"""What a Mask Refining R-CNN starts with: a trained Mask R-CNN twice, or an error that says what to do."""

import functools

import numpy as np
import pytest

from configs import common
from configs import mr_rcnn as mr_rcnn_config
from jaxseg import weights
from jaxseg.data.sources import Category
from jaxseg.training import checkpoints, init_from, setup
from jaxseg.weights import convert, run
from tests.methods import tiny

CATEGORIES = tuple(Category(i, f"class {i}") for i in range(tiny.CLASSES))
OTHERS = tuple(Category(i, f"thing {i}") for i in range(tiny.CLASSES))
VANILLA = ("backbone", "fpn", "rpn", "roi_heads/box_head", "roi_heads/mask_head")


def make_config(method="mr_rcnn", source="", **settings):
    made = tiny.config()
    made.method, made.init_from = method, str(source)
    made.update_from_flattened_dict(settings)
    return made


@functools.cache
def every_shape():
    return convert.shapes(make_config())


def shapes(config):
    """The shapes of the variables, by path; the full model is traced once for all."""
    absent = [] if config.method == "mr_rcnn" else ["/refine_", "/flow/"]
    absent += [] if config.model.refine.reg else ["/refine_box_head/deltas/"]
    return {p: s for p, s in every_shape().items() if not any(part in p for part in absent)}


def values(config, scale=1.0):
    """Values of every variable by path, each of its own."""
    return {
        path: scale * np.random.default_rng(i).random(shape, np.float32)
        for i, (path, shape) in enumerate(sorted(shapes(config).items()))
    }


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """Makes the run of a config, once, with one checkpoint."""

    @functools.cache
    def make(method="mask_rcnn", missing="", **settings):
        config, folder = make_config(method, **settings), tmp_path_factory.mktemp("run")
        made = values(config)
        initial = {path: "the file has none" for path in made if missing and missing in path}
        report = weights.Report("", {}, initial=initial)
        filled = convert.Filled(made, report, config, None, {})
        run.write(folder, filled.complete(made), CATEGORIES, "a file")
        return folder

    return make


def start(config, categories=CATEGORIES):
    """(Start, values by path after it) of a run of `config`, as it is planned."""
    found = init_from.start(config, shapes(config), categories)
    params, stats = found.complete(values(config, -1.0))
    return found, convert.flat({"params": params, "batch_stats": stats})


def assert_refining_heads_are_the_others(made):
    refined = [path for path in made if "/refine_" in path]
    assert len(refined) == 8 + 6
    for path in refined:
        np.testing.assert_array_equal(made[path], made[path.replace("refine_", "")], err_msg=path)


def test_a_trained_mask_rcnn_twice(make_run):
    source = make_run()
    found, made = start(make_config(source=source, needs_heads=common.HEADS))
    theirs = checkpoints.restore_for_eval(source)[2]
    for path, value in convert.flat(theirs).items():
        np.testing.assert_array_equal(made[path], value, err_msg=path)
    assert_refining_heads_are_the_others(made)
    assert found.fresh == [f"params/roi_heads/flow/conv/{leaf}" for leaf in ("bias", "kernel")]
    assert [line for line in found.told if line.startswith(("copied", "initial"))] == [
        "copied   8: roi_heads/refine_box_head starts as a copy of roi_heads/box_head",
        "copied   6: roi_heads/refine_mask_head starts as a copy of roi_heads/mask_head",
        "initial  2: that run has none (roi_heads/flow)",
    ]


def test_for_other_classes_both_heads_have_the_same_new_layers(make_run):
    found, made = start(make_config(source=make_run()), OTHERS)
    assert_refining_heads_are_the_others(made)
    new = {path.rpartition("/")[0].removeprefix("params/roi_heads/") for path in found.initial}
    assert new == {"flow/conv", "box_head/classes", "box_head/deltas", "mask_head/predictor"}
    assert (made["params/roi_heads/box_head/classes/kernel"] <= 0).all()
    assert (made["params/roi_heads/box_head/fc0/kernel"] >= 0).all()


def test_frozen_heads_keep_trained_values_or_are_refused(make_run):
    config = make_config(source=make_run(), freeze=VANILLA)
    start(config)
    message = (
        r"would stay random: roi_heads/box_head/classes, roi_heads/box_head/deltas, "
        r"roi_heads/mask_head/predictor\. Leave them out of config.freeze .*freeze_vanilla"
    )
    with pytest.raises(ValueError, match=message):
        start(config, OTHERS)


def test_half_a_refining_head_is_refused(make_run):
    config = make_config(source=make_run("mr_rcnn", **{"model.refine.reg": False}))
    message = (
        r"roi_heads/refine_box_head is there without roi_heads/refine_box_head/deltas\. .*"
        r"config.model.refine.reg is False there and True here"
    )
    with pytest.raises(ValueError, match=message):
        start(config)
    assert not start(make_config(source=config.init_from, **{"model.refine.reg": False}))[0].fresh


def test_a_refining_head_that_is_too_much_is_refused(make_run):
    config = make_config(source=make_run("mr_rcnn"), **{"model.refine.reg": False})
    with pytest.raises(
        ValueError, match=r"refine_box_head/deltas/bias is of shape \(12,\) there and absent here"
    ):
        start(config)


def test_a_mask_rcnn_does_not_start_from_a_refining_one(make_run):
    config = make_config("mask_rcnn", make_run("mr_rcnn"))
    message = "is of method='mr_rcnn', and this config has method='mask_rcnn'"
    with pytest.raises(ValueError, match=message):
        start(config)


def test_heads_that_nobody_trained_are_none(make_run):
    """An import of a backbone's file is a run, too."""
    source = make_run(missing="heads/")
    config = make_config(source=source, freeze=VANILLA[:3])
    assert start(config)[0].told[-1].startswith("initial  14: as the imported file had none")
    with pytest.raises(ValueError, match=r"would stay random: .*roi_heads/box_head/fc0"):
        start(make_config(source=source, freeze=VANILLA))
    config.needs_heads = common.HEADS
    with pytest.raises(ValueError, match="no trained roi_heads/box_head, roi_heads/mask_head, and"):
        start(config)


@pytest.mark.parametrize("part", ["rpn", "roi_heads/box_head", "roi_heads/mask_head"])
def test_every_part_of_a_mask_rcnn_must_be_trained(make_run, part):
    """A Faster R-CNN has no mask head."""
    config = make_config(source=make_run(missing=f"/{part}/"), needs_heads=common.HEADS)
    with pytest.raises(ValueError, match=f"which has no trained {part}, and this config"):
        start(config)


def test_a_run_goes_on_with_the_refining_heads_that_it_has(make_run):
    """What differs is named by settings, not by shapes."""
    folder = make_run("mr_rcnn", **{"model.refine.reg": False})
    config = make_config(**{"model.refine.align": "roi"})
    is_start = functools.partial(setup._is_start, config, shapes(config), CATEGORIES)
    found = setup._differences(folder, config, None)
    message = (
        r"config.model.refine.align is 'shape' there and 'roi' here; config.model.refine.reg is False there and True "
        r"here\. It cannot go on with these: put them back, or choose another --workdir\.$"
    )
    with pytest.raises(
        ValueError, match=message
    ):  # it is no start: half a refining head is refused
        setup._check_same_model(folder, found, is_start)


@pytest.mark.parametrize(
    ("before", "after", "possible"),
    [("mask_rcnn", "mr_rcnn", True), ("mr_rcnn", "mask_rcnn", False)],
)
def test_another_method_is_advised_to_start_from_a_run_only_where_it_can(
    make_run, before, after, possible
):
    config = make_config(after)
    assert setup._is_start(config, shapes(config), CATEGORIES, make_run(before)) == possible


@pytest.mark.parametrize(
    ("arg", "needed"),
    [
        ("r50", True),
        ("table3.base", True),
        ("table4.cls,small", True),
        ("end_to_end", False),
        ("end_to_end,small", False),
        ("runlocal", False),
        ("runlocal=True", False),
        ("freeze_vanilla,runlocal", True),
        ("2x,small", True),
        ("3x,end_to_end", False),
    ],
)
def test_which_rows_need_trained_heads(arg, needed):
    config = mr_rcnn_config.get_config(arg)
    assert config.needs_heads == (common.HEADS if needed else ())
    assert (config.train.steps <= 10) == ("runlocal" in arg)


@pytest.mark.parametrize("arg", ["2x", "schedule=3x", "r50,maskplus,2x"])
def test_a_schedule_that_would_be_ignored_is_refused(arg):
    message = r"argument [23]x: .* trains 9,000 steps.* --config.train.steps=.* end_to_end"
    with pytest.raises(ValueError, match=message):
        mr_rcnn_config.get_config(arg)
    assert mr_rcnn_config.get_config(f"{arg},end_to_end").train.steps >= 180_000


@pytest.mark.parametrize("arg", ["x101", "backbone=x101,root=/data/x101", "root=x101,x101"])
def test_the_papers_name_of_the_deepest_backbone(arg):
    made = mr_rcnn_config.get_config(arg)
    assert made.model.backbone.groups == 32 and "32x8d" not in made.data.root


def test_one_row_at_a_time():
    with pytest.raises(ValueError, match=r"table3.rm and table4.cls: both say what row is"):
        mr_rcnn_config.get_config("table3.rm,table4.cls")
    with pytest.raises(
        ValueError, match=r"arguments r50 and r101: both say what backbone is; give one of them\.$"
    ):
        mr_rcnn_config.get_config("r50,r101")
    with pytest.raises(ValueError, match=r"Unknown.*And of mr_rcnn: full, table3.base"):
        mr_rcnn_config.get_config("table6")
