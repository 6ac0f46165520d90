"""eval.py, one process of which gets SIGTERM after its first batch: `terminated.py PROCESS ARGUMENT...`."""

import os
import pathlib
import runpy
import signal
import sys
import time

import jax

from jaxseg.evaluation import exchange


class Group(exchange.Group):
    """Sends this process the signal before it looks for one, once."""

    process = -1

    def check(self):
        if jax.process_index() == Group.process:
            Group.process = -1
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(2)  # jax's service hears of it after a second at most
        super().check()


if __name__ == "__main__":
    program = pathlib.Path(__file__).parents[2] / "eval.py"
    Group.process = int(sys.argv[1])
    exchange.Group = Group
    sys.argv = [str(program), *sys.argv[2:]]
    sys.path[0] = str(program.parent)
    runpy.run_path(str(program), run_name="__main__")
