"""What mask heads are tried on alone: a small pyramid with padding, RoIs of which some do not count, random weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.structures import Pyramid, RoIs

quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
STRIDES = (4, 8, 16, 32)
CHANNELS = 16
CLASSES = jnp.array([[0, 2, 1, 0, 0], [2, 0, 0, 0, 0]], jnp.int32)


def pyramid() -> Pyramid:
    """Of two images of 48 x 64 and 64 x 40 pixels on a canvas of 64 x 64; its padding is not zero."""
    rng = np.random.default_rng(0)
    levels = tuple(
        jnp.asarray(rng.normal(size=(2, 64 // s, 64 // s, CHANNELS)), jnp.float32) for s in STRIDES
    )
    return Pyramid(levels, jnp.array([[48.0, 64.0], [64.0, 40.0]]), STRIDES)


def rois() -> RoIs:
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 20, (2, 5, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(8, 20, corner.shape)], -1)
    counted = np.array([[True, True, True, False, False], [True, False, False, False, False]])
    return RoIs(jnp.asarray(boxes, jnp.float32), jnp.asarray(counted), jnp.asarray(counted))


def apply(module, variables, *arguments, train, **more):
    """(outputs, statistics) of a module, compiled: eager operations would be compiled one by one."""
    run = functools.partial(module.apply, train=train, mutable=["batch_stats"], **more)
    return quick(run)(variables, *arguments)


def filled(shapes, seed=0):
    """Random values of those shapes: He's for kernels, and biases and statistics that matter."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1], initial=1)
        value = rng.normal(0, np.sqrt(2 / max(fan_in, 8)), leaf.shape)
        name = path[-1].key
        value = np.abs(value) + 0.5 if name in ("var", "scale") else value
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def variables_of(module, *arguments, **more):
    return filled(jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **more)))
