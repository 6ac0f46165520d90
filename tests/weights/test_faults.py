"""Files that do not fit are refused in one message that names what is wrong."""

import numpy as np
import pytest

from jaxseg import weights
from jaxseg.weights import convert, layouts
from tests.weights import foreign

MODEL = "maskrcnn_resnet18_fpn"
CLS = "roi_heads.box_predictor.cls_score"


def fill(state_dict, config=None, **options):
    like = None if "like" in options else convert.shapes(foreign.config(MODEL))
    return layouts.fill(state_dict, config or foreign.config(MODEL), **{"like": like, **options})


def without(*names):
    return {n: a for n, a in foreign.torchvision(MODEL).items() if n not in names}


def test_a_missing_array():
    with pytest.raises(ValueError) as error:
        fill(without("rpn.head.cls_logits.weight", "backbone.body.bn1.running_var"))
    text = str(error.value)
    assert "rpn.head.cls_logits.weight is missing; params/rpn/head/objectness/kernel needs" in text
    assert "of shape (3, 32, 1, 1)" in text
    assert "backbone.body.bn1.running_var is missing" in text


def test_an_array_of_another_shape():
    state_dict = foreign.torchvision(MODEL)
    state_dict["roi_heads.box_head.fc6.weight"] = np.zeros((128, 32 * 14 * 14), np.float32)
    message = (
        r"roi_heads.box_head.fc6.weight is \(128, 6272\) in the file; "
        r"params/roi_heads/box_head/fc0/kernel needs \(128, 1568\)"
    )
    with pytest.raises(ValueError, match=message):
        fill(state_dict)


def test_an_array_that_the_model_has_no_place_for():
    extra = {"roi_heads.mask_head.4.0.weight": np.zeros((32, 32, 3, 3), np.float32)}
    state_dict = foreign.torchvision(MODEL) | extra
    with pytest.raises(ValueError, match=r"mask_head.4.0.weight \(32, 32, 3, 3\) has no place"):
        fill(state_dict)
    found = fill(state_dict, ignore=[r"roi_heads\.mask_head\.4\..*"])
    assert found.report.ignored == {"roi_heads.mask_head.4.0.weight": "it is not wanted (ignore)"}


@pytest.mark.parametrize(("key", "value"), [("mask_out", "pooled"), ("pyramid", "doubled")])
def test_a_layer_that_a_setting_leaves_out(key, value):
    config = foreign.config(MODEL)
    config.model.maskplus[key] = value
    deconvolution = "roi_heads.mask_predictor.conv5_mask"
    with pytest.raises(ValueError) as error:
        fill(foreign.torchvision(MODEL), config, like=convert.shapes(config))
    for leaf in ("weight (32, 32, 2, 2)", "bias (32,)"):
        fault = f"has no place in this model: config.model.maskplus.{key}={value!r} leaves it out"
        assert f"{deconvolution}.{leaf} {fault}" in str(error.value)
    ignore = [rf"{deconvolution}\..*"]
    found = fill(foreign.torchvision(MODEL), config, like=convert.shapes(config), ignore=ignore)
    assert len(found.report.ignored) >= 2


def test_a_layer_that_others_take_the_place_of():
    """BRefine has stages, which begin anew, and no deconvolution."""
    config = foreign.config(MODEL)
    config.model.mask_head.name = "brefine"
    found = fill(foreign.torchvision(MODEL), config, like=convert.shapes(config))
    left = {n for n, why in found.report.ignored.items() if why == "stages take its place"}
    deconvolution = "roi_heads.mask_predictor.conv5_mask"
    assert left == {f"{deconvolution}.weight", f"{deconvolution}.bias"}
    assert all("/stage" in path for path in found.report.initial)


def test_a_file_without_a_mask_head_leaves_it_to_its_initialiser():
    """torchvision's Faster R-CNN: the same names but those of masks."""
    whole = foreign.torchvision(MODEL)
    state_dict = {n: a for n, a in whole.items() if not n.startswith("roi_heads.mask_")}
    assert len(state_dict) < len(whole)
    found = fill(state_dict)
    masks = {p for p in convert.shapes(foreign.config(MODEL)) if "/mask_head/" in p}
    assert found.report.initial == dict.fromkeys(masks, "the file has no mask head")
    assert set(found.values).isdisjoint(masks)
    del whole["roi_heads.mask_predictor.conv5_mask.weight"]
    with pytest.raises(ValueError, match=r"conv5_mask\.weight is missing"):  # half of one
        fill(whole)


def test_ten_faults_are_listed_and_the_others_counted():
    norms = [n for n in foreign.torchvision(MODEL) if ".running_" in n]
    with pytest.raises(ValueError) as error:
        fill(without(*norms))
    assert str(error.value).count("is missing") == 10
    assert f"and {len(norms) - 10} more" in str(error.value)


