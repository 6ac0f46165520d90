"""Starts the processes, waits for their end, and starts them again where that helps."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

from jaxseg import exits
from jaxseg.launch import group


def run(
    program: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    *,
    restarts: int,
    grace: float,
) -> int:
    """Runs a Python program once for each environment, as the processes of one run.

    Args:
      program: its file and arguments.
      environments: what each process has besides the launcher's environment.
      restarts: how often it may be started again, see `exits.restart_helps`.
      grace: seconds that the others have to end when one has failed.

    Returns:
      The exit status: 0, or that of the process that failed first.
    """
    with _signals() as asked:
        for again in range(1, restarts + 2):
            status = _once(program, environments, grace, asked)
            if status == 0 or asked or again > restarts or not exits.restart_helps(status):
                break
            _tell(f"starts again (restart {again} of {restarts}).")
    if status and signal.SIGINT in asked:
        return exits.INTERRUPTED
    return status


def _once(
    program: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    grace: float,
    asked: list[int],
) -> int:
    """The status of one start of all processes."""
    processes = group.Group(
        _commands(program, len(environments)),
        environments,
        (sys.stdout.buffer, sys.stderr.buffer),
    )
    status, passed_on, deadline = 0, 0, float("inf")
    with contextlib.closing(processes):
        while processes.running():
            # Of those that end at a time, the one that lost another is not the cause.
            for number, returncode in sorted(processes.step(), key=lambda e: e[1] == exits.LOST):
                ended = exits.of(returncode)
                if ended:
                    _tell(f"process {number} of {len(environments)} {exits.told(ended)}.")
                if ended and not status:
                    status, deadline = ended, time.monotonic() + grace
            if len(asked) > passed_on:
                passed_on = len(asked)
                # A second wish: at once. The first, from wherever it came: save, then end.
                processes.send(signal.SIGTERM if passed_on == 1 else signal.SIGKILL)
            if time.monotonic() > deadline:
                _tell(f"{grace:.0f} s later others are still running; they are killed.")
                break
    return status


def _commands(program: Sequence[str], count: int) -> list[list[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    if count == 1:
        return [[sys.executable, *program]]
    common = [sys.executable, *program, f"--coordinator_address={address}"]
    return [[*common, f"--num_processes={count}", f"--process_id={i}"] for i in range(count)]


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGTERMs and SIGINTs that have come within it."""
    asked: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {n: signal.signal(n, lambda number, _: asked.append(number)) for n in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    try:
        print(f"jaxseg.launch: {text}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        group.to_nowhere(sys.stderr)
