"""Every kernel lowers for its device at the production shapes, on a machine without one, and copies no pyramid."""

import math
import re

import jax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels.roi_align import mosaic_gpu, tpu, triton, xla
from pallas_kernels.roi_align.arg_specs import PRODUCTION

_H200 = AbstractDevice("NVIDIA H200", 1, "gpu")
_V6E = AbstractDevice("TPU v6e", 1, "tpu")
BACKENDS = {
    "mosaic_gpu": (mosaic_gpu.IMPLEMENTATION, "cuda", _H200, "@mosaic_gpu_v2"),
    "triton": (triton.IMPLEMENTATION, "cuda", _H200, "@__gpu$xla.gpu.triton"),
    "tpu": (tpu.IMPLEMENTATION, "tpu", _V6E, "@tpu_custom_call"),
}


def _lower(arg_spec, implementation, platform, device) -> str:
    """The program of the value and all gradients."""

    def both(args):
        def of_inputs(features, probabilities):
            args_ = args._replace(features=features, probabilities=probabilities)
            return arg_spec.call(args_, implementation)

        out, vjp = jax.vjp(of_inputs, args.features, args.probabilities)
        return out, vjp(args.d_out)

    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device)):
        traced = jax.jit(both).trace(arg_spec.shape_structs())
        return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", PRODUCTION)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_kernel_lowers(name, backend):
    implementation, platform, device, call = BACKENDS[backend]
    arg_spec = PRODUCTION[name]
    try:
        implementation.check(arg_spec.spec)
    except NotImplementedError as reason:
        pytest.skip(str(reason))  # a jax without Triton
    text = _lower(arg_spec, implementation, platform, device)

    kernels = {"roi_align", *(f"roi_align_d_features_{n}" for n in range(4))}
    if arg_spec.probabilities:
        kernels.add("roi_align_d_weights")
    assert set(re.findall(r"roi_align(?:_d_features_\d|_d_weights)?", text)) == kernels
    assert text.count(f"custom_call {call}(") == len(kernels)

    # Only small tables are concatenated, not the levels of the pyramid.
    assert 0 < _largest_concatenation(text) < min(f.size for f in arg_spec.shape_structs().features)


def test_a_copied_pyramid_is_seen():
    arg_spec = PRODUCTION["box_7x7_bf16"]
    text = _lower(arg_spec, xla.IMPLEMENTATION, "cuda", _H200)
    assert _largest_concatenation(text) == sum(f.size for f in arg_spec.shape_structs().features)


def _largest_concatenation(text: str) -> int:
    """Elements of the result."""
    shapes = re.findall(r"stablehlo\.concatenate.*-> tensor<([0-9x]+)x\w+>", text)
    return max(math.prod(map(int, shape.split("x"))) for shape in shapes)
