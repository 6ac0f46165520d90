"""Run by test_resnet in a process of its own: a deformable ResNet on 8 simulated devices against one, as JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxseg.modeling import resnet
from jaxseg.ops.deform_conv import deform_conv

IMAGES = 8


def meshes():
    for count in (1, 8):
        yield jax.make_mesh(
            (count,), ("data",), devices=jax.devices()[:count], axis_types=(AxisType.Auto,)
        )


def compiled(mesh, function, whole, split):
    """`function(whole, *split)` compiled for the mesh, and its arguments as they lie there."""
    whole = jax.device_put(whole, NamedSharding(mesh, PartitionSpec()))
    split = jax.device_put(split, NamedSharding(mesh, PartitionSpec("data")))
    return jax.jit(function).lower(whole, *split).compile(), (whole, *split)


def on_each(function, whole, split):
    for mesh in meshes():
        with jax.set_mesh(mesh):
            call, arguments = compiled(mesh, function, whole, split)
            yield jax.device_get(call(*arguments))


def resnet50() -> dict:
    """Features and gradients of a narrow ResNet-50 with groups and modulated deformable convolutions, in float64."""
    module = resnet.ResNet(
        50, 8, groups=2, width_per_group=32, deform="v2", deform_groups=2, dtype=jnp.float64
    )
    rng = np.random.default_rng(0)
    images, image_size = rng.normal(size=(IMAGES, 64, 64, 3)), np.full((IMAGES, 2), 64.0)
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), images, image_size, train=False))
    params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape), made["params"])
    batch_stats = jax.tree.map(lambda x: np.ones(x.shape), made["batch_stats"])

    def loss(params, images, image_size):
        variables = {"params": params, "batch_stats": batch_stats}
        levels = module.apply(variables, images, image_size, train=True)
        return sum(jnp.mean(level**2) for level in levels), levels

    gradients = jax.value_and_grad(loss, has_aux=True)
    one, eight = on_each(gradients, params, (images, image_size))
    leaves = jax.tree.leaves(one)
    assert all(np.isfinite(x).all() for x in leaves)
    return {
        "difference": max(
            float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-12))
            for x, y in zip(leaves, jax.tree.leaves(eight), strict=True)
        ),
        "without gradient": [
            jax.tree_util.keystr(path)
            for path, leaf in jax.tree_util.tree_leaves_with_path(one[1])
            if not np.any(leaf)
        ],
    }


def gathered() -> list[str]:
    """The collectives that gather something in a layer's step over 8 devices; only the kernel's gradient is summed."""
    inputs, offsets = np.zeros((IMAGES, 8, 8, 4)), np.zeros((IMAGES, 8, 8, 18))

    def total(kernel, inputs, offsets):
        return (deform_conv(inputs, offsets, kernel, padding=1) ** 2).sum()

    *_, mesh = meshes()
    with jax.set_mesh(mesh):
        step = jax.grad(total, (0, 1, 2))
        text = compiled(mesh, step, np.zeros((3, 3, 4, 4)), (inputs, offsets))[0].as_text()
    lines = [line for line in text.splitlines() if " = " in line]
    assert sum(" all-reduce(" in line for line in lines) == 1
    return [line for line in lines if "all-gather" in line or "all-to-all" in line]


if __name__ == "__main__":
    assert jax.device_count() == 8, jax.devices()
    jax.config.update("jax_enable_x64", True)
    print(json.dumps({**resnet50(), "gathered": gathered()}))