def test_one_array_in_two_spellings():
    state_dict = foreign.torchvision(MODEL)
    state_dict["rpn.head.conv.weight"] = state_dict["rpn.head.conv.0.0.weight"]
    with pytest.raises(ValueError, match=r"rpn.head.conv.0.0.weight is there in two spellings"):
        fill(state_dict)


def test_another_model():
    with pytest.raises(ValueError, match="does not fit the model of the config"):
        fill(foreign.torchvision("maskrcnn_resnet50_fpn"))


@pytest.mark.parametrize(
    "function, state_dict, wanted",
    [
        (
            "from_detectron2",
            {"backbone.body.conv1.weight": 0},
            "not detectron2's.*from_torchvision",
        ),
        ("from_torchvision", {"backbone.bottom_up.stem": 0}, "not torchvision's.*from_detectron2"),
        ("from_torchvision", {"roi_head.bbox_head.fc_cls.bias": 0}, "use from_mmdet"),
        ("from_mmdet", {"bbox_head.fc_cls.weight": 0}, "MMDetection 1.x"),
        ("from_any", {"mask_head.conv_logits.bias": 0}, "MMDetection 1.x"),
        ("from_any", {"encoder.0.weight": 0}, "No known layout: the arrays are encoder.0.weight"),
        ("from_any", {}, "No known layout: the arrays are nothing"),
        ("from_torchvision", {"backbone.body.x": 0}, "cls_score.bias, one number a class, is miss"),
    ],
)
def test_a_wrong_layout(function, state_dict, wanted):
    arrays = {n: np.zeros(3, np.float32) for n in state_dict}
    with pytest.raises(ValueError, match=wanted):
        getattr(layouts, function)(arrays, foreign.config(MODEL))


@pytest.mark.parametrize("layout", ["torchvision", "detectron2", "mmdet"])
def test_all_classes_or_none_or_some(layout):
    state_dict = foreign.torchvision(MODEL)
    if layout != "torchvision":
        state_dict = getattr(foreign, layout)(state_dict)
    config = foreign.config(MODEL)
    every = fill(state_dict, config).values
    head = "params/roi_heads/box_head"
    config.model.num_classes = 2
    some = fill(state_dict, config, classes=(3, 1), like=_shapes(2)).values
    np.testing.assert_array_equal(
        some[f"{head}/classes/kernel"], every[f"{head}/classes/kernel"][:, [3, 1, 5]]
    )
    boxes = every[f"{head}/deltas/bias"].reshape(5, 4)
    np.testing.assert_array_equal(some[f"{head}/deltas/bias"], boxes[[3, 1]].reshape(-1))
    masks = "params/roi_heads/mask_head/predictor/kernel"
    np.testing.assert_array_equal(some[masks], every[masks][:, [3, 1]])
    config.model.num_classes = 9
    none = fill(state_dict, config, classes="none", like=_shapes(9))
    assert set(none.report.initial) == {
        f"params/roi_heads/{layer}/{leaf}"
        for layer in ("box_head/classes", "box_head/deltas", "mask_head/predictor")
        for leaf in ("kernel", "bias")
    }
    assert len(none.report.ignored) == 6 and none.classes is None


def test_one_box_for_all_classes():
    state_dict, config = foreign.detectron2(foreign.torchvision(MODEL)), foreign.config(MODEL)
    config.model.box_head.class_agnostic = True
    shapes = {"params/roi_heads/box_head/deltas/kernel": (128, 4)}
    shapes["params/roi_heads/box_head/deltas/bias"] = (4,)
    like = {**convert.shapes(foreign.config(MODEL)), **shapes}
    with pytest.raises(ValueError, match=r"bbox_pred.bias is \(20,\) in the file; .* needs \(4,\)"):
        fill(state_dict, config, like=like)
    for leaf in ("weight", "bias"):
        name = f"roi_heads.box_predictor.bbox_pred.{leaf}"
        state_dict[name] = state_dict[name][:4]
    values = fill(state_dict, config, like=like).values
    np.testing.assert_array_equal(
        values["params/roi_heads/box_head/deltas/kernel"],
        state_dict["roi_heads.box_predictor.bbox_pred.weight"].T,
    )


def _shapes(classes):
    """The shapes of the model with another number of classes."""
    sizes = {6: classes + 1, 20: 4 * classes, 5: classes}
    return {
        path: tuple(sizes.get(n, n) if _is_class_layer(path) else n for n in shape)
        for path, shape in convert.shapes(foreign.config(MODEL)).items()
    }


def _is_class_layer(path):
    return any(f"/{name}/" in path for name in ("classes", "predictor", "box_head/deltas"))


