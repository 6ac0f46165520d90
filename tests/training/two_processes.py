"""Run by test_fsdp: a run of the stand-in, in one of several processes that hold some simulated devices each."""

import os
import sys

import jax

sys.path.insert(0, os.path.dirname(__file__))
import standin

from jaxseg.training import loop, metrics, sharding


class Console(metrics.Console):
    """Ends the run like a machine that is taken away, at the first line that starts with `at`."""

    def __init__(self, at: str):
        super().__init__(highlight=False)
        self._at = at

    def print(self, *objects, **options):
        super().print(*objects, **options)
        if self._at and str(objects[0]).startswith(self._at):
            sys.stdout.flush()
            os._exit(9)


def main(process: str, processes: str, address: str, folder: str, at: str, *settings: str) -> None:
    if int(processes) > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(address, int(processes), int(process))
    sharding.SMALLEST = 2
    config = standin.make_config(batch_size=8, steps=6, log_every=1, save_every=2, eval_every=0)
    config.eval.batch_size = 8
    standin.update(config, *settings)
    console = Console(at)
    console.quiet = int(process) > 0
    loop.train(config, folder, base=standin.common.base(), build=standin.build, console=console)


if __name__ == "__main__":
    main(*sys.argv[1:])
