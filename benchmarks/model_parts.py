"""What each part of a model costs: parameters, and multiply-adds (see `macs`). Shapes alone are traced.

A part is a flax module with everything inside of it. What is done outside of layers (RoIAlign, resampling, boxes) is
told apart by a rule: a layer is a module with parameters of its own, and the innermost module around an operation is
the one that does it.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from benchmarks import macs
from jaxseg import methods
from jaxseg.structures import Batch, RoIs
from jaxseg.training import state

Path = tuple[str, ...]  # of a module, from the model down
OPENED = {("roi_heads",)}  # these only hold parts, which are listed in their stead


class Work(NamedTuple):
    """An operation of an image: the innermost module around it, and whether it is done for each RoI.

    `unbounded`: see `macs.Operation`.
    """

    path: Path
    macs: int
    per_roi: bool
    unbounded: bool


class Traced(NamedTuple):
    """What one image's call of a model does.

    Attributes:
      parameters: of each module that has some of its own.
      work: every convolution and matrix product.
      rois: of each module that was called on RoIs, on how many, of all its calls together.
      variables: shapes and dtypes.
    """

    parameters: Mapping[Path, int]
    work: Sequence[Work]
    rois: Mapping[Path, int]
    variables: Any

    def of(self, path: Path) -> list[Work]:
        """What the layers of a part do."""
        layers = self.parameters
        return [w for w in self.work if w.path[: len(path)] == path and w.path in layers]

    def other(self) -> Mapping[Path, int]:
        """MACs outside of layers, by the module that calls for them."""
        counted = Counter()
        for work in self.work:
            if work.path not in self.parameters:
                counted[work.path] += work.macs
        return counted


class Part(NamedTuple):
    """A row of the table: MACs of one image, those of them that are spent on each RoI, and how many RoIs there are.

    `within` is the part that it belongs to, () if to none.
    """

    path: Path
    within: Path
    parameters: int
    macs: int
    rois: int | None
    macs_per_roi: float | None


def detection(config: ConfigDict, size: tuple[int, int]) -> Traced:
    """`model.detect` of one image on a canvas of `size` (height, width)."""
    return trace(model(config), image(config, size), method="detect")


def training(config: ConfigDict, size: tuple[int, int]) -> Traced:
    """`model.losses` of one image: the forward pass of a training step."""
    key, step = jax.eval_shape(lambda: (jax.random.key(0), jnp.int32(0)))
    batch = image(config, size, targets=True)
    return trace(model(config), batch, key, step, method="losses")


def image(config: ConfigDict, size: tuple[int, int], *, targets: bool = False) -> Batch:
    """Shapes and dtypes of a batch of one image."""
    config = ConfigDict(config).copy_and_resolve_references()
    config.data.buckets = (tuple(size),)
    batch = jax.eval_shape(lambda: state.example_batch(config))
    return batch if targets else batch.replace(targets=None)


def model(config: ConfigDict) -> nn.Module:
    """The model of a config, with the RoIAlign that every machine has: the same count everywhere."""
    config = ConfigDict(config).copy_and_resolve_references()
    if config.model.roi_align == "auto":
        config.model.roi_align = "xla"
    return methods.build(config)


def trace(
    model: nn.Module, *args: Any, method: str | Callable[..., Any] = "__call__", **static: Any
) -> Traced:
    """What `model.method(*args, **static)` does; `args` are shapes and dtypes, of a batch of one image."""
    rois: Counter[Path] = Counter()

    def run(args):
        key = jax.random.key(0)
        with nn.intercept_methods(_labelled(rois)):
            return model.init_with_output(key, *args, method=method, **static)[1]

    # Initialisers neither convolve nor multiply matrices: one trace gives the parameters and the work.
    jaxpr, variables = jax.make_jaxpr(run, return_shape=True)(args)
    leaves = traverse_util.flatten_dict(variables.get("params", {}))
    parameters: Counter[Path] = Counter()
    for path, leaf in leaves.items():
        parameters[path[:-1]] += math.prod(leaf.shape)
    work = [_work(operation) for operation in macs.operations(jaxpr.jaxpr)]
    return Traced(parameters, work, rois, variables)


def _labelled(rois: Counter[Path]) -> Callable[..., Any]:
    """An interceptor that labels what is traced with the module and the RoIs around it, and counts the latter."""
    around = [0]  # RoIs of the modules that are being called

    def intercept(call, args, kwargs, context):
        count = around[-1]
        if context.method_name == "__call__":
            given = [x for x in (*args, *kwargs.values()) if isinstance(x, RoIs)]
            if given:
                count = given[0].boxes.shape[1]
                rois[context.module.path] += count
        with _pushed(around, count), macs.label(f"{'.'.join(context.module.path)} {count}"):
            return call(*args, **kwargs)

    return intercept


@contextlib.contextmanager
def _pushed(stack: list[int], value: int) -> Iterator[None]:
    stack.append(value)
    try:
        yield
    finally:
        stack.pop()


def _work(operation: macs.Operation) -> Work:
    path, _, count = operation.label.partition(" ")
    rois = int(count or 0)
    # RoIs are the batch (of one image), or a factor of it: a layer may see their cells as one long axis.
    per_roi = rois > 0 and operation.batch % rois == 0
    return Work(_path(path), operation.macs, per_roi, operation.unbounded)


def _path(text: str) -> Path:
    return tuple(text.split(".")) if text else ()


def parts(traced: Traced) -> list[Part]:
    """The parts of a model in the order of their first operation, each followed by the parts that it is made of."""
    done = dict.fromkeys(w.path for w in traced.work if w.path in traced.parameters)
    layers = list(done | dict.fromkeys(traced.parameters))  # those that multiply nothing come last
    found = []
    for top in dict.fromkeys(path[: 1 + (path[:1] in OPENED)] for path in layers):
        inside = [path for path in layers if path[: len(top)] == top]
        depth = _depth_of_parts(inside, len(top))
        children = dict.fromkeys(path[:depth] for path in inside if path != top)
        found += [part(traced, top), *(part(traced, path, within=top) for path in children)]
    return found


def _depth_of_parts(layers: Sequence[Path], depth: int) -> int:
    """How long the paths of what a module of `depth` is made of are: what only wraps another module is passed over."""
    shallowest = min(map(len, layers))
    while depth + 1 < shallowest and len({path[: depth + 1] for path in layers}) == 1:
        depth += 1
    return depth + 1


def part(traced: Traced, path: Path, *, within: Path = ()) -> Part:
    """One part, all that is inside of it included."""
    work = traced.of(path)
    ancestors = [path[:n] for n in range(len(path), -1, -1)]
    rois = next((traced.rois[p] for p in ancestors if p in traced.rois), 0)
    per_roi = sum(w.macs for w in work if w.per_roi)
    return Part(
        path=path,
        within=within,
        parameters=sum(n for p, n in traced.parameters.items() if p[: len(path)] == path),
        macs=sum(w.macs for w in work),
        rois=rois if per_roi else None,
        macs_per_roi=per_roi / rois if per_roi else None,
    )


def training_only(detected: Traced, trained: Traced) -> list[Part]:
    """The parts that only training has, of `trained`."""
    known = {path[:n] for path in detected.parameters for n in range(len(path) + 1)}
    new = {}
    for path in trained.parameters:
        if path not in detected.parameters:
            new[next(path[:n] for n in range(len(path) + 1) if path[:n] not in known)] = None
    return [part(trained, path) for path in new]
