"""The box head's convolutions and norms."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxseg.modeling import box_head, norms
from jaxseg.structures import Pyramid, RoIs


def head(norm=norms.Identity):
    return box_head.FCBoxHead(
        num_logits=3,
        num_boxes=2,
        pool=lambda pyramid, boxes, size: pyramid.levels[0],  # pooled features stand in for a level
        pool_size=4,
        fcs=1,
        fc_dim=6,
        convs=2,
        channels=5,
        norm=norm,
    )


def rois(counted):
    counted = jnp.asarray([counted])
    return RoIs(jnp.zeros((1, counted.shape[1], 4)), counted, counted)


def pooled(features):
    return Pyramid((jnp.asarray(features),), jnp.full((1, 2), 4.0), (1,))


def shapes_of(module, rois_):
    features = jnp.zeros((1, 3, 4, 4, 3))
    init = lambda: module.init(jax.random.key(0), pooled(features), rois_, train=False)  # noqa: E731
    return jax.tree.map(jnp.shape, jax.eval_shape(init))


def test_four_conv_one_fc_has_the_layers_of_torchvisions_v2():
    shapes = shapes_of(head(norms.BatchNorm), rois([True] * 3))["params"]
    assert shapes["conv0"] == {"kernel": (3, 3, 3, 5)}  # the norm has the bias
    assert shapes["conv1"] == {"kernel": (3, 3, 5, 5)}
    assert shapes["norm1"] == {"scale": (5,), "bias": (5,)}
    assert shapes["fc0"]["kernel"] == (4 * 4 * 5, 6) and "fc1" not in shapes
    without = shapes_of(head(), rois([True] * 3))["params"]
    assert set(without["conv0"]) == {"kernel", "bias"} and "norm0" not in without


def test_rois_that_do_not_count_change_no_statistics():
    rng = np.random.default_rng(1)
    module, counted = head(norms.BatchNorm), rois([True, True, False])
    make = lambda shape: rng.uniform(0.5, 1.0, shape).astype(np.float32)  # noqa: E731
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    variables = jax.tree.map(make, shapes_of(module, counted), is_leaf=is_shape)

    @jax.jit
    def apply(features):
        return module.apply(
            variables, pooled(features), counted, train=True, mutable=["batch_stats"]
        )

    features = rng.normal(size=(1, 3, 4, 4, 3)).astype(np.float32)
    junk = features.copy()
    junk[0, 2] = 1e3
    (logits, deltas), stats = apply(features)
    assert logits.shape == (1, 3, 3) and deltas.shape == (1, 3, 2, 4)
    (again, _), same = apply(junk)
    np.testing.assert_array_equal(logits[:, :2], again[:, :2])
    assert not np.array_equal(logits[:, 2], again[:, 2])
    jax.tree.map(np.testing.assert_array_equal, stats, same)
