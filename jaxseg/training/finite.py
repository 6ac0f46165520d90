"""Stops a run whose loss is not finite, without waiting for every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

_IN_FLIGHT = 2  # steps that may be under way on the device


class Guard:
    """Keeps what steps reported until somebody looks."""

    def __init__(self):
        self._steps: list[tuple[int, np.ndarray, Mapping[str, jax.Array]]] = []
        self._scalars: dict[str, float] = {}

    def add(self, step: int, image_ids: np.ndarray, scalars: Mapping[str, jax.Array]) -> None:
        """Notes a step with its batch's image ids and its metrics, still on the device.

        Waits for an earlier step, so that the host does not run ahead with batches that fill the memory.
        """
        self._steps.append((step, image_ids, scalars))
        if len(self._steps) > _IN_FLIGHT:
            jax.block_until_ready(self._steps[-1 - _IN_FLIGHT][2]["finite"])

    def check(self, optim: ConfigDict, saved: Sequence[int]) -> dict[str, float]:
        """Looks at the steps since the last look.

        Args:
          optim: `config.optim`, for the advice.
          saved: steps that have a checkpoint.

        Returns:
          The metrics of the newest step.

        Raises:
          FloatingPointError: the loss or gradient of one of them was not finite. The message names the first such step,
            its images, its learning rate, and what to try.
        """
        steps, self._steps = self._steps, []
        flags = jax.device_get([scalars["finite"] for _, _, scalars in steps])
        for (step, image_ids, scalars), ok in zip(steps, flags, strict=True):
            if not ok:
                raise FloatingPointError(_message(step, image_ids, _floats(scalars), optim, saved))
        if steps:
            self._scalars = _floats(steps[-1][2])
        return self._scalars


def _floats(scalars: Mapping[str, jax.Array]) -> dict[str, float]:
    return {k: float(v) for k, v in jax.device_get(scalars).items() if k != "finite"}


def _message(step, image_ids, scalars, optim, saved) -> str:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in scalars.items() if name != "lr")
    newest = f"the newest checkpoint is {saved[-1]}" if saved else "there is no checkpoint yet"
    warmup = max(1000, 2 * optim.warmup_steps)
    clip = min(10.0, optim.clip_norm / 4 or 10.0)
    return (
        f"The loss or its gradient is not finite at step {step} ({losses}).\n"
        f"Image ids of its batch: {', '.join(map(str, image_ids.tolist()))}. "
        f"Learning rate: {scalars['lr']:.4g}.\n"
        f"The step changed no parameter; {newest}. The same command comes to the same step again, so change "
        "something first:\n"
        f"  --config.optim.lr={optim.lr / 4:g}  a lower learning rate (now {optim.lr:g})\n"
        f"  --config.optim.warmup_steps={warmup}  a longer warm-up (now {optim.warmup_steps})\n"
        f"  --config.optim.clip_norm={clip:g}  clipped gradients (now {optim.clip_norm or 'none'})\n"
        "  --config.model.dtype=float32  if it is bfloat16\n"
        "and look at these images: python -m jaxseg.data.browse --config=..."
    )
