"""The RoI heads of a tiny Mask Refining R-CNN."""

import functools

import jax

from jaxseg import methods
from tests.methods import tiny

# Every switch is a compilation of its own; what runs once need not run fast.
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def config(**settings):
    """`settings`: keys of model.refine and model.test."""
    made = tiny.config()
    made.method = "mr_rcnn"
    made.model.criterion.roi.samples = 16
    for key, value in settings.items():
        group = made.model.test if key in made.model.test else made.model.refine
        group[key] = value
    return made


def heads(**settings):
    return methods.build(config(**settings)).roi_heads


def shapes(inputs):
    """Of the parameters of the full model's heads; `inputs`: pyramid, proposals and targets."""
    init = functools.partial(heads().init, train=True, method="losses")
    key = jax.random.key(0)
    return jax.eval_shape(init, key, inputs.pyramid, inputs.proposals, inputs.targets, key)
