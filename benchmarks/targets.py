"""Compilers for devices that are not here: what they need, and how a function is compiled with them."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from benchmarks import ptxas

_H200 = pathlib.Path(__file__).with_name("h200.txtpb")


class Target(NamedTuple):
    """A device to compile for."""

    platform: str  # as jax lowers for it
    topology: str


TARGETS = {
    "NVIDIA H200": Target("cuda", "1x1x1"),
    "TPU v5e": Target("tpu", "v5e:2x2"),
    "TPU v6e": Target("tpu", "v6e:2x2"),
}


def missing(platform: str) -> str | None:
    """The command that gets the compiler for `platform`, or None if it is there."""
    version = jax.__version__
    if platform == "cuda":
        wanted = ["nvidia-cuda-nvcc-cu12"] if ptxas.find() is None else []
        if not (_has("jax_plugins.xla_cuda12") or _has("jax_plugins.xla_cuda13")):
            wanted = [f"jax-cuda12-plugin=={version}", f"jax-cuda12-pjrt=={version}", *wanted]
    else:
        wanted = [] if _has("libtpu") else [f'"{_required("libtpu")}"']
    if not wanted:
        return None
    return f"pip install --no-deps --target DIR {' '.join(wanted)}, and put DIR on the PYTHONPATH"


def environment(platform: str, dump: str) -> dict[str, str]:
    """What a process that compiles for `platform` needs in its environment; GPU code is left in the folder `dump`."""
    variables = {"JAX_PLATFORMS": "cpu"}  # no device is looked for
    if platform == "cuda":
        assembler = ptxas.find()
        flags = [
            "--xla_gpu_autotune_level=0",  # there is no GPU to try on
            f"--xla_dump_to={dump}",
            "--xla_dump_emitter_re=ptx",  # newer releases dump it only if asked
        ]
        if assembler is not None:
            variables["PATH"] = f"{assembler.parent}{os.pathsep}{os.environ.get('PATH', '')}"
            flags.append(f"--xla_gpu_cuda_data_dir={assembler.parents[1]}")
        variables |= {"XLA_FLAGS": " ".join(flags), "MOSAIC_GPU_DUMP_PTXAS": "1"}
    else:
        library = importlib.util.find_spec("libtpu").submodule_search_locations[0]
        variables["TPU_LIBRARY_PATH"] = os.path.join(library, "libtpu.so")
        # Its lock is for processes that would share a TPU: these share none, and may be several.
        variables["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    return variables


def described(name: str) -> contextlib.AbstractContextManager:
    """The context in which kernels are lowered that ask for the kind of device; one for each lowering."""
    device = AbstractDevice(name, 1, {"cuda": "gpu"}.get(TARGETS[name].platform, "tpu"))
    return jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=device))


def devices(target: Target) -> list[jax.Device]:
    """Devices of the target that programs can be compiled for, and nothing else."""
    if target.platform == "cuda":
        description = topologies.get_topology_desc(
            platform="cuda", target_config=_H200.read_text(), topology=target.topology
        )
    else:
        description = topologies.get_topology_desc(target.topology, "tpu")
    return list(description.devices)


def compile_for(name: str, function: Callable, shapes) -> jax.stages.Compiled:
    """`function` of a pytree of ShapeDtypeStructs, compiled for one device of the target `name`."""
    target = TARGETS[name]
    mesh = jax.sharding.Mesh(devices(target)[:1], ("x",))
    sharding = NamedSharding(mesh, PartitionSpec())
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
    )
    with described(name):
        return (
            jax.jit(function).trace(shapes).lower(lowering_platforms=(target.platform,)).compile()
        )


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent is missing
        return False


def _required(package: str) -> str:
    """`package` with the version that this jax asks for."""
    for line in importlib.metadata.requires("jax") or ():
        if line.startswith(package):
            return line.partition(";")[0].strip()
    return package
