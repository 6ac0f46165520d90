"""Run by test_devices in a process of its own: two simulated devices against one, the differences printed as JSON."""

import json
import sys

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from pallas_kernels.roi_align import triton
from tests.pallas_kernels import cases


def difference(implementation, channels: int, *, check_vma: bool) -> float:
    """Between a whole batch and its images on a device each: the value, and the gradients."""
    case = cases.tiny(channels)

    def both(features, boxes, probabilities, cotangent):
        # Closed-over arrays would be whole on each device.
        part = case.replace(
            levels=np.zeros(boxes.shape[:2], np.int32), image_size=None, cotangent=cotangent
        )

        def total(features, probabilities):
            out = cases.aware(part, implementation, features, boxes, probabilities)
            return (out * cotangent).sum((1, 2, 3, 4))

        value, pull = jax.vjp(total, features, probabilities)
        return value, pull(jax.numpy.ones_like(value))

    arguments = case.features, case.boxes, case.probabilities, case.cotangent
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec("data")
    split = jax.shard_map(both, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=check_vma)
    one, two = jax.jit(both)(*arguments), jax.jit(split)(*arguments)
    assert len(two[0].sharding.device_set) == 2
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max())
        for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    )


if __name__ == "__main__":
    assert jax.device_count() == 2, jax.devices()
    # A Pallas call does not say how its outputs vary over the mesh.
    found = {
        "xla": difference("xla", 3, check_vma=True),
        "triton": difference(triton.implementation(interpret=True), 32, check_vma=False),
    }
    json.dump(found, sys.stdout)
