"""Which implementation runs: a table per platform, best first, and what each one needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from pallas_kernels.roi_align import xla
from pallas_kernels.roi_align.grid import Spec
from pallas_kernels.roi_align.operator import Implementation


def _xla() -> Implementation:
    return xla.IMPLEMENTATION


# The kernels are imported when they are chosen: not every jax has every backend.
def _mosaic_gpu() -> Implementation:
    from pallas_kernels.roi_align import mosaic_gpu

    _need_gpu("mosaic_gpu", mosaic_gpu.LEAST_CAPABILITY)
    return mosaic_gpu.IMPLEMENTATION


def _triton() -> Implementation:
    from pallas_kernels.roi_align import triton

    _need_gpu("triton", triton.LEAST_CAPABILITY)
    return triton.IMPLEMENTATION


def _tpu() -> Implementation:
    from pallas_kernels.roi_align import tpu

    if _platform() != "tpu":
        raise NotImplementedError(f"tpu needs a TPU, and jax runs on {_platform()}.")
    return tpu.IMPLEMENTATION


IMPLEMENTATIONS: Mapping[str, Callable[[], Implementation]] = {
    "xla": _xla,
    "mosaic_gpu": _mosaic_gpu,
    "triton": _triton,
    "tpu": _tpu,
}
_BEST_FIRST = {"gpu": ("mosaic_gpu", "triton", "xla"), "tpu": ("tpu", "xla")}


def choose(name: str | Implementation | None, spec: Spec) -> Implementation:
    """The implementation called `name`, or for None the first of this platform's that covers `spec`.

    An `Implementation` is taken as it is, whatever the platform.

    Raises:
      ValueError: an unknown name, or an implementation that was asked for and does not apply, with the reason.
    """
    if name is None:
        for candidate in _BEST_FIRST.get(_platform(), ()):
            try:
                return _apply(candidate, spec)
            except NotImplementedError:
                continue
        return xla.IMPLEMENTATION  # covers everything, everywhere
    given = isinstance(name, Implementation)
    if not given and not (isinstance(name, str) and name in IMPLEMENTATIONS):
        allowed = ", ".join(IMPLEMENTATIONS)
        raise ValueError(
            f"roi_align implementation {name!r}: allowed are {allowed}, None (the best one), or an Implementation."
        )
    try:
        if not given:
            return _apply(name, spec)
        name.check(spec)
        return name
    except NotImplementedError as reason:
        named = "that was given" if given else repr(name)
        raise ValueError(f"roi_align implementation {named} does not apply: {reason}") from reason


def _apply(name: str, spec: Spec) -> Implementation:
    try:
        implementation = IMPLEMENTATIONS[name]()
    except ImportError as error:
        raise NotImplementedError(f"jax {jax.__version__} lacks it ({error}).") from error
    implementation.check(spec)
    return implementation


def _device() -> jax.Device:
    """Where a computation runs that is not told otherwise."""
    chosen = jax.config.jax_default_device
    return chosen if isinstance(chosen, jax.Device) else jax.devices(chosen)[0]


def _platform() -> str:
    return _device().platform


def _need_gpu(name: str, least: float) -> None:
    device = _device()
    if device.platform != "gpu":
        raise NotImplementedError(f"{name} needs an NVIDIA GPU, and jax runs on {device.platform}.")
    capability = getattr(device, "compute_capability", "")
    try:
        enough = float(capability) >= least
    except ValueError:  # an AMD GPU calls itself gfx...
        enough = False
    if not enough:
        raise NotImplementedError(
            f"{name} needs compute capability {least:g}, and this {device.device_kind} has {capability}."
        )
