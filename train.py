"""Trains a model: `python train.py --config=configs/demo.py --workdir=runs/demo`.

The same command continues a run that was stopped or killed. Every key of the config can be set from here, e.g.
`--config.optim.lr=0.01`.
"""

import os
import signal
import sys
import traceback

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "The config file.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, logs and results go.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {' '.join(argv[1:])}.")
    config = _CONFIG.value
    if config.get("deterministic", False):
        flags_ = "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags_}".strip()

    from configs import common
    from jaxseg.training import loop

    try:
        result = loop.train(config, _WORKDIR.value, base=common.base())
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("JAXSEG_TRACEBACK"):
            traceback.print_exc()
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)
    if not result.finished:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    app.run(main)
