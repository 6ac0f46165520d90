"""A program that does not outlive its parent, also if that is killed and cannot say anything.

    python tied.py SIGNAL PARENT PROGRAM ARGUMENTS...

asks the kernel for SIGNAL at the parent's death and becomes PROGRAM, over whose start the request lasts. It is made
here rather than between fork and exec of the parent, where Python code is not safe. Where there is no prctl (not Linux)
the program outlives a parent that is killed. The parent's death is that of the thread that started the program.
"""

import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1


def command(program: Sequence[str], at_death: signal.Signals) -> list[str]:
    """The command that starts `program`, whose first word is a path, tied to this process."""
    isolated = [sys.executable, "-I", "-S", os.path.abspath(__file__)]
    return [*isolated, str(int(at_death)), str(os.getpid()), *program]


def main() -> None:
    number, parent, *program = sys.argv[1:]
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the request
            sys.exit(128 + int(number))
    os.execv(program[0], program)


if __name__ == "__main__":
    main()
