"""A program as one of several processes on this machine: `joined.py ADDRESS COUNT INDEX PROGRAM ARGUMENT...`."""

import os
import pathlib
import runpy
import socket
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def run(programs: list[list[str]], timeout: int = 600) -> list[tuple[int, str, str]]:
    """(exit status, output, errors) of programs that run together, e.g. the same command several times."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT), XLA_FLAGS="")
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] += os.pathsep + os.environ["PYTHONPATH"]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, address, str(len(programs)), str(index), *program],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, program in enumerate(programs)
    ]
    try:
        told = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(started, told, strict=True)]


def main(address: str, count: str, index: str, *program: str) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, int(count), int(index), heartbeat_timeout_seconds=60)
    sys.argv = list(program)
    sys.path[0] = str(pathlib.Path(program[0]).parent)
    runpy.run_path(program[0], run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
