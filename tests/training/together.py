"""The stand-in's run as one of several processes here: `together.py PROCESS COUNT PORT FOLDER SETTING...`."""

import sys

import jax
import standin

if __name__ == "__main__":
    process, count, port, *rest = sys.argv[1:]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        f"127.0.0.1:{port}",
        int(count),
        int(process),
        heartbeat_timeout_seconds=10,
        shutdown_timeout_seconds=30,
    )
    standin.main(*rest)
