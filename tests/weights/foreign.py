"""State dicts of other libraries at a small size, made from torchvision's own names and shapes.

Nothing here uses the tables of jaxseg.weights: the other layouts are torchvision's arrays under the names and in the
order that those libraries have them.
"""

from __future__ import annotations

import functools
import pathlib
import re
import zlib

import numpy as np

from configs import common

CLASSES = 5
SHRINK = 8  # of every width: 64 channels become 8
_COUNTS = {91: CLASSES + 1, 364: 4 * (CLASSES + 1)}


@functools.cache
def published(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model of torchvision's."""
    text = (pathlib.Path(__file__).parent / "torchvision_keys.txt").read_text()
    section = text.partition(f"[{model}]\n")[2].partition("\n[")[0]
    pairs = (line.partition(" ") for line in section.splitlines())
    return {name: tuple(int(n) for n in shape.split(",") if n) for name, _, shape in pairs}


def torchvision(model: str) -> dict[str, np.ndarray]:
    """A small one of that structure, with random values that follow from the names."""
    found = {}
    for name, shape in published(model).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            found[name] = np.asarray(7, np.int64)
            continue
        small = tuple(_COUNTS.get(n, n // SHRINK if n >= 64 else n) for n in shape)
        positive = name.endswith("running_var")
        values = rng.uniform(0.5, 2.0, small) if positive else rng.normal(0, 0.3, small)
        found[name] = values.astype(np.float32)
    return found


def config(model: str):
    """The config of `torchvision(model)`."""
    made = common.base()
    settings = made.model
    settings.num_classes = CLASSES
    settings.backbone.depth = 18 if "18" in model else 50
    settings.backbone.width = 64 // SHRINK
    settings.fpn.channels = settings.rpn.channels = 256 // SHRINK
    settings.box_head.channels = settings.mask_head.channels = 256 // SHRINK
    settings.box_head.fc_dim = 1024 // SHRINK
    if model.endswith("v2"):
        settings.backbone.norm = settings.fpn.norm = "batch_norm"
        settings.box_head.norm = settings.mask_head.norm = "batch_norm"
        settings.box_head.convs, settings.box_head.fcs, settings.rpn.convs = 4, 1, 2
    made.data.buckets = ((64, 64),)
    return made


def without_counters(state_dict):
    return {n: a for n, a in state_dict.items() if not n.endswith("num_batches_tracked")}


def renamed(state_dict, rules):
    """Each name by the first rule that fits; a rule is (pattern, replacement)."""
    found = {}
    for name, array in state_dict.items():
        rule = next((r for r in rules if re.match(r[0], name)), None)
        found[re.sub(rule[0], rule[1], name) if rule else name] = array
    assert len(found) == len(state_dict)
    return found


def detectron2_backbone(state_dict):
    """A torchvision ResNet under Detectron2's names; RGB as it was."""
    # The script that makes such files puts "stem." before all that is in no layer, the classifier too.
    rules = [(r"conv1\.", "stem.conv1."), (r"bn1\.", "stem.conv1.norm."), (r"fc\.", "stem.fc.")]
    for layer in range(1, 5):
        block, ours = rf"layer{layer}\.(\d+)\.", rf"res{layer + 1}.\1."
        rules += [
            (rf"{block}conv(\d)\.", rf"{ours}conv\2."),
            (rf"{block}bn(\d)\.", rf"{ours}conv\2.norm."),
            (rf"{block}downsample\.0\.", f"{ours}shortcut."),
            (rf"{block}downsample\.1\.", f"{ours}shortcut.norm."),
        ]
    return renamed(state_dict, rules)


def detectron2(state_dict, *, rpn_convs=1):
    """As `convert-torchvision-to-d2.py` would: BGR, background last, no rows of background elsewhere."""
    state_dict = background_last(without_counters(state_dict))
    body = {n.removeprefix("backbone.body."): a for n, a in state_dict.items() if ".body." in n}
    rest = {n: a for n, a in state_dict.items() if ".body." not in n}
    found = {f"backbone.bottom_up.{n}": a for n, a in detectron2_backbone(body).items()}
    stem = "backbone.bottom_up.stem.conv1.weight"
    found[stem] = found[stem][:, ::-1]
    rules = []
    for i in range(4):
        rules += [
            (rf"backbone\.fpn\.inner_blocks\.{i}\.0\.", f"backbone.fpn_lateral{i + 2}."),
            (rf"backbone\.fpn\.inner_blocks\.{i}\.1\.", f"backbone.fpn_lateral{i + 2}.norm."),
            (rf"backbone\.fpn\.layer_blocks\.{i}\.0\.", f"backbone.fpn_output{i + 2}."),
            (rf"backbone\.fpn\.layer_blocks\.{i}\.1\.", f"backbone.fpn_output{i + 2}.norm."),
            (rf"roi_heads\.box_head\.{i}\.0\.", f"roi_heads.box_head.conv{i + 1}."),
            (rf"roi_heads\.box_head\.{i}\.1\.", f"roi_heads.box_head.conv{i + 1}.norm."),
            (rf"roi_heads\.mask_head\.{i}\.0\.", f"roi_heads.mask_head.mask_fcn{i + 1}."),
            (rf"roi_heads\.mask_head\.{i}\.1\.", f"roi_heads.mask_head.mask_fcn{i + 1}.norm."),
        ]
    conv = r"rpn_head.conv.conv\1." if rpn_convs > 1 else "rpn_head.conv."
    rules += [
        (r"rpn\.head\.conv\.(\d)\.0\.", f"proposal_generator.{conv}"),
        (r"rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
        (r"rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
        (r"roi_heads\.box_head\.(?:fc6|5)\.", "roi_heads.box_head.fc1."),
        (r"roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
        (r"roi_heads\.mask_predictor\.conv5_mask", "roi_heads.mask_head.deconv"),
        (r"roi_heads\.mask_predictor\.mask_fcn_logits", "roi_heads.mask_head.predictor"),
    ]
    return found | renamed(rest, rules)


def mmdet(state_dict, *, rpn_convs=1):
    """MMDetection's layout; counters stay."""
    conv = r"rpn_head.rpn_conv.\1.conv." if rpn_convs > 1 else "rpn_head.rpn_conv."
    rules = [
        (r"backbone\.body\.", "backbone."),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.0\.", r"neck.lateral_convs.\1.conv."),
        (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.", r"neck.lateral_convs.\1.bn."),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.0\.", r"neck.fpn_convs.\1.conv."),
        (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.", r"neck.fpn_convs.\1.bn."),
        (r"rpn\.head\.conv\.(\d)\.0\.", conv),
        (r"rpn\.head\.cls_logits", "rpn_head.rpn_cls"),
        (r"rpn\.head\.bbox_pred", "rpn_head.rpn_reg"),
        (r"roi_heads\.box_head\.(?:fc6|5)\.", "roi_head.bbox_head.shared_fcs.0."),
        (r"roi_heads\.box_head\.fc7\.", "roi_head.bbox_head.shared_fcs.1."),
        (r"roi_heads\.box_head\.(\d)\.0\.", r"roi_head.bbox_head.shared_convs.\1.conv."),
        (r"roi_heads\.box_head\.(\d)\.1\.", r"roi_head.bbox_head.shared_convs.\1.bn."),
        (r"roi_heads\.box_predictor\.cls_score", "roi_head.bbox_head.fc_cls"),
        (r"roi_heads\.box_predictor\.bbox_pred", "roi_head.bbox_head.fc_reg"),
        (r"roi_heads\.mask_head\.(\d)\.0\.", r"roi_head.mask_head.convs.\1.conv."),
        (r"roi_heads\.mask_head\.(\d)\.1\.", r"roi_head.mask_head.convs.\1.bn."),
        (r"roi_heads\.mask_predictor\.conv5_mask", "roi_head.mask_head.upsample"),
        (r"roi_heads\.mask_predictor\.mask_fcn_logits", "roi_head.mask_head.conv_logits"),
    ]
    return renamed(background_last(state_dict), rules)


def cascade(state_dict, *, stages=3, mask_heads=0):
    """A Mask R-CNN under Detectron2's or MMDetection's names as a cascade.

    Heads get numbers and one box for all classes; the values of each are larger by its number.
    """
    found = {}
    for name, array in state_dict.items():
        head = re.match(r"(roi_heads\.box_\w+|roi_heads?\.(?:bbox|mask)_head)\.", name)
        count = 0 if head is None else mask_heads if "mask" in head[1] else stages
        if re.search("bbox_pred|fc_reg", name):
            array = array[:4]
        if not count:
            found[name] = array
        for stage in range(count):
            found[f"{head[1]}.{stage}.{name[head.end() :]}"] = array + np.float32(stage)
    return found


def background_last(state_dict):
    """torchvision's class layers as others have them."""
    found = dict(state_dict)
    for leaf in ("weight", "bias"):
        score = f"roi_heads.box_predictor.cls_score.{leaf}"
        found[score] = np.concatenate([found[score][1:], found[score][:1]])
        found[f"roi_heads.box_predictor.bbox_pred.{leaf}"] = state_dict[
            f"roi_heads.box_predictor.bbox_pred.{leaf}"
        ][4:]
        found[f"roi_heads.mask_predictor.mask_fcn_logits.{leaf}"] = state_dict[
            f"roi_heads.mask_predictor.mask_fcn_logits.{leaf}"
        ][1:]
    return found


def caffe2_backbone(state_dict):
    """A torchvision ResNet as MSRA's pickles have it: BGR, norms folded to scale and bias, other blobs besides."""
    state_dict, found = without_counters(state_dict), {}
    branches = {"1": "branch2a", "2": "branch2b", "3": "branch2c"}

    def blob(name):
        stem = re.fullmatch(r"(conv|bn)1", name)
        if stem:
            return "conv1" if stem[1] == "conv" else "res_conv1_bn"
        layer, index, part = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name).groups()
        branch = "branch1" if part.startswith("down") else branches[part[-1]]
        norm = "_bn" if part.startswith("bn") or part.endswith(".1") else ""
        return f"res{int(layer) + 1}_{index}_{branch}{norm}"

    for name, array in state_dict.items():
        module, _, leaf = name.rpartition(".")
        if module.startswith("fc"):
            found[f"pred_{leaf[0]}"] = array
        elif array.ndim == 4:
            found[f"{blob(module)}_w"] = array[:, ::-1] if module == "conv1" else array
        elif leaf == "weight":
            get = lambda kind, module=module: state_dict[f"{module}.{kind}"]  # noqa: E731
            scale = get("weight") / np.sqrt(get("running_var") + np.float32(1e-5))
            found[f"{blob(module)}_s"] = scale
            found[f"{blob(module)}_b"] = get("bias") - get("running_mean") * scale
    found["conv1_w_momentum"] = np.zeros_like(found["conv1_w"])
    found["conv1_b"] = np.zeros(len(found["conv1_w"]), np.float32)
    return found


def caffe2(state_dict, blocks=(3, 4, 6, 3)):
    """A Mask R-CNN of Detectron's; background first, as torchvision has it."""
    state_dict = without_counters(state_dict)
    body = {n.removeprefix("backbone.body."): a for n, a in state_dict.items() if ".body." in n}
    rest = {n: a for n, a in state_dict.items() if ".body." not in n}
    rules = []
    for i, count in enumerate(blocks):
        last = "" if i == 3 else "_lateral"
        top = f"res{i + 2}_{count - 1}_sum"
        rules += [
            (rf"backbone\.fpn\.inner_blocks\.{i}\.0\.(\w).*", rf"fpn_inner_{top}{last}_\1"),
            (rf"backbone\.fpn\.layer_blocks\.{i}\.0\.(\w).*", rf"fpn_{top}_\1"),
            (rf"roi_heads\.mask_head\.{i}\.0\.(\w).*", rf"_[mask]_fcn{i + 1}_\1"),
        ]
    rules += [
        (r"rpn\.head\.conv\.0\.0\.(\w).*", r"conv_rpn_fpn2_\1"),
        (r"rpn\.head\.cls_logits\.(\w).*", r"rpn_cls_logits_fpn2_\1"),
        (r"rpn\.head\.bbox_pred\.(\w).*", r"rpn_bbox_pred_fpn2_\1"),
        (r"roi_heads\.box_head\.(fc\d)\.(\w).*", r"\1_\2"),
        (r"roi_heads\.\w+\.(cls_score|bbox_pred|conv5_mask|mask_fcn_logits)\.(\w).*", r"\1_\2"),
    ]
    return caffe2_backbone(body) | renamed(rest, rules)


def backbone(state_dict):
    """The ResNet of a detector as torchvision has it alone, with a classifier."""
    body = {n.removeprefix("backbone.body."): a for n, a in state_dict.items() if ".body." in n}
    width = body["layer4.0.conv1.weight"].shape[0]
    return body | {
        "fc.weight": np.ones((10, width), np.float32),
        "fc.bias": np.ones(10, np.float32),
    }
