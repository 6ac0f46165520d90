"""Which implementation runs where, on devices that are only said to be there."""

import types

import jax
import numpy as np
import pytest

from pallas_kernels.roi_align import choice, xla
from pallas_kernels.roi_align.grid import Spec
from tests.pallas_kernels import cases


def _spec(channels=256, dtype=np.float32, output_size=(7, 7)) -> Spec:
    return Spec(
        shapes=((8, 8),),
        strides=(4,),
        channels=channels,
        dtype=np.dtype(dtype),
        output_size=output_size,
        sampling_ratio=2,
        aligned=True,
        max_sampling_ratio=4,
        rois=1,
    )


@pytest.fixture
def pretend(monkeypatch):
    """`pretend(platform, capability)`: jax's default device."""

    def device(platform, capability=None):
        kind = types.SimpleNamespace(platform=platform, device_kind=f"a {platform}")
        if capability is not None:
            kind.compute_capability = capability
        monkeypatch.setattr(choice, "_device", lambda: kind)

    return device


_HOPPER, _AMPERE, _TURING = (("gpu", capability) for capability in ("9.0", "8.0", "7.5"))
_AMD, _TPU, _CPU = ("gpu", "gfx90a"), ("tpu",), ("cpu",)


@pytest.mark.parametrize(
    ("device", "spec", "expected"),
    [
        (_HOPPER, _spec(), "mosaic_gpu"),
        (("gpu", "10.0"), _spec(384), "mosaic_gpu"),
        (_HOPPER, _spec(96), "triton"),
        (_HOPPER, _spec(50), "xla"),
        (_HOPPER, _spec(dtype=np.float64), "xla"),
        (_AMPERE, _spec(), "triton"),
        (_AMPERE, _spec(50), "xla"),
        (_TURING, _spec(), "xla"),
        (_AMD, _spec(), "xla"),
        (_TPU, _spec(), "tpu"),
        (_TPU, _spec(96), "xla"),
        (_TPU, _spec(dtype=np.float16), "xla"),
        (_CPU, _spec(), "xla"),
        (("metal",), _spec(), "xla"),
    ],
)
def test_the_best_that_covers_the_call(pretend, device, spec, expected):
    pretend(*device)
    assert choice.choose(None, spec) is choice.choose(expected, spec)
    # A name asks for that one, whatever would be better.
    assert choice.choose("xla", spec) is xla.IMPLEMENTATION
    chosen = [n for n in choice.IMPLEMENTATIONS if _applies(n, spec) is choice.choose(None, spec)]
    assert chosen == [expected]


def _applies(name, spec):
    try:
        return choice.choose(name, spec)
    except ValueError:
        return None


@pytest.mark.parametrize(
    ("device", "name", "spec", "reason"),
    [
        (_CPU, "mosaic_gpu", _spec(), "mosaic_gpu needs an NVIDIA GPU, and jax runs on cpu"),
        (_CPU, "triton", _spec(), "triton needs an NVIDIA GPU, and jax runs on cpu"),
        (_CPU, "tpu", _spec(), "tpu needs a TPU, and jax runs on cpu"),
        (_AMPERE, "tpu", _spec(), "tpu needs a TPU, and jax runs on gpu"),
        (_AMPERE, "mosaic_gpu", _spec(), "needs compute capability 9, and this a gpu has 8.0"),
        (_TURING, "triton", _spec(), "needs compute capability 8, and this a gpu has 7.5"),
        (_AMD, "triton", _spec(), "needs compute capability 8, and this a gpu has gfx90a"),
        (("gpu",), "triton", _spec(), "needs compute capability 8"),
        (_HOPPER, "mosaic_gpu", _spec(96), "channels that are a multiple of 128, got 96"),
        (_HOPPER, "triton", _spec(48), "channels that are a multiple of 32, got 48"),
        (_HOPPER, "triton", _spec(dtype=np.float64), "not float64"),
        (_TPU, "tpu", _spec(96), "channels that are a multiple of 128, got 96"),
    ],
)
def test_a_named_one_that_does_not_apply_says_why(pretend, device, name, spec, reason):
    pretend(*device)
    with pytest.raises(ValueError, match=f"'{name}' does not apply: .*{reason}"):
        choice.choose(name, spec)


def test_a_backend_that_this_jax_lacks_is_passed_over(pretend, monkeypatch):
    def missing():
        raise ImportError("no such module")

    pretend(*_HOPPER)
    monkeypatch.setattr(
        choice, "IMPLEMENTATIONS", dict(choice.IMPLEMENTATIONS) | {"mosaic_gpu": missing}
    )
    assert choice.choose(None, _spec()) is choice.choose("triton", _spec())
    with pytest.raises(ValueError, match=r"lacks it \(no such module\)"):
        choice.choose("mosaic_gpu", _spec())


def test_unknown_names_are_refused_and_objects_taken_as_they_are():
    with pytest.raises(ValueError, match="allowed are xla, mosaic_gpu, triton, tpu, None"):
        choice.choose("cuda", _spec())
    assert choice.choose(xla.IMPLEMENTATION, _spec()) is xla.IMPLEMENTATION


def test_a_call_that_no_kernel_covers_runs(pretend):
    pretend(*_HOPPER)
    case = cases.tiny(5)
    out = jax.jit(lambda: cases.aware(case, None))()
    np.testing.assert_allclose(out, cases.by_loop(case)[1], atol=1e-5)


def test_the_default_device_decides():
    device = jax.devices("cpu")[0]
    for chosen in (device, "cpu"):
        with jax.default_device(chosen):
            assert choice._device() is device
