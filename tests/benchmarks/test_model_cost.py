"""What models cost: the published numbers, and what belongs to which part."""

import functools
import json
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from benchmarks import model_parts
from configs import atmask_rcnn, brefine, cascade_mask_rcnn, mask_rcnn, maskplus, mr_rcnn
from jaxseg import methods
from jaxseg.structures import Pyramid, RoIs

SIZE = (800, 1344)
BELOW_HEADS = 23_454_912 + 3_344_384 + 593_935  # parameters of ResNet-50, FPN and RPN
CLASSES = 80
ONE_CLASS = 28 * 28 * 256  # MACs of the mask predictor for one class of one RoI
PLAIN_MASK_HEAD = 4 * 14 * 14 * 9 * 256 * 256 + 28 * 28 * 256 * 256 + ONE_CLASS  # of one RoI


def close(count: float, published: str) -> bool:
    """Within 0.1 % of a published number (in units of 1e9), or what its digits allow."""
    _, _, decimals = published.partition(".")
    half_a_digit = 0.5 * 10 ** -len(decimals)
    return abs(count / 1e9 - float(published)) <= max(1e-3 * float(published), half_a_digit)


@functools.cache
def plain() -> model_parts.Traced:
    return model_parts.detection(mask_rcnn.get_config("r50"), SIZE)


