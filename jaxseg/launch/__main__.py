"""Starts a program as several processes on this machine.

python -m jaxseg.launch --processes=4 train.py --config=configs/mask_rcnn.py:r50,coco --workdir=runs/r50

The program gets --coordinator_address, --num_processes and --process_id, and each process its share of the GPUs. What
they print is shown with their number before it. SIGTERM ends the run after a save, and so does Ctrl-C; a second Ctrl-C
ends it at once. If one process fails the others are ended within the bound of --grace, and the exit status is that of
the one that failed first.
"""

from __future__ import annotations

import argparse
import sys

from jaxseg import exits
from jaxseg.launch import devices, restarts

GRACE = 60.0


def parse(argv: list[str]) -> argparse.Namespace:
    """The launcher's own flags, and in `program` what follows them."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxseg.launch",
        description=__doc__.partition("\n")[0],
        epilog="See docs/scale.md.",
        allow_abbrev=False,
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    parser.add_argument(
        "--devices_per_process",
        type=int,
        help="GPUs for each (default: all, divided), or simulated devices on a CPU",
    )
    parser.add_argument(
        "--restarts", type=int, default=0, help="how often to start again where that helps"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=GRACE,
        help=f"seconds that the others have to end when one has failed (default: {GRACE:.0f})",
    )
    parser.add_argument("program", nargs=argparse.REMAINDER, help="train.py --config=... ...")
    args = parser.parse_args(argv)
    if args.program[:1] == ["--"]:
        del args.program[0]
    if not args.program or args.program[0].startswith("-"):
        parser.error("after the flags of the launcher a program is needed: train.py --config=...")
    for name, least in dict(processes=1, devices_per_process=1, restarts=0, grace=0).items():
        value = getattr(args, name)
        if value is not None and not value >= least:  # nan is not, either
            parser.error(f"--{name}={value}: must be at least {least}")
    return args


def main(argv: list[str]) -> int:
    """Runs it and gives the exit status."""
    args = parse(argv)
    try:
        environments = devices.split(args.processes, args.devices_per_process)
    except ValueError as error:
        print(f"jaxseg.launch: {error}", file=sys.stderr)
        return exits.MISTAKE
    return restarts.run(args.program, environments, restarts=args.restarts, grace=args.grace)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
