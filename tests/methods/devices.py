"""Run by test_devices in a process of its own, e.g. with "heads mask_rcnn" "step mask_rcnn", printed as JSON:
8 simulated devices against one.

The heads are compared on fixed proposals in float32, the whole step in float64: the last bit of a float32 score can
decide a top-k or a suppression, which is no error.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from configs import common, maskplus
from jaxseg import methods
from jaxseg.structures import Pyramid, RoIs
from jaxseg.training import optimizer, sharding, state
from jaxseg.training import step as steps
from tests.methods import tiny

IMAGES = 8


def config(method: str, dtype: str = "float32"):
    made = tiny.config(dtype)
    if method == "atmask":
        made.model.mask_head.name = method
    elif method == "maskplus":
        channels = made.model.fpn.channels
        made.model.maskplus.update(maskplus.ROWS["all"])
        made.model.maskplus.context = (2 * channels, channels)
    elif method.startswith("brefine"):  # and the images of a ranking
        made.model.mask_head.name, made.model.mask_head.loss = "brefine", "brce"
        made.model.brefine.stages = 2
        made.train.batch_size = IMAGES
        common.ranked(made, score=0.0)
        made.model.criterion.rank_sort.group = int(method.removeprefix("brefine"))
        made.model.criterion.rank_sort.max_positives = 4
    else:
        made.method = method
    return made


def meshes():
    axis = {"axis_types": (AxisType.Auto,)}
    yield jax.make_mesh((1,), ("data",), devices=jax.devices()[:1], **axis)
    yield jax.make_mesh((8,), ("data",), **axis)


def on_each(function, parameters, batch):
    """`function(parameters, batch)` with the batch on one device and on eight."""
    for mesh in meshes():
        with jax.set_mesh(mesh):
            split = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
            whole = jax.device_put(parameters, NamedSharding(mesh, PartitionSpec()))
            yield jax.device_get(jax.jit(function)(whole, split))


def difference(a, b) -> float:
    """The largest difference, relative to the largest number of the array it is in."""

    def worst(x, y):
        return float(np.abs(x - y).max() / max(np.abs(x).max(), 1e-3))

    return max(jax.tree.leaves(jax.tree.map(worst, a, b)))


def heads(method: str) -> float:
    """Loss and gradients (parameters and features) of the RoI heads in float32."""
    model = methods.build(config(method))
    batch = tiny.batch(IMAGES)
    params = jax.tree.map(lambda x: x.astype(jnp.float32), tiny.variables(model, batch)["params"])
    rng = np.random.default_rng(0)
    levels = [
        rng.normal(size=(IMAGES, 64 // s, 64 // s, 16)).astype(np.float32) for s in (4, 8, 16, 32)
    ]
    boxes = np.concatenate(
        [rng.uniform(0, 30, (IMAGES, 12, 2)), rng.uniform(34, 64, (IMAGES, 12, 2))], -1
    )
    valid = np.ones((IMAGES, 12), bool)
    rois = RoIs(boxes.astype(np.float32), valid, valid)

    def losses(params, inputs):
        def total(params, levels):
            pyramid = Pyramid(tuple(levels), inputs["size"], (4, 8, 16, 32))
            terms, masks = model.apply(
                {"params": params},
                pyramid,
                inputs["rois"],
                inputs["targets"],
                jax.random.key(0),
                method=lambda m, *args: m.roi_heads.losses(*args, train=True),
            )
            return model.criterion.total(terms, masks, jnp.int32(0))[0]

        return jax.value_and_grad(total, argnums=(0, 1))(params, inputs["levels"])

    inputs = {"levels": levels, "size": batch.image_size, "rois": rois, "targets": batch.targets}
    return difference(*on_each(losses, params, inputs))


def step(method: str) -> float:
    """Loss, gradients and batch statistics of the whole model in float64, with synchronised batch norm."""
    jax.config.update("jax_enable_x64", True)
    model = methods.build(config(method, "float64"))
    batch = tiny.batch(IMAGES)
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), tiny.variables(model, batch))
    loss = tiny.loss_function(model)

    def gradients(variables, batch):
        with_aux = jax.value_and_grad(loss, has_aux=True)
        return with_aux(variables["params"], variables["batch_stats"], batch, jax.random.key(0))

    one, eight = on_each(gradients, variables, batch)
    assert one[0][0].dtype == np.float64
    return difference(one, eight)


def spread(method: str) -> float:
    """State and loss after a step of training in float64, where four of eight devices share a copy of the state."""
    jax.config.update("jax_enable_x64", True)
    sharding.SMALLEST = 2
    made = config(method, "float64")
    made.train.batch_size = IMAGES
    model = methods.build(made)
    batch = tiny.batch(IMAGES)
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), tiny.variables(model, batch))
    transform, schedule = optimizer.make(made, variables["params"])
    first = jax.device_get(
        state.create(variables["params"], variables["batch_stats"], transform, ema=False)
    )

    def after(mesh):
        lies = sharding.of_state(first, mesh)
        step_fn = steps.make_train_step(model, transform, schedule, mesh, seed=1, shardings=lies)
        with jax.set_mesh(mesh):
            put = jax.device_put(first, lies), sharding.put_batch(batch, mesh)
            now, log = step_fn(*put)
            assert sharding.lying(now) == lies
            return jax.device_get((now, log["loss"]))

    eight = sharding.make_mesh(fsdp=4)
    assert not all(x.is_fully_replicated for x in jax.tree.leaves(sharding.of_state(first, eight)))
    one, split = after(sharding.make_mesh(jax.devices()[:1])), after(eight)
    assert one[1].dtype == np.float64
    return difference(one, split)


if __name__ == "__main__":
    assert jax.device_count() == 8, jax.devices()
    # Heads first: the steps turn on float64.
    wanted = sorted(sys.argv[1:])
    print(
        json.dumps(
            {f"{what} {method}": globals()[what](method) for what, method in map(str.split, wanted)}
        )
    )
