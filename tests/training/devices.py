"""Run by test_fsdp in a process of its own with 8 simulated devices: what is left of a state that is split over some.

Everything in float64, so that a difference is an error and not the order of a sum. Printed as JSON.
"""

import functools
import json
import os
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, os.path.dirname(__file__))
import standin
import test_step

from jaxseg.training import checkpoints, optimizer, sharding, state, step

jax.config.update("jax_enable_x64", True)
IMAGES, STEPS = 8, 3
MODEL = standin.Standin(3)
CONFIG = standin.make_config(batch_size=IMAGES)


def first_values():
    return state.init_variables(MODEL, state.example_batch(CONFIG, IMAGES), CONFIG.seed)


TRANSFORM, SCHEDULE = optimizer.make(CONFIG, jax.eval_shape(first_values)[0])


def create():
    params, stats = jax.tree.map(lambda x: x.astype(jnp.float64), first_values())
    return state.create(params, stats, TRANSFORM, ema=True)


def wanted(mesh):
    """Shapes and shardings of the state on a mesh."""
    shapes = jax.eval_shape(create)
    return jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies),
        shapes,
        sharding.of_state(shapes, mesh),
    )


@functools.cache
def mesh_of(devices, fsdp):
    return sharding.make_mesh(jax.devices()[:devices], fsdp)


@functools.cache
def step_on(mesh, **options):
    """Compiled once, whoever asks."""
    options |= {"ema": 0.9, "shardings": sharding.lying(wanted(mesh))}
    return step.make_train_step(MODEL, TRANSFORM, SCHEDULE, mesh, **options)


def trained(mesh, now, steps, **options):
    """(state, losses) after some more steps."""
    step_fn, losses = step_on(mesh, **options), []
    with jax.set_mesh(mesh):
        for _ in range(steps):
            given = jax.tree.leaves(now.params)
            now, log = step_fn(now, sharding.put_batch(test_step.random_batch(IMAGES), mesh))
            losses.append(float(log["loss"]))
            assert all(x.is_deleted() for x in given)
    assert sharding.lying(now) == sharding.lying(wanted(mesh))
    return now, losses


def made_on(mesh):
    return jax.jit(create, out_shardings=sharding.lying(wanted(mesh)))()


@functools.cache
def first():
    return jax.device_get(made_on(mesh_of(1, 1)))


def begin(mesh):
    return jax.device_put(first(), sharding.lying(wanted(mesh)))


def difference(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


def equal_steps() -> dict:
    """Largest differences of a run with a copy of the state on each device and runs with fewer copies."""
    whole = trained(mesh_of(8, 1), begin(mesh_of(8, 1)), STEPS)
    return {
        f"{devices}/{fsdp}": difference(
            trained(mesh_of(devices, fsdp), begin(mesh_of(devices, fsdp)), STEPS), whole
        )
        for devices, fsdp in ((1, 1), (8, 2), (8, 4), (8, 8))
    }


def accumulated() -> float:
    """The same with batches in parts and some parameters frozen."""
    options = {"accumulate": 2, "freeze": ("stem",)}
    meshes = mesh_of(4, 1), mesh_of(4, 4)
    return difference(*(trained(mesh, begin(mesh), 2, **options) for mesh in meshes))


def same_start() -> float:
    """Of initial values that are made split and those that are made whole."""
    return difference(made_on(mesh_of(8, 8)), first())


def compiled() -> dict:
    """Collectives of the step, and bytes of the state on each device."""
    found = {}
    for fsdp in (1, 8):
        mesh = mesh_of(8, fsdp)
        with jax.set_mesh(mesh):
            batch = sharding.put_batch(test_step.random_batch(IMAGES), mesh)
            step_fn = step_on(mesh)
            made = step_fn.func.lower(wanted(mesh), batch, **step_fn.keywords).compile()
        lines = [line for line in made.as_text().splitlines() if " = " in line]
        gathers = [line for line in lines if " all-gather(" in line]
        found[str(fsdp)] = {
            "gathers": len(gathers),
            "of parameters": sum("f64" in line for line in gathers),
            "kept": sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(begin(mesh))),
            "arguments": made.memory_analysis().argument_size_in_bytes,
            "given away": made.memory_analysis().alias_size_in_bytes,
        }
    return found


def restored() -> dict:
    """Losses and states of runs that went on elsewhere, against that of the run that did not stop."""
    eight, found = mesh_of(8, 1), {}
    for saved_on in (eight, mesh_of(8, 4)):
        now, _ = trained(saved_on, begin(saved_on), 2)
        with tempfile.TemporaryDirectory() as folder:
            with checkpoints.Checkpoints(folder) as saved:
                saved.save(now)
            end = trained(saved_on, now, 1)
            for devices, fsdp in ((4, 1), (4, 4), (1, 1), (8, 8)):
                mesh = mesh_of(devices, fsdp)
                with checkpoints.Checkpoints(folder) as saved:
                    back = saved.restore(wanted(mesh))
                assert sharding.lying(back) == sharding.lying(wanted(mesh))
                name = f"{sharding.told(saved_on)} -> {devices}/{fsdp}"
                found[name] = difference(trained(mesh, back, 1), end)
    return found


if __name__ == "__main__":
    assert jax.device_count() == 8, jax.devices()
    sharding.SMALLEST = 2
    names = sys.argv[1:] or ("equal_steps", "accumulated", "same_start", "compiled", "restored")
    print(json.dumps({name: globals()[name]() for name in names}))
