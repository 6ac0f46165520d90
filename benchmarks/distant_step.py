"""The training step of `train.py`, compiled for devices that are not here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import detector
from jaxseg import methods
from jaxseg.training import optimizer, sharding, state
from jaxseg.training import step as step_lib


def lowered(config: ConfigDict, devices: Sequence[jax.Device]) -> jax.stages.Lowered:
    """The step of `config.train.batch_size` images over a mesh of `devices` (`targets.devices`)."""
    mesh, model = sharding.make_mesh(devices, config.mesh.fsdp), methods.build(config)
    batch, params, stats = detector.shapes(config, model, config.train.batch_size)
    transform, schedule = optimizer.make(config, params)
    begin = jax.eval_shape(
        lambda p, s: state.create(p, s, transform, ema=config.optim.ema > 0), params, stats
    )
    lies = sharding.of_state(begin, mesh)
    made = []

    def make():
        made.append(
            step_lib.make_train_step(
                model,
                transform,
                schedule,
                mesh,
                seed=config.seed,
                freeze=tuple(config.freeze),
                accumulate=config.optim.accumulate,
                ema=config.optim.ema,
                shardings=lies,
            )
        )

    # Kernels are chosen for the default device, and shards are those of the mesh that is set.
    with jax.default_device(devices[0]), jax.set_mesh(mesh):
        jax.eval_shape(
            make
        )  # the seed is put on the mesh, which only a trace can do with such devices
        split = jax.tree.map(lambda _: sharding.batch_sharding(mesh), batch)
        return made[0].func.lower(
            _shaped(begin, lies),
            _shaped(batch, split),
            seed=jax.ShapeDtypeStruct((), np.uint32, sharding=sharding.replicated(mesh)),
        )


def _shaped(tree: Any, placed: Any) -> Any:
    return jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), tree, placed
    )
