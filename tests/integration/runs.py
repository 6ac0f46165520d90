"""Runs of the stand-in model: in this process, or in one of their own that can be killed."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import standin

from jaxseg.training import loop, metrics

ROOT = pathlib.Path(__file__).parent.parent.parent
SPEEDS = ("images_per_second", "data_wait", "eta", "memory_gib")


class Console(metrics.Console):
    """Remembers its lines and calls `hook` with each."""

    def __init__(self, hook=None):
        super().__init__(quiet=True)
        self.lines, self._hook = [], hook

    def print(self, *objects, **_):
        self.lines.append(" ".join(map(str, objects)))
        if self._hook:
            self._hook(self.lines[-1])

    @property
    def text(self):
        return "\n".join(self.lines)


def train(folder, config=None, hook=None, build=standin.build):
    """(Result, Console) of a run in this process."""
    console = Console(hook)
    config = config or standin.make_config()
    result = loop.train(config, folder, base=standin.common.base(), build=build, console=console)
    return result, console


def start(folder, *settings, **options):
    """A run in a process of its own."""
    script = pathlib.Path(standin.__file__)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment |= options.pop("env", {})
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), *settings],
        env=environment,
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def bits(folder, step=12, place=None):
    """CRC-32 of every array of the final state: parameters, statistics, averages, momentum, counts."""
    place = place or folder / "checkpoints"
    return json.loads((place / str(step) / "digest" / "metadata").read_text())


def log(folder):
    """The log without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in SPEEDS} for line in metrics.read(folder)]


def assert_same(folder, wanted, step=12, place=None):
    """Both runs ended with the same bits, and their logs say the same, each step once."""
    assert bits(folder, step, place) == bits(wanted, step)
    assert log(folder) == log(wanted)
    assert (folder / "results.json").read_text() == (wanted / "results.json").read_text()
