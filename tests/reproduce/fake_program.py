"""Behaves like train.py or eval.py towards the runner, in milliseconds: log, checkpoints, results, SIGTERM, errors.

--workdir=DIR or --out=DIR, --steps=N, --do=WHAT (see `main`).
"""

import json
import os
import pathlib
import signal
import sys
import time

ARGUMENTS = dict(argument.lstrip("-").partition("=")[::2] for argument in sys.argv[1:])
FOLDER = pathlib.Path(ARGUMENTS.get("out", ARGUMENTS.get("workdir")))
STEPS = int(ARGUMENTS.get("steps", 3))
DO = ARGUMENTS.get("do", "")
signals = []


def main():
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with open(FOLDER / "starts.txt", "a") as file:
        file.write(f"{time.time()}\n")
    start = len((FOLDER / "starts.txt").read_text().splitlines())
    print("A fake program begins.")
    if DO == "fail" or (DO == "fail_once" and start == 1):
        raise ValueError("the loss is\nnot finite")
    if DO == "mistake":
        print("train.py: config.optim.lr=x: must be a number.", file=sys.stderr)
        sys.exit(2)
    if DO == "full":
        sys.exit("train.py: Could not write checkpoint 2: No space left on device.")
    if DO == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if DO == "quiet":
        return
    if DO == "leave":  # stopped by somebody else
        sys.exit(143)
    train(start)


def train(start):
    done = max([int(p.name) for p in (FOLDER / "checkpoints").glob("*")], default=0)
    for step in range(done + 1, STEPS + 1):
        with open(FOLDER / "log.jsonl", "a") as file:
            file.write(json.dumps({"step": step, "split": "train", "loss": 1.0}) + "\n")
        if start == 1 and DO in ("term", "interrupt") and step == 2:
            os.kill(os.getppid(), signal.SIGTERM if DO == "term" else signal.SIGINT)
            wait_for_signal()
        if start == 1 and DO == "slow" and step == 2:
            wait_for_signal()
            time.sleep(0.5)  # saving takes a while
        (FOLDER / "checkpoints" / str(step)).mkdir(parents=True)
        if signals:
            (FOLDER / "saved.txt").write_text(f"{step}")
            sys.exit(128 + signals[0])
    numbers = {"summary": {"AP": 0.25 + int(ARGUMENTS.get("config.seed", 0)) / 100}}
    final = {"step": STEPS, "split": "val", "seconds": 1.0, "box": numbers, "mask": numbers}
    name = "metrics.json" if "out" in ARGUMENTS else "finished.json"
    (FOLDER / name).write_text(json.dumps(final))


def wait_for_signal():
    for _ in range(1000):
        if signals:
            return
        time.sleep(0.01)
    sys.exit("no signal came")


main()
