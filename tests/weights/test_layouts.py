"""Files of all layouts become the same variables, with nothing lost and nothing made up."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from jaxseg import weights
from jaxseg.modeling import norms
from jaxseg.training import init_from
from jaxseg.weights import convert, layouts
from tests.weights import foreign

R50, V2, R18 = "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2", "maskrcnn_resnet18_fpn"
MODELS = (R50, V2, R18)


@functools.cache
def imported(model):
    return weights.from_torchvision(foreign.torchvision(model), foreign.config(model))


def variables(found):
    return convert.flat({"params": found.params, "batch_stats": found.batch_stats})


def assert_same(found, wanted):
    found, wanted = variables(found), variables(wanted)
    assert set(found) == set(wanted)
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("model", MODELS)
def test_every_array_is_used_and_every_variable_filled(model):
    state_dict, found = foreign.torchvision(model), imported(model)
    counters = {n for n in state_dict if n.endswith("num_batches_tracked")}
    assert set(found.report.used) == set(state_dict) - counters
    assert set(found.report.ignored) == counters
    assert not found.report.initial and not found.report.constant
    shapes = convert.shapes(foreign.config(model))
    assert {path: value.shape for path, value in variables(found).items()} == shapes
    assert {value.dtype for value in variables(found).values()} == {np.dtype(np.float32)}
    assert sorted(found.report.used.values()) == sorted(shapes)


def test_refining_heads_start_as_copies_of_the_files_heads():
    config = foreign.config(R18)
    config.method = "mr_rcnn"
    found = layouts.fill(foreign.torchvision(R18), config)
    copies = [p for p in found.values if "/refine_" in p]
    assert len(copies) == 8 + 12 and set(copies) == set(found.report.copied)
    for path in copies:
        np.testing.assert_array_equal(found.values[path], found.values[path.replace("refine_", "")])
    assert set(found.report.initial) == {
        f"params/roi_heads/flow/conv/{leaf}" for leaf in ("kernel", "bias")
    }
    for head, count in (("box", 8), ("mask", 12)):
        line = f"copied   {count}: roi_heads/refine_{head}_head starts as a copy of roi_heads/{head}_head"
        assert line in str(found.report)


def test_class_layers_that_start_anew_are_the_same_in_refining_heads():
    config = foreign.config(R18)
    config.method = "mr_rcnn"
    found = layouts.fill(foreign.torchvision(R18), config, classes="none")
    fresh = {path: np.full(1, i) for i, path in enumerate(found.report.initial)}
    made = variables(found.complete(fresh))
    assert set(made) == set(convert.shapes(config))
    for layer in ("box_head/classes", "box_head/deltas", "mask_head/predictor"):
        path = f"params/roi_heads/{layer}/kernel"
        assert made[path] is fresh[path]
        np.testing.assert_array_equal(made[path.replace("heads/", "heads/refine_")], fresh[path])


@pytest.mark.parametrize("heads", [True, False])
def test_a_file_without_heads_is_no_start_for_who_needs_them(tmp_path, heads):
    state_dict, config = foreign.torchvision(R18), foreign.config(R18)
    config.method = "mr_rcnn"
    like = convert.shapes(config)
    config.init_from, config.needs_heads = str(tmp_path / "file.safetensors"), common.HEADS
    weights.save_safetensors(
        config.init_from, state_dict if heads else foreign.backbone(state_dict)
    )
    if heads:
        assert (
            "params/roi_heads/refine_box_head/fc0/kernel"
            in init_from.start(config, like, ()).copied
        )
    else:
        with pytest.raises(
            ValueError, match=r"file.safetensors', which has no trained rpn, roi_heads"
        ):
            init_from.start(config, like, ())


def test_refining_heads_of_a_backbones_file_have_values_of_their_own():
    config = foreign.config(R18)
    config.method = "mr_rcnn"
    report = layouts.fill(foreign.backbone(foreign.torchvision(R18)), config).report
    assert not report.copied and "params/roi_heads/refine_box_head/fc0/kernel" in report.initial


@pytest.mark.parametrize("model", MODELS)
def test_there_and_back_is_the_same_file(model):
    state_dict, found = foreign.torchvision(model), imported(model)
    back = weights.to_torchvision(
        found.params, found.batch_stats, foreign.config(model), rest=found.rest
    )
    assert set(back) == set(state_dict)
    for name, array in state_dict.items():
        assert back[name].dtype == array.dtype and back[name].tobytes() == array.tobytes(), name


def test_without_the_rest_unread_rows_are_zero_and_our_values_come_back():
    config, found = foreign.config(R50), imported(R50)
    back = weights.to_torchvision(found.params, found.batch_stats, config)
    boxes = back["roi_heads.box_predictor.bbox_pred.weight"]
    assert not boxes[:4].any() and boxes[4:].any()
    assert_same(weights.from_torchvision(back, config), found)


@pytest.mark.parametrize("model", MODELS)
def test_other_libraries_give_the_same_variables(model):
    state_dict, config = foreign.torchvision(model), foreign.config(model)
    convs = config.model.rpn.convs
    detectron2 = foreign.detectron2(state_dict, rpn_convs=convs)
    found = weights.from_detectron2(detectron2, config)
    assert_same(found, imported(model))
    assert set(found.report.used) == set(detectron2)
    assert "from BGR to RGB" in str(found.report)
    mmdet = foreign.mmdet(state_dict, rpn_convs=convs)
    assert_same(weights.from_mmdet(mmdet, config), imported(model))


def test_detectron_gives_the_same_weights_and_folded_norms():
    state_dict, config = foreign.torchvision(R50), foreign.config(R50)
    blobs = foreign.caffe2(state_dict)
    found = weights.from_detectron2(blobs, config)
    ours, theirs = variables(found), variables(imported(R50))
    assert_same_except_norms(ours, theirs)
    ignored = {"pred_w", "pred_b", "conv1_w_momentum", "conv1_b"}
    assert set(blobs) - set(found.report.used) == set(found.report.ignored) <= ignored
    folded = {n for n in ours if n.endswith(("/mean", "/var"))}
    assert set(found.report.constant) == folded


def assert_same_except_norms(ours, theirs, only=""):
    kernels = [n for n in theirs if n.startswith("params/" + only)]
    assert kernels
    for path in kernels:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3, 0.0])
def test_a_folded_norm_is_exactly_scale_and_bias(epsilon):
    config = foreign.config(R50)
    config.model.backbone.norm_epsilon = epsilon
    blobs = foreign.caffe2_backbone(foreign.backbone(foreign.torchvision(R50)))
    found = layouts.fill(blobs, config, like=convert.shapes(foreign.config(R50)))
    stem = {
        leaf: found.values[f"batch_stats/backbone/stem/norm/{leaf}"]
        for leaf in ("scale", "bias", "mean", "var")
    }
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 8)).astype(np.float32)
    norm = norms.FrozenBatchNorm(epsilon=epsilon)
    y = jax.jit(norm.apply)({"batch_stats": stem}, jnp.asarray(x))
    wanted = jax.jit(lambda x: x * stem["scale"] + stem["bias"])(x)
    np.testing.assert_array_equal(stem["scale"], blobs["res_conv1_bn_s"])
    np.testing.assert_array_equal(y, wanted)


def test_old_spellings_and_wrappers_are_understood():
    old = foreign.renamed(
        foreign.without_counters(foreign.torchvision(R50)),
        [
            (r"(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1."),
            (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
            *(
                (rf"roi_heads\.mask_head\.{i}\.0", f"roi_heads.mask_head.mask_fcn{i + 1}")
                for i in range(4)
            ),
        ],
    )
    assert "rpn.head.conv.weight" in old
    config = foreign.config(R50)
    assert_same(weights.from_torchvision(old, config), imported(R50))
    for prefix in ("module.", "model.", "_orig_mod.module."):
        wrapped = {f"{prefix}{name}": array for name, array in old.items()}
        found = weights.from_torchvision(wrapped, config)
        assert_same(found, imported(R50))
        assert set(found.report.used) == set(wrapped)


BACKBONES = {
    "torchvision": lambda d: d,
    "caffe2": foreign.caffe2_backbone,
    "detectron2": lambda d: _bgr(foreign.detectron2_backbone(d)),
    "mmdet": lambda d: {f"backbone.{n}": a for n, a in d.items() if not n.startswith("fc.")},
}


def _bgr(state_dict):
    state_dict["stem.conv1.weight"] = state_dict["stem.conv1.weight"][:, ::-1]
    return {("linear." + n[3:] if n.startswith("fc.") else n): a for n, a in state_dict.items()}


@pytest.mark.parametrize("layout", BACKBONES)
def test_a_backbone_fills_the_backbone_and_nothing_else(layout):
    state_dict = BACKBONES[layout](foreign.backbone(foreign.torchvision(R50)))
    initial = {path: np.full(1, 3.0) for path in variables(imported(R50))}
    found = weights.from_any(state_dict, foreign.config(R50), initial=initial)
    assert found.report.layout == f"{layout}_backbone"
    ours, theirs = variables(found), variables(imported(R50))
    assert_same_except_norms(ours, theirs, only="backbone")
    for path in theirs:
        assert path.partition("/")[2].startswith("backbone/") == (path not in found.report.initial)
    assert all(ours[path] is initial[path] for path in found.report.initial)
    assert "fpn, roi_heads, rpn" in str(found.report)
    assert all("classifier" in why for n, why in found.report.ignored.items() if "fc" in n)
    if layout != "caffe2":
        for leaf in ("scale", "bias", "mean", "var"):
            path = f"batch_stats/backbone/stage4/block0/shortcut_norm/{leaf}"
            np.testing.assert_array_equal(ours[path], theirs[path])


def test_the_order_of_the_colours_is_the_files_or_what_is_said():
    state_dict = foreign.detectron2_backbone(foreign.backbone(foreign.torchvision(R50)))
    state_dict = {n: a for n, a in state_dict.items() if not n.startswith("fc.")}
    config, like = foreign.config(R50), convert.shapes(foreign.config(R50))

    def stem(source, **options):
        filled = layouts.fill(source, config, like=like, **options)
        return filled.values["params/backbone/stem/conv/kernel"]

    theirs = state_dict["stem.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(stem(state_dict), theirs[:, :, ::-1])
    np.testing.assert_array_equal(stem(state_dict, channels="rgb"), theirs)
    converted = weights.files.StateDict(state_dict, metadata={"__author__": "torchvision"})
    np.testing.assert_array_equal(stem(converted), theirs)
    with pytest.raises(ValueError, match="channels='gbr': allowed are auto, rgb and bgr"):
        stem(state_dict, channels="gbr")


def test_caffes_resnets_take_blue_first_in_mmdetection_too():
    state_dict = BACKBONES["mmdet"](foreign.backbone(foreign.torchvision(R50)))
    config, like = foreign.config(R50), convert.shapes(foreign.config(R50))
    path = "params/backbone/stem/conv/kernel"
    rgb = layouts.fill(state_dict, config, like=like).values[path]
    config.model.pixel_std, config.model.backbone.stride_in_1x1 = (1.0, 1.0, 1.0), True
    filled = layouts.fill(state_dict, config, like=like)
    np.testing.assert_array_equal(filled.values[path], rgb[:, :, ::-1])
    assert len(filled.report.notes) == 1 and "BGR" in filled.report.notes[0]


def test_detectron2s_own_names_may_have_folded_norms():
    state_dict = foreign.detectron2_backbone(foreign.backbone(foreign.torchvision(R50)))
    folded = {n: a for n, a in state_dict.items() if not re.search("running|tracked|fc", n)}
    config, like = foreign.config(R50), convert.shapes(foreign.config(R50))
    report = layouts.fill(folded, config, like=like).report
    assert len(report.constant) == 2 * 53 and set(report.used) == set(folded)


def test_group_norms_have_their_own_name_in_mmdetection():
    config = foreign.config(R50)
    config.model.backbone.norm = "group_norm"
    rows = layouts.BUILDERS["mmdet"](config).rows
    names = [row.find("backbone/stage2/block3/norm1") for row in rows]
    assert "backbone.layer2.3.gn1" in names


def test_linear_layers_after_convolutions_are_counted_with_what_is_between():
    config = foreign.config(V2)
    config.model.box_head.fcs = 2
    rows = layouts.BUILDERS["torchvision"](config).rows
    found = [row.find(f"roi_heads/box_head/fc{i}") for i in (0, 1) for row in rows]
    assert [n for n in found if n] == ["roi_heads.box_head.5", "roi_heads.box_head.7"]


def test_group_norms_are_not_taken_for_folded_ones():
    blobs = foreign.caffe2_backbone(foreign.backbone(foreign.torchvision(R50)))
    groups = {name.replace("_bn_", "_gn_"): array for name, array in blobs.items()}
    config, like = foreign.config(R50), convert.shapes(foreign.config(R50))
    with pytest.raises(ValueError, match=r"group norms.*norm='frozen_bn': set it to 'group_norm'"):
        layouts.fill(groups, config, like=like)
    config.model.backbone.norm = "group_norm"
    with pytest.raises(ValueError, match=r"folded batch norms.*set it to 'frozen_bn'"):
        layouts.fill(blobs, config, like=like)


def test_settings_that_the_weights_were_not_trained_with_are_told():
    config = foreign.config(R50)
    blobs = foreign.caffe2_backbone(foreign.backbone(foreign.torchvision(R50)))
    like = convert.shapes(config)
    note = layouts.fill(blobs, config, like=like).report.notes[0]
    assert "model.backbone.stride_in_1x1=True (the config has False)" in note
    assert "model.pixel_std=(1.0, 1.0, 1.0)" in note
    config.model.backbone.stride_in_1x1, config.model.pixel_std = True, (1.0, 1.0, 1.0)
    assert "BGR" in layouts.fill(blobs, config, like=like).report.notes[0]


def test_pixels_that_the_file_knows_otherwise_are_told():
    state_dict, config = foreign.detectron2(foreign.torchvision(R18)), foreign.config(R18)
    like = convert.shapes(config)
    state_dict["pixel_mean"] = np.asarray(config.model.pixel_mean[::-1]).reshape(3, 1, 1)
    state_dict["pixel_std"] = np.full((3, 1, 1), 7.0)
    notes = layouts.fill(state_dict, config, like=like).report.notes
    (told,) = (note for note in notes if note.startswith("The file says"))
    assert "pixel_std=[7.0, 7.0, 7.0], the config model.pixel_std=(58.395, 57.12, 57.375)" in told


def test_groups_and_deformable_convolutions():
    config = foreign.config(R50)
    backbone = config.model.backbone
    backbone.groups, backbone.width_per_group, backbone.deform = 2, 64, "v2"
    state_dict = foreign.torchvision(R50)
    for name, array in state_dict.items():  # twice the channels between, in two groups
        if re.search(r"layer.*\.(conv[12]|bn[12])\.(weight|bias|running)", name):
            state_dict[name] = np.concatenate([array, array])
        elif re.search(r"layer.*\.conv3\.", name):
            state_dict[name] = np.concatenate([array, array], axis=1)
    found = {}
    for layout in ("detectron2", "mmdet"):
        source = getattr(foreign, layout)(state_dict)
        for name in list(source):
            if re.search(r"(res[345]|layer[234])\.\d+\.conv2\.weight", name):
                source |= _offset(name.removesuffix(".weight"), layout, 2 * source[name].shape[1])
        found[layout] = weights.from_any(source, config)
        assert len(found[layout].report.used) == 307 + 2 * (4 + 6 + 3)
    assert_same(found["detectron2"], found["mmdet"])
    old = {n.replace(".conv_offset.", "_offset."): a for n, a in source.items()}
    assert set(old) != set(source)
    assert_same(weights.from_mmdet(old, config), found["mmdet"])
    conv = found["mmdet"].params["backbone"]["stage3"]["block0"]["conv2"]
    theirs = state_dict["backbone.body.layer3.0.conv2.weight"]
    np.testing.assert_array_equal(conv["kernel"], theirs.transpose(2, 3, 1, 0))
    assert conv["offset"]["kernel"].shape == (3, 3, 64, 27) and conv["offset"]["bias"][5] == 5

    plain = foreign.backbone(state_dict)
    report = layouts.fill(plain, config, like=convert.shapes(config)).report
    assert "backbone/stage2/block0/conv2/offset" in str(report)
    assert report.initial["params/backbone/stage4/block2/conv2/offset/bias"].endswith(
        "no such layer"
    )


def _offset(conv, layout, channels):
    """What deforms a convolution: a name of its own in each library."""
    module = f"{conv}_offset" if layout == "detectron2" else f"{conv}.conv_offset"
    kernel = np.random.default_rng(channels).normal(size=(27, channels, 3, 3))
    return {
        f"{module}.weight": kernel.astype(np.float32),
        f"{module}.bias": np.arange(27, dtype=np.float32),
    }
