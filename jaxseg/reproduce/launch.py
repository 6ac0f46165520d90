"""Executed by `process.Child`: becomes the program to run, which then gets SIGTERM when its parent dies in any way.

    python launch.py PARENT PYTHON PROGRAM ARGUMENTS...

The request lasts over the exec. It is made here rather than between fork and exec of the parent, where Python code is
not safe. Where there is no prctl (not Linux) the program outlives a parent that is killed; the lock of its folder then
keeps others out until it is done.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != int(parent):  # it died before the request
            sys.exit(128 + signal.SIGTERM)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
