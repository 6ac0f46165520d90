"""The processes of one start: their output, their signals, their common end. All in one thread.

One thread, because Linux ends a child together with the thread that started it (`tied`).
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO, BinaryIO

from jaxseg.launch import tied

POLL = 0.1  # seconds


class Group:
    """Processes that live and end together.

    Args:
      commands: one for each process.
      environments: what each has besides the launcher's environment.
      outputs: where their stdout and stderr go, each line with `[number] ` before it.
    """

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        environments: Sequence[Mapping[str, str]],
        outputs: tuple[BinaryIO, BinaryIO],
    ):
        self._selector = selectors.DefaultSelector()
        self._processes: list[subprocess.Popen] = []
        for number, (command, extra) in enumerate(zip(commands, environments, strict=True)):
            process = subprocess.Popen(
                tied.command(command, signal.SIGKILL),
                # Python's output to a pipe would come in blocks.
                env={**os.environ, "PYTHONUNBUFFERED": "1", **extra},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C in the terminal reaches the launcher alone
            )
            self._processes.append(process)
            for pipe, out in zip((process.stdout, process.stderr), outputs, strict=True):
                os.set_blocking(pipe.fileno(), False)
                lines = _Lines(f"[{number}] ".encode(), out)
                self._selector.register(pipe, selectors.EVENT_READ, lines)

    def running(self) -> bool:
        """Whether any of them is."""
        return any(p.returncode is None for p in self._processes)

    def step(self) -> list[tuple[int, int]]:
        """Passes on what they print, for a moment; returns (number, status) of those that have just ended."""
        for key, _ in self._selector.select(POLL):
            self._pass_on(key)
        if not self._selector.get_map():
            time.sleep(POLL)
        return [
            (number, process.returncode)
            for number, process in enumerate(self._processes)
            if process.returncode is None and process.poll() is not None
        ]

    def send(self, number: int) -> None:
        """Sends a signal to those that are running."""
        for process in self._processes:
            process.send_signal(number)

    def close(self) -> None:
        """Ends what is left of them, with all that they have started, and passes on the rest of their output."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # data workers, too
            process.wait()
        for key in list(self._selector.get_map().values()):
            self._pass_on(key)
            key.data.end()
            key.fileobj.close()
        self._selector.close()

    def _pass_on(self, key: selectors.SelectorKey) -> None:
        while True:
            try:
                data = os.read(key.fd, 65536)
            except BlockingIOError:
                return
            if not data:
                key.data.end()
                if key.fd in self._selector.get_map():
                    self._selector.unregister(key.fileobj)
                return
            key.data.add(data)


class _Lines:
    """Whole lines of a stream, each with a prefix, so that those of several processes do not mix."""

    def __init__(self, prefix: bytes, out: BinaryIO):
        self._prefix, self._out, self._rest = prefix, out, b""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._write(lines)

    def end(self) -> None:
        if self._rest:
            self._write([self._rest])
        self._rest = b""

    def _write(self, lines: Sequence[bytes]) -> None:
        try:
            self._out.write(b"".join(self._prefix + line + b"\n" for line in lines))
            self._out.flush()
        except BrokenPipeError:
            to_nowhere(self._out)


def to_nowhere(out: IO) -> None:
    """After a BrokenPipeError: `| head` has enough, or `| tee` got the Ctrl-C, too.

    The processes are to save all the same. What is still written, also by Python at the end, is thrown away.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, out.fileno())
    os.close(nowhere)
