"""The stand-in's run as a program of several processes: `several.py FOLDER SETTING... --num_processes=2 ...`.

In the folder's name `{process}` stands for the number of the process.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import standin

from jaxseg import cli
from jaxseg.training import loop, metrics, processes

processes.define_flags()


class Console(metrics.Console):
    """Prints, and sends this process a signal at a line: `JAXSEG_SEND="1 SIGTERM step 4/"` (FAIL and LAUNCHER, too)."""

    def print(self, *objects, **options):
        super().print(*objects, **options)
        send(" ".join(map(str, objects)))


def send(line: str) -> None:
    process, name, start = os.environ.get("JAXSEG_SEND", "0 SIGTERM never").split(maxsplit=2)
    if line.startswith(start) and processes.from_flags().process_id in (None, int(process)):
        if name == "FAIL":
            raise OSError("it failed")
        if name == "LAUNCHER":
            os.kill(os.getppid(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.Signals[name])
        time.sleep(1.5)  # all have heard of it after a second at most; the run might end sooner


def main(argv: list[str]) -> None:
    processes.initialize(processes.from_flags())
    config = standin.make_config()
    standin.update(config, *argv[2:])
    folder = argv[1].format(process=processes.from_flags().process_id)
    result = loop.train(
        config, folder, base=standin.common.base(), build=standin.build, console=Console()
    )
    if result.signal:
        sys.exit(128 + result.signal)


if __name__ == "__main__":
    with processes.ending_together():
        cli.run(main, standin.common.base, ["folder", "settings..."])