def test_background_is_the_last_class_of_ours():
    state_dict = foreign.torchvision(MODEL)
    ours = fill(state_dict).values["params/roi_heads/box_head/classes/bias"]
    np.testing.assert_array_equal(ours, np.roll(state_dict[f"{CLS}.bias"], -1))


def test_a_ranked_model_leaves_background_behind():
    """It has one sigmoid a class."""
    state_dict, config = foreign.torchvision(MODEL), foreign.config(MODEL)
    config.model.criterion.name = "rank_sort"
    found = fill(state_dict, config, like=convert.shapes(config))
    ours = found.values["params/roi_heads/box_head/classes/bias"]
    np.testing.assert_array_equal(ours, state_dict[f"{CLS}.bias"][1:])
    kernel = found.values["params/roi_heads/box_head/classes/kernel"]
    np.testing.assert_array_equal(kernel, state_dict[f"{CLS}.weight"][1:].T)


@pytest.mark.parametrize(
    "classes, num_classes, wanted",
    [
        (
            "all",
            7,
            "gives 5 of the 5 classes.*num_classes=7.*classes='none'.*set model.num_classes=5",
        ),
        ((0, 1), 3, "gives 2 of the 5.*a tuple of 3 numbers"),
        ((0, 5), 2, "has 5 classes, so that different numbers from 0 to 4"),
        ((1, 1), 2, "different numbers from 0 to 4"),
        ((), 2, "different numbers"),
        ("coco80", 80, "is for files with torchvision's 90 labels or COCO's 80"),
        ("some", 5, "classes='some': allowed are all, coco80, none"),
    ],
)
def test_classes_that_do_not_fit(classes, num_classes, wanted):
    config = foreign.config(MODEL)
    config.model.num_classes = num_classes
    with pytest.raises(ValueError, match=wanted):
        fill(foreign.torchvision(MODEL), config, classes=classes)


def test_the_number_of_classes_follows_from_the_choice():
    config = foreign.config(MODEL)
    config.model.num_classes = 0
    found = fill(foreign.torchvision(MODEL), config)
    assert found.config.model.num_classes == 5 and config.model.num_classes == 0


def test_some_classes_are_exported_without_the_others():
    config = foreign.config(MODEL)
    config.model.num_classes = 2
    found = fill(foreign.torchvision(MODEL), config, classes=(3, 1), like=_shapes(2))
    assert not found.rest
    made = found.complete({})
    back = weights.to_torchvision(made.params, made.batch_stats, config, rest=made.rest)
    bias = foreign.torchvision(MODEL)[f"{CLS}.bias"]
    np.testing.assert_array_equal(back[f"{CLS}.bias"], bias[[0, 4, 2]])


def test_a_model_that_torchvision_does_not_have():
    found = weights.from_torchvision(foreign.torchvision(MODEL), foreign.config(MODEL))
    found.params["roi_heads"]["refine_head"] = {"kernel": np.zeros(3)}
    with pytest.raises(
        ValueError, match="torchvision's layout have no place for params/roi_heads/re"
    ):
        weights.to_torchvision(found.params, found.batch_stats, foreign.config(MODEL))
    del found.params["roi_heads"]["refine_head"]
    rest = {"roi_heads.box_predictor.bbox_pred.bias": np.zeros(4)}
    with pytest.raises(ValueError, match=r"bbox_pred.bias is \(4,\) there and \(24,\) here"):
        weights.to_torchvision(found.params, found.batch_stats, foreign.config(MODEL), rest=rest)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("backbone.body.conv1.weight", np.nan, "conv1.weight has numbers in the file that are not"),
        ("backbone.body.bn1.running_var", -1.0, "running_var has negative variances in the file"),
        ("backbone.body.bn1.weight", True, "bn1.weight is of bool in the file"),
    ],
)
def test_numbers_that_no_model_has(name, value, wanted):
    state_dict = foreign.torchvision(MODEL)
    state_dict[name] = np.full(state_dict[name].shape, value)
    with pytest.raises(ValueError, match=wanted):
        fill(state_dict)


def test_patterns_that_are_none():
    for ignore, wanted in ((["("], "is no regular expression"), ("rpn", "allowed is a sequence")):
        with pytest.raises(ValueError, match=wanted):
            fill(foreign.torchvision(MODEL), ignore=ignore)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backbone.norm", "group_norm"),
        ("mask_head.norm", "group_norm"),
        ("box_head.class_agnostic", True),
        ("mask_head.class_agnostic", True),
        ("criterion.name", "rank_sort"),
    ],
)
def test_models_that_torchvision_cannot_load_are_not_exported(key, value):
    config = foreign.config(MODEL)
    config.model.update_from_flattened_dict({key: value})
    with pytest.raises(ValueError, match=f"config.model.{key}=.*: torchvision's Mask R-CNN has"):
        weights.to_torchvision({}, {}, config)
