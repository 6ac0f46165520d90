"""What a run says about itself: a console line, `log.jsonl`, and TensorBoard events.

Each step stands once in `log.jsonl`, also when a run was killed and started again.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import tensorboardX
from rich.console import Console

FILE = "log.jsonl"
EVENTS = "tensorboard"


class MetricWriter:
    """Writes scalars to `log.jsonl` and TensorBoard. A context manager; every line is on disk when it returns.

    Args:
      folder: the work directory.
      step: the step that the run starts from; what an earlier start logged after it is dropped.
    """

    def __init__(self, folder: str | pathlib.Path, step: int = 0):
        self._path = pathlib.Path(folder) / FILE
        try:
            _drop_after(self._path, step)
            self._file = open(self._path, "a", encoding="utf-8")  # noqa: SIM115
            self._events = tensorboardX.SummaryWriter(
                str(pathlib.Path(folder) / EVENTS),
                purge_step=step + 1 if step else None,
                filename_suffix=f".{os.getpid()}.{step}",  # the rest of the name is only the second
            )
        except OSError as error:
            raise self._failure(error) from error

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self._file.close()
            self._events.close()
        except OSError as error:
            if kind is None:
                raise self._failure(error) from error

    def write(self, step: int, split: str, scalars: Mapping[str, float]) -> None:
        """Appends one line `{"step", "split", ...scalars}`.

        Raises:
          OSError: the disk is full or the file is gone; the message says where.
        """
        try:
            self._file.write(json.dumps({"step": step, "split": split, **scalars}) + "\n")
            self._file.flush()
            for name, value in scalars.items():
                self._events.add_scalar(f"{split}/{name}", value, step)
            self._events.flush()
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> OSError:
        return type(error)(
            f"Could not write the log to {self._path.parent}: {error.strerror or error}. Finished checkpoints are not "
            "touched: free some space, then start again with the same command."
        )


def read(folder: str | pathlib.Path, split: str | None = None) -> list[dict[str, Any]]:
    """The lines of `log.jsonl`, all or of one split ("train" or "val"). Half a last line is left out."""
    return [x for x in _lines(pathlib.Path(folder) / FILE) if split in (None, x["split"])]


def _lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a kill or a full disk in mid-line
        if isinstance(entry, dict) and "step" in entry and "split" in entry:
            yield entry


def _drop_after(path: pathlib.Path, step: int) -> None:
    if not path.exists():
        return
    kept = [x for x in _lines(path) if x["step"] <= step]
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    try:
        temporary.write_text("".join(json.dumps(x) + "\n" for x in kept), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


class Clock:
    """Speed and time left: steps are timed without compilation and validation, which are estimated apart.

    Args:
      step, steps: where the run starts and ends.
      images: images a step.
      eval_every: steps between validations (0: only one at the end).
    """

    def __init__(self, step: int, steps: int, images: int, eval_every: int = 0):
        self._steps, self._images, self._eval_every = steps, images, eval_every
        self._seconds_per_step = self._seconds_per_eval = 0.0
        self._restart(step)

    def _restart(self, step: int) -> None:
        self._begin, self._from, self._waited, self._other = time.perf_counter(), step, 0.0, 0.0

    def waited(self, seconds: float) -> None:
        """Counts time in which the step had to wait for data."""
        self._waited += seconds

    def compiled(self, seconds: float) -> None:
        """Counts time that compilation took."""
        self._other += seconds

    def evaluated(self, seconds: float) -> None:
        """Counts time that a validation took."""
        self._seconds_per_eval = seconds
        self._other += seconds

    def read(self, step: int) -> dict[str, float]:
        """Speeds since the last call: images_per_second, data_wait (share of the time), eta (seconds).

        And memory_gib, the peak of the run so far, where the backend tells it.
        """
        count = max(1, step - self._from)
        seconds = max(1e-6, time.perf_counter() - self._begin - self._other)
        fresh = seconds / count
        old = self._seconds_per_step
        self._seconds_per_step = 0.5 * (old + fresh) if old else fresh
        waited = min(1.0, self._waited / seconds)
        self._restart(step)
        left = self._steps - step
        evals = (
            -(-self._steps // self._eval_every) - step // self._eval_every
            if self._eval_every
            else 1
        )
        speed = {
            "images_per_second": self._images / fresh,
            "data_wait": waited,
            "eta": left * self._seconds_per_step + evals * self._seconds_per_eval,
        }
        memory = memory_in_use()
        return speed if memory is None else speed | {"memory_gib": memory}


def memory_in_use() -> float | None:
    """Peak memory of the first device in GiB; None where the backend does not say (CPU)."""
    stats = jax.local_devices()[0].memory_stats() or {}
    peak = stats.get("peak_bytes_in_use", stats.get("bytes_in_use"))
    return None if peak is None else peak / 2**30


def console_line(
    step: int, steps: int, scalars: Mapping[str, float], speed: Mapping[str, float]
) -> str:
    """One line of progress: step, losses, learning rate, images/s, time left, memory, waiting for data."""
    hidden = ("loss", "lr", "grad_norm")
    losses = "  ".join(f"{k} {v:.4g}" for k, v in scalars.items() if k not in hidden)
    words = [
        f"step {step}/{steps}",
        f"loss {scalars['loss']:.4g}" + (f"  ({losses})" if losses else ""),
        f"lr {scalars['lr']:.3g}",
        f"{speed['images_per_second']:.3g} images/s",
        f"ETA {duration(speed['eta'])}",
    ]
    if "memory_gib" in speed:
        words.append(f"{speed['memory_gib']:.1f} GiB")
    if speed["data_wait"] >= 0.05:
        words.append(f"waits for data {speed['data_wait']:.0%}")
    return "  ".join(words)


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def make_console() -> Console:
    """A console that keeps a line one line, also in a log file."""
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    return (
        console
        if console.is_terminal
        else Console(width=120, soft_wrap=True, highlight=False, markup=False)
    )
