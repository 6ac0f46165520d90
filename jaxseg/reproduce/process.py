"""One program at a time, which no way of dying of this process leaves behind unnoticed; and the lock of its folder."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from absl import logging

from jaxseg.launch import tied

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None

LONGEST_ERROR = 600  # characters
MESSAGE = re.compile(
    r"(train|eval)\.py: "
)  # begins what they say of a mistake, which may have several lines
_STOPS = (signal.SIGTERM, signal.SIGINT)
_NOISE = ("For simplicity, JAX has removed its internal frames", "JAX_TRACEBACK_FILTERING")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Child:
    """A program of this Python, in a process group of its own, so that Ctrl-C does not reach it twice.

    Args:
      command: `python PROGRAM ARGUMENTS...`; its first word stands for the Python that runs this.
      output: a file opened for appending, which gets all that it prints.
      lock: descriptor of the lock of its folder, which it keeps open as long as it lives; or None.
      environment: variables that it gets besides our own.
    """

    def __init__(
        self,
        command: Sequence[str],
        output: IO[bytes],
        lock: int | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self._process = subprocess.Popen(
            tied.command([sys.executable, *command[1:]], signal.SIGTERM),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
            pass_fds=() if lock is None else (lock,),
            process_group=0,
        )
        self.peak_rss_gib: float | None = None  # where the system tells it

    def send(self, number: int) -> None:
        """Sends a signal, if it is still there."""
        self._process.send_signal(number)

    def poll(self) -> int | None:
        """The exit status, or minus the signal that killed it; None while it runs."""
        self._measure()
        return self._process.poll()

    def end(self) -> None:
        """Has it save and waits until it is gone."""
        if self._process.poll() is None:
            self.send(signal.SIGTERM)
            self._process.wait()

    def _measure(self) -> None:
        # Not the rusage of wait4: there a child has at least the memory of the parent that it was forked from.
        with contextlib.suppress(OSError, ValueError):
            status = pathlib.Path(f"/proc/{self._process.pid}/status").read_text()
            found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
            if found:
                self.peak_rss_gib = int(found[1]) / 2**20


class Stop:
    """While it is entered, SIGTERM and Ctrl-C are noted in `signal` and passed on to the child.

    Each is passed on, so that a second Ctrl-C ends the child at once as it would without us; the third signal kills it.
    A second one while no child runs ends this program. Outside the main thread nothing is installed.
    """

    def __init__(self):
        self.signal = 0
        self._child: Child | None = None
        self._early: list[int] = []  # signals that came while there was no child
        self._count = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPS:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def passing_to(self, child: Child) -> Iterator[None]:
        """Within it signals go to `child`; one that came just before does so now, and none does so twice."""
        self._child = child  # from here on the handler passes on itself
        while self._early:
            child.send(self._early.pop(0))
        try:
            yield
        finally:
            self._child = None

    def _handle(self, number: int, frame: object) -> None:
        self._count += 1
        self.signal = self.signal or number
        if self._child is not None:
            self._child.send(number if self._count < 3 else signal.SIGKILL)
        elif self._count > 1:
            sys.exit(128 + self.signal)
        else:
            self._early.append(number)


@contextlib.contextmanager
def locked(
    path: pathlib.Path, waits: Callable[[], None], stop: Stop, pause: float = 0.5
) -> Iterator[int | None]:
    """Holds the lock of a folder, once nobody else does; gives its descriptor, None where there are no locks.

    A child that gets the descriptor holds the lock, too, also when this process is gone.

    Args:
      path: the lock's file; it stays.
      waits: called once if somebody else has it.
      stop: ends the waiting with `Stopped`.
    """
    if fcntl is None:
        yield None
        return
    with open(path, "ab") as file:
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waits()
                told = True
                if stop.signal:
                    raise Stopped from None
                time.sleep(pause)
            except OSError:
                logging.info("%s cannot be locked.", path)
                break
        yield file.fileno()


class Stopped(Exception):
    """A signal came while something was waited for."""


def failure(status: int, output: str) -> str:
    """Why a program ended badly, in one line: its signal, or the last message that it printed.

    Args:
      status: as `Child.poll` gives it.
      output: what this start of it has printed, or the end of that.
    """
    if status < 0:
        name = signal.Signals(-status).name
        perhaps = "; perhaps out of memory" if -status == signal.SIGKILL else ""
        killed = f"killed by signal {-status} ({name}{perhaps})"
        said = (
            _last_words(output)
            if -status in (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
            else ""
        )
        return f"{killed}: {said}" if said else killed
    if status in (128 + signal.SIGTERM, 128 + signal.SIGINT):
        name = signal.Signals(status - 128).name
        return f"stopped by {name} from outside, after saving; the same command continues it"
    said = _last_words(output)
    if status == 0:
        return "ended without results" + (f": {said}" if said else "")
    return said or f"exit status {status}, without a word"


def _last_words(output: str) -> str:
    """The last line with a meaning, with what belongs to it: the message of an exception or of a mistake may have more.

    Of a long message the beginning is kept, which says what happened; what to do about it is in the output.
    """
    lines = [_COLOURS.sub("", line).rstrip() for line in output.replace("\r", "\n").splitlines()]
    lines = [x for x in lines if x.strip(" -=") and not any(noise in x for noise in _NOISE)]
    start, messages = max(0, len(lines) - 1), [i for i, x in enumerate(lines) if MESSAGE.match(x)]
    for i, line in enumerate(lines):
        if line.startswith("Traceback (most recent call last)"):
            # What follows the indented frames is the exception.
            start = next((k for k in range(i + 1, len(lines)) if lines[k][:1] != " "), start)
    if messages:  # what else went wrong at the exit does not matter
        start = messages[-1]
    words = " ".join(line.strip() for line in lines[start:])
    return words if len(words) <= LONGEST_ERROR else f"{words[: LONGEST_ERROR - 4]} ..."
