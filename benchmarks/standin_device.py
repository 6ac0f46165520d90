"""An accelerator that only takes time, fed by a real input."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import jax


class Device:
    """An accelerator that does one step after the other, and holds the host up when one waits already."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._free = time.perf_counter()
        self.idle = 0.0  # seconds since it was made in which no step ran

    def step(self) -> None:
        """Takes a step over: at once if none waits, else when the one that runs is done."""
        now = time.perf_counter()
        if now < self._free:
            time.sleep(self._free - now)
        else:
            self.idle += now - self._free
        self._free = max(now, self._free) + self._seconds


def run(batches: Iterator[Any], seconds: float, steps: int) -> dict[str, float]:
    """{"idle", "data_wait", "steps_per_second"} of so many steps, each of so many seconds and with a batch."""
    device, waited = Device(seconds), 0.0
    begin = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        jax.block_until_ready(next(batches))
        waited += time.perf_counter() - asked
        device.step()
    total = time.perf_counter() - begin
    return {
        "idle": min(1.0, device.idle / total),
        "data_wait": waited / total,
        "steps_per_second": steps / total,
    }
