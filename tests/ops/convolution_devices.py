"""Run by test_convolution in a process of its own: kernel gradients on 2 simulated devices against one, as JSON."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg.ops import convolution


def gradient(x, kernel):
    pad = (kernel.shape[0] - 1) // 2
    padding = ((pad, pad), (pad, pad))
    return jax.grad(lambda k: (convolution.convolve(x, k, (1, 1), padding) ** 2).sum())(kernel)


def measured(window: int) -> dict:
    x = np.asarray(jax.random.normal(jax.random.key(0), (4, 40, 40, 32)))
    kernel = jnp.ones((window, window, 32, 8))
    found, text = [], ""
    for count in (1, 2):
        devices = jax.devices()[:count]
        mesh = jax.make_mesh((count,), ("data",), devices=devices, axis_types=(AxisType.Auto,))
        with jax.set_mesh(mesh):
            split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
            whole = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
            program = jax.jit(gradient).lower(split, whole).compile()
            found.append(np.asarray(program(split, whole)))
            text = program.as_text()
    return {
        "difference": float(np.abs(found[0] - found[1]).max() / np.abs(found[0]).max()),
        "collectives": sorted(
            set(re.findall(r"all-reduce|all-gather|all-to-all|collective-permute", text))
        ),
    }


if __name__ == "__main__":
    print(json.dumps([measured(1), measured(3)]))
