"""Trains a model: `python train.py --config=configs/demo.py --workdir=runs/demo`.

The same command continues a run that was stopped or killed. Every key of the config can be set from here, e.g.
`--config.optim.lr=0.01`. Exit status: 0 finished; 2 a mistake that is explained in one message (JAXSEG_TRACEBACK=1
shows where it came up); 143 or 130 stopped by SIGTERM or Ctrl-C, after saving; 75 or 134 another process of the run is
gone. On several machines (docs/scale.md) it is the same command on each.
"""

import os
import sys

from absl import flags
from ml_collections import config_flags

from configs import common
from jaxseg import cli
from jaxseg.training import loop, processes, setup

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
flags.mark_flags_as_required(["config", "workdir"])
processes.define_flags()


def main(argv: list[str]) -> None:
    del argv
    config = _CONFIG.value
    if config.get("deterministic", False):
        # XLA reads it once, when jax starts its first computation.
        set_before = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{set_before} {setup.GPU_DETERMINISM}".strip()
    processes.initialize(processes.from_flags())
    result = loop.train(config, _WORKDIR.value, base=common.base())
    if result.signal:
        sys.exit(128 + result.signal)


if __name__ == "__main__":
    with processes.ending_together():
        cli.run(main, common.base)