def shapes(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def pyramid():
    levels = tuple(shapes(1, SIZE[0] // s, SIZE[1] // s, 256) for s in (4, 8, 16, 32))
    return Pyramid(levels, shapes(1, 2), (4, 8, 16, 32))


def regions(count):
    valid = shapes(1, count, dtype=bool)
    return RoIs(shapes(1, count, 4), valid, valid)


def heads(config) -> model_parts.Traced:
    """The RoI heads of a model alone, which have its shapes without the time that its backbone takes to trace."""
    return model_parts.trace(
        methods.build(config).roi_heads, pyramid(), regions(1000), method="detect"
    )


def of_all_classes(traced, path):
    """MACs of a part with the masks of all classes, as papers count it. Ours computes the wanted one of each RoI."""
    return (
        model_parts.part(traced, path).macs
        + (CLASSES - 1) * model_parts.part(traced, (*path, "predictor")).macs
    )


@pytest.mark.parametrize(
    "path, published",
    [
        (("backbone",), "87.6"),
        (("fpn",), "60.9"),
        (("rpn",), "53.1"),
        (("roi_heads", "box_head"), "14.3"),
    ],
    ids="/".join,
)
def test_parts_of_mask_rcnn(path, published):
    assert close(model_parts.part(plain(), path).macs, published)


def test_mask_rcnn_and_its_mask_head():
    mask_head = ("roi_heads", "mask_head")
    assert close(of_all_classes(plain(), mask_head), "53.0")
    assert close(of_all_classes(plain(), mask_head) / 100, "0.530")
    total = sum(work.macs for work in plain().work)
    others = 100 * (CLASSES - 1) * ONE_CLASS
    assert close(total + others, "268.9")
    part = model_parts.part(plain(), mask_head)
    assert (part.rois, part.macs_per_roi) == (100, PLAIN_MASK_HEAD)
    box_head = model_parts.part(plain(), ("roi_heads", "box_head"))
    assert (box_head.rois, box_head.macs_per_roi) == (1000, 1024 * (12544 + 1024 + 81 + 320))
    assert sum(plain().parameters.values()) == 44_343_216
    assert not plain().other() and not any(work.unbounded for work in plain().work)


@pytest.mark.parametrize(
    "name, published",
    [pytest.param("r101", "167.1", marks=pytest.mark.slow), ("x101_32x8d", "351.7")],
)
def test_backbones(name, published):
    backbone = methods.build(mask_rcnn.get_config(name)).backbone
    traced = model_parts.trace(backbone, shapes(1, *SIZE, 3), shapes(1, 2), train=False)
    assert close(sum(work.macs for work in traced.work), published)


def test_mask_refining_rcnn():
    traced = heads(mr_rcnn.get_config("r50"))
    assert close(model_parts.part(traced, ("refine_box_head",)).macs, "14.3")
    assert close(of_all_classes(traced, ("mask_head",)), "530")
    flow = model_parts.part(traced, ("flow",)).macs
    assert close(of_all_classes(traced, ("refine_mask_head",)) + flow, "54.3")
    assert BELOW_HEADS + sum(traced.parameters.values()) == 61_358_993
    # Shape-aware RoIAlign looks masks up by matrix products; they are none of the head's.
    assert 0 < traced.other()[("refine_box_head",)] < 0.1e9


def test_cascade_mask_rcnn():
    traced = heads(cascade_mask_rcnn.get_config("r50"))
    assert BELOW_HEADS + sum(traced.parameters.values()) == 71_984_926
    each = [model_parts.part(traced, (f"box_head_{stage}",)) for stage in range(3)]
    assert {part.macs_per_roi for part in each} == {1024 * (12544 + 1024 + 81 + 4)}
    assert {part.rois for part in each} == {1000}


def mask_head(train=False, config=None, **changes) -> model_parts.Traced:
    config = config or mask_rcnn.get_config("r50")
    config.model.maskplus.update(changes)
    head = methods.build(config).roi_heads.mask_head
    arguments = pyramid(), regions(100), shapes(1, 100, dtype=jnp.int32)
    return model_parts.trace(head, *arguments, method=with_auxiliary, train=train)


def with_auxiliary(head, *arguments, train):
    """A mask head, and in training its auxiliary branch, which runs where losses are computed."""
    outputs = head(*arguments, train=train)
    if "pooled" in outputs.extra:
        head.auxiliary(*(outputs.extra[k] for k in ("pooled", "rois", "classes")), train=True)
    return outputs


def test_atmask_rcnn():
    """1.111 G a RoI, with all maps of P and of T; ours are those of its class."""
    traced = mask_head(config=atmask_rcnn.get_config("r50"))
    every = of_all_classes(traced, ()) + (CLASSES - 1) * 100 * ONE_CLASS
    assert close(every / 100, "1.111")
    assert sum(traced.parameters.values()) == 5_549_216


@pytest.mark.parametrize(
    ("stages", "convs", "published", "parameters"),
    [
        (1, 0, "0.219", 1_119_312),
        (2, 0, "1.092", 2_218_064),
        (3, 0, "4.582", 3_316_816),
        (3, 4, "5.045", 5_677_136),
    ],
)
def test_brefine(stages, convs, published, parameters):
    """With all maps; ours is that of its class."""
    made = brefine.get_config("r50,table5.multistage")
    made.model.brefine.stages, made.model.mask_head.convs = stages, convs
    traced = mask_head(config=made)
    assert close(of_all_classes(traced, ()) / 100, published)
    assert sum(traced.parameters.values()) == parameters


# Settings of `model.maskplus`; of parts of the mask head, their parameters and GMACs: once an image, or of each RoI.
ONCE, EACH = "once", "each"
PARTS = [
    (
        dict(context=(256, 256), pyramid="pooled", boundary="original"),
        {
            "image_context": (1_180_160, ONCE, "0.23"),
            "feature_refinement": (1_704_960, EACH, "0.835"),
            "logit_refinement": (115_360, EACH, "0.090"),
        },
    ),
    (
        dict(context=(256, 256, 256), boundary="improved", boundary_kernels=(3, 3)),
        {
            "image_context": (1_770_240, ONCE, "0.35"),
            "logit_refinement": (60_904, EACH, "0.047"),
        },
    ),
    (dict(context=(512, 256, 256)), {"image_context": (2_950_144, ONCE, "0.58")}),
    (
        # The whole head; the logits of all classes are refined.
        dict(context=(720, 512, 512, 256), pyramid="pooled", boundary="improved"),
        {
            "": (12_882_696, EACH, "1.377"),
            "image_context": (8_517_584, ONCE, "1.67"),
            "feature_refinement": (1_704_960, EACH, "0.835"),
            "logit_refinement": (16_872, EACH, "0.012"),
        },
    ),
]


@pytest.mark.parametrize("settings, expected", PARTS)
def test_parts_of_maskplus(settings, expected):
    traced = mask_head(**settings)
    for name, (parameters, kind, published) in expected.items():
        part = model_parts.part(traced, (name,) if name else ())
        assert part.parameters == parameters, name
        assert part.rois == (None if kind == ONCE else 100), name
        assert close(part.macs if kind == ONCE else part.macs_per_roi, published), name


@pytest.mark.parametrize(
    "quasi, parameters, published",
    [
        ("half", 2_380_880, "0.466"),
        pytest.param("double", 2_905_680, "0.784", marks=pytest.mark.slow),
    ],
)
def test_what_only_training_has(quasi, parameters, published):
    detected, trained = (mask_head(train, quasi=quasi) for train in (False, True))
    (part,) = model_parts.training_only(detected, trained)
    assert part.path == ("auxiliary",) and part.parameters == parameters
    assert close(of_all_classes(trained, part.path) / 100, published)
    assert sum(detected.parameters.values()) == 2_643_280
    assert model_parts.part(detected, ()).macs_per_roi == PLAIN_MASK_HEAD


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, parameters",
    [
        (maskplus.get_config("r50"), 54_582_632),
        (maskplus.get_config("r101,maskplus_plus"), 101_164_246),
        (cascade_mask_rcnn.get_config("r50"), 71_984_926),
        (mr_rcnn.get_config("r101"), 80_298_897),
    ],
    ids=["maskplus", "maskplus_plus", "cascade", "mr_rcnn"],
)
def test_whole_models(config, parameters):
    traced = model_parts.detection(config, SIZE)
    tops = [part for part in model_parts.parts(traced) if not part.within]
    assert sum(part.parameters for part in tops) == methods.count_parameters(config) == parameters
    everything = sum(work.macs for work in traced.work)
    assert sum(part.macs for part in tops) + sum(traced.other().values()) == everything


class Head(nn.Module):
    """A layer of each RoI, one of the whole image, and products without parameters."""

    @nn.compact
    def __call__(self, x, rois):
        image = nn.Conv(4, (1, 1), name="image")(x)
        pooled = jnp.einsum("brc,bhwd->brd", rois.boxes, image)
        cells = nn.Dense(3, name="cells")(jnp.repeat(pooled, 2, 1).reshape(-1, 4))
        return nn.Dense(7, name="roi")(cells.reshape(1, -1, 6))


class Wrapped(nn.Module):
    """A head that is called twice, under a module that does nothing itself."""

    head: nn.Module

    def __call__(self, x, few, many):
        return self.head(x, few), self.head(x, rois=many)


def test_what_belongs_to_which_part():
    x = shapes(1, 10, 10, 4)  # as many rows as RoIs: the batch alone tells that it is not of RoIs
    traced = model_parts.trace(Wrapped(Wrapped(Head()).head), x, regions(10), regions(20))
    image, cells, roi = 10 * 10 * 4 * 4, 2 * 4 * 3, 6 * 7
    rows = {part.path: part for part in model_parts.parts(traced)}
    assert rows[("head",)].macs == 2 * image + 30 * (cells + roi)
    assert (rows[("head",)].rois, rows[("head",)].macs_per_roi) == (30, cells + roi)
    assert rows[("head", "cells")].macs_per_roi == cells
    assert rows[("head", "image")].rois is None
    assert next(iter(rows)) == ("head",) and rows[("head", "roi")].within == ("head",)
    assert list(traced.other()) == [("head",)]
    everything = sum(work.macs for work in traced.work)
    assert everything == rows[("head",)].macs + traced.other()[("head",)]


@pytest.mark.slow
def test_the_command(tmp_path):
    file = tmp_path / "cost.json"
    command = [sys.executable, "-m", "benchmarks.model_cost", f"--json={file}", "--xla"]
    changes = ["--config.model.maskplus.quasi=half", "--config.model.test.max_detections=50"]
    config = "--config=configs/mask_rcnn.py:r18"
    done = subprocess.run(
        [*command, config, *changes, "--size=256,320"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert result["parameters"] == 31_317_936 and result["size"] == [256, 320]
    assert f"{result['macs'] / 1e9:.3f}" in done.stdout
    tops = [row for row in result["parts"] if not row["within"]]
    assert result["macs"] == sum(row["macs"] for row in tops) + sum(result["other"].values())
    assert result["parameters"] == sum(row["parameters"] for row in tops)
    assert tops[-1]["path"] == "roi_heads/mask_head" and tops[-1]["rois"] == 50
    (extra,) = result["training_only"]
    assert extra["path"] == "roi_heads/mask_head/auxiliary"
    # Without the zeros around the maps, which matter most where they are small: 14 x 14 and less.
    assert 0.8 * result["macs"] < result["xla_macs"] < result["macs"]
    for wrong in ("--size=100,320", "--size=256", "--config.model.dtype=int8"):
        failed = subprocess.run([*command, config, wrong], capture_output=True, text=True)
        assert failed.returncode == 2 and "allowed" in failed.stderr
