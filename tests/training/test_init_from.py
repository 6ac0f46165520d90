"""What a run takes over from another one, and what it may not."""

import contextlib

import jax.numpy as jnp
import numpy as np
import pytest
import standin
import test_checkpoints as saves
from ml_collections import ConfigDict

from configs import common
from jaxseg.data.sources import Category
from jaxseg.training import init_from, integrity, starting


def start_from(folder, own, categories, class_layers=("head",), **options):
    """(Start, params, batch_stats) of a state out of the run in `folder`."""
    fresh = integrity.flat({"params": own.params, "batch_stats": own.batch_stats})
    like = {path: value.shape for path, value in fresh.items()}
    config = options.pop("config", None) or standin.make_config()
    found = init_from.read_run(
        folder, config, like, categories, class_layers=class_layers, **options
    )
    return found, *found.complete(fresh)


def test_fine_tuning_keeps_new_class_layers(tmp_path):
    saves.fill(tmp_path, [None, None], ema=False)
    own = saves.make_state(0, classes=5)
    classes = (Category(1, "cat"), Category(2, "dog"))
    found, params, stats = start_from(tmp_path, own, classes)
    theirs = saves.make_state(2)
    np.testing.assert_array_equal(params["backbone"]["kernel"], theirs.params["backbone"]["kernel"])
    np.testing.assert_array_equal(stats["norm"]["mean"], theirs.batch_stats["norm"]["mean"])
    np.testing.assert_array_equal(params["head"]["kernel"], own.params["head"]["kernel"])
    assert found.fresh == list(found.initial) == ["params/head/bias", "params/head/kernel"]
    assert "initial  2: the classes differ (head)" in found.told


def test_fine_tuning_with_the_same_classes_takes_everything(tmp_path):
    saves.fill(tmp_path, [None, None], ema=False)
    found, params, _ = start_from(tmp_path, saves.make_state(0), saves.CATEGORIES)
    np.testing.assert_array_equal(
        params["head"]["kernel"], saves.make_state(2).params["head"]["kernel"]
    )
    assert not found.fresh and found.told == ["taken    4 of the 4 arrays there"]


def test_modules_that_a_run_lacks_are_copies_of_those_that_it_has(tmp_path):
    saves.fill(tmp_path, [None, None], ema=False)
    own, theirs = saves.make_state(0), saves.make_state(2).params
    between = jnp.full(3, 7.0)
    more = {"again": own.params["head"], "between": {"kernel": between}}
    own = own.replace(params={**own.params, **more})
    layers, copies = ("head", "again"), {"again": "head", "between": ""}
    found, params, _ = start_from(tmp_path, own, saves.CATEGORIES, layers, copies=copies)
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(params["again"][name], theirs["head"][name])
        np.testing.assert_array_equal(params["head"][name], theirs["head"][name])
    np.testing.assert_array_equal(params["between"]["kernel"], between)
    assert "copied   2: again starts as a copy of head" in found.told
    assert "initial  1: that run has none (between)" in found.told
    with pytest.raises(ValueError, match=r"params/again/bias is absent there"):
        start_from(tmp_path, own, saves.CATEGORIES, layers)


def test_copies_of_new_class_layers_have_their_values_in_memory_of_their_own(tmp_path):
    saves.fill(tmp_path, [None], ema=False)
    own = saves.make_state(9, classes=5)
    own = own.replace(params={**own.params, "again": saves.make_state(4, classes=5).params["head"]})
    others = (Category(1, "cat"),)
    found, params, _ = start_from(
        tmp_path, own, others, ("head", "again"), copies={"again": "head"}
    )
    assert "params/again/kernel" in found.fresh
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(params["again"][name], own.params["head"][name])
        assert params["again"][name] is not params["head"][name]


def test_fine_tuning_refuses_another_model(tmp_path):
    saves.fill(tmp_path, [None])
    config = standin.make_config()
    config.model.fpn.channels = 70
    with pytest.raises(
        ValueError,
        match=r"params/backbone/kernel is of shape \(50000,\) there and of shape \(70,\) here. "
        r"config.model.fpn.channels is 256 there and 70 here. Make the settings",
    ):
        start_from(tmp_path, saves.make_state(0, width=70), saves.CATEGORIES, config=config)


@pytest.mark.parametrize(("deform", "frozen"), [("v1", True), ("v2", False)])
def test_offsets_that_deform_nothing_may_be_frozen(deform, frozen):
    config = ConfigDict(common.base().to_dict() | {"init_from": "file.pth", "freeze": ("stage4",)})
    config.model.backbone.deform = deform
    path = "params/stage4/conv2/offset/kernel"
    start = starting.Start({}, initial={path: "the file has none"})
    with contextlib.nullcontext() if frozen else pytest.raises(ValueError, match="stay random"):
        init_from._check_frozen(config, start)
