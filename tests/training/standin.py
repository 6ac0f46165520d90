"""A model that compiles in a second and has the apply contract of the methods, and a config for it."""

from __future__ import annotations

import ast
import functools
import os
import signal
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseg.modeling import norms
from jaxseg.structures import Detections

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
from configs import common

DETECTIONS = 8


class Standin(nn.Module):
    """Predicts the number of objects of each class from pooled pixels, and guesses boxes for `detect`."""

    num_classes: int
    norm: str = "batch_norm"
    noise: float = 0.1

    def setup(self):
        self.stem = nn.Dense(8, name="stem")
        self.body = nn.Dense(8, name="body")
        self.norm1 = norms.by_name(self.norm)(name="norm1")
        self.counts = nn.Dense(self.num_classes, name="counts")

    def features(self, batch, train):
        b, h, w, _ = batch.images.shape
        cells = batch.images.reshape(b, h // 8, 8, w // 8, 8, 3).astype(self.stem.param_dtype)
        x = nn.relu(self.stem(cells.mean((2, 4)) / 128.0 - 1.0))
        return nn.relu(self.norm1(self.body(x), train=train)).mean((1, 2))

    def losses(self, batch, key, step, *, train=True):
        del step
        logits = self.counts(self.features(batch, train))
        logits = logits + self.noise * jax.random.normal(key, logits.shape, logits.dtype)
        hot = jax.nn.one_hot(batch.targets.classes, self.num_classes, dtype=logits.dtype)
        wanted = (hot * batch.targets.valid[..., None]).sum(1)
        count = jnp.abs(logits - wanted).mean()
        size = jnp.square(logits).mean() * 0.01
        return count + size, {"count": count, "size": size}

    def detect(self, batch):
        logits = self.counts(self.features(batch, False))
        shape = (batch.images.shape[0], DETECTIONS)
        height, width = batch.image_size[:, :1], batch.image_size[:, 1:]
        part = (jnp.arange(DETECTIONS) + 1.0) / DETECTIONS
        zero = jnp.zeros(shape, jnp.float32)
        return Detections(
            boxes=jnp.stack([zero, zero, width * part, height * part], -1),
            scores=jnp.broadcast_to(jax.nn.sigmoid(logits[:, :1]) * part, shape),
            classes=jnp.broadcast_to(jnp.argmax(logits, -1)[:, None], shape).astype(jnp.int32),
            valid=jnp.broadcast_to(batch.valid[:, None], shape),
            masks=jnp.ones((*shape, 4, 4), jnp.float32),
        )


def build(config) -> Standin:
    return Standin(config.model.num_classes)


def make_config(**train):
    """A run of 12 steps over drawn scenes of 64x64."""
    config = common.base()
    config.method = "standin"
    config.freeze = ()
    config.data.source = "shapes"
    config.data.shapes.update(train=16, val=4, size=(48, 64), objects=(1, 3))
    config.data.update(
        buckets=((64, 64),), max_instances=6, max_crowds=1, mask_crop_size=16, workers=0
    )
    config.data.resize.update(short=(64,), max=64)
    config.data.eval_resize.update(short=64, max=64)
    config.optim.update(lr=0.05, base_batch_size=4, warmup_steps=3, milestones=(8,), ema=0.9)
    config.train.update(batch_size=4, steps=12, log_every=2, eval_every=6, save_every=3)
    config.train.update(**train)
    config.eval.update(batch_size=4, workers=0)
    return config


def main(folder: str, *settings: str) -> None:
    """A run as a process of its own; `settings` are `optim.lr=0.1` and the like."""
    from jaxseg.training import loop

    config = make_config()
    update(config, *settings)
    if "STANDIN_KILL" in os.environ:
        kill_at_rename(os.environ["STANDIN_KILL"])
    result = loop.train(config, folder, base=common.base(), build=build)
    if result.signal:
        sys.exit(128 + result.signal)


def kill_at_rename(target: str) -> None:
    """Kills this process when a file or folder is about to get a name that ends with `target`."""

    def guarded(original):
        def rename(source, destination, *args, **kwargs):
            if str(destination).endswith(target):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(source, destination, *args, **kwargs)

        return rename

    os.rename, os.replace = guarded(os.rename), guarded(os.replace)


def update(config, *settings: str) -> None:
    """Sets `optim.lr=0.1` and the like."""
    for setting in settings:
        key, _, value = setting.partition("=")
        *groups, last = key.split(".")
        group = functools.reduce(lambda g, name: g[name], groups, config)
        group[last] = ast.literal_eval(value)


if __name__ == "__main__":
    from jaxseg import cli
    from jaxseg.training import processes

    with processes.ending_together():
        cli.run(lambda argv: main(*argv[1:]), arguments=["folder and settings..."])
