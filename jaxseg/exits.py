"""Exit statuses of training and evaluation, and which of them the same command can mend.

Everything that restarts a run (`jaxseg.launch`, Slurm, Kubernetes) goes by these numbers; `docs/scale.md` has them in a
table for users.
"""

from __future__ import annotations

import signal

MISTAKE = 2  # of the user, told in one message
LOST = 75  # another process of the run is gone; EX_TEMPFAIL of sysexits.h: try again
INTERRUPTED = 128 + signal.SIGINT  # somebody wanted it to end
PREEMPTED = 128 + signal.SIGTERM  # saved, and ended


def of(returncode: int) -> int:
    """The status as a shell has it, of a status as `subprocess` has it: -9 is 137."""
    return 128 - returncode if returncode < 0 else returncode


def restart_helps(status: int) -> bool:
    """Whether the run may come further if the same command is given again."""
    return status == LOST or (status > 128 and status != INTERRUPTED)


def told(status: int) -> str:
    """What became of a process, to put after its name."""
    if status == LOST:
        return f"lost another process (exit {status})"
    if status == PREEMPTED:
        return f"was told to end by SIGTERM (exit {status})"
    if status == MISTAKE:
        return f"found a mistake, which it has told (exit {status})"
    if status > 128:
        try:
            return f"was killed by {signal.Signals(status - 128).name} (exit {status})"
        except ValueError:
            pass
    return f"failed (exit {status})"
