"""How long it still takes, and what is said on the way."""

import io
import json
import pathlib

from rich.console import Console

from jaxseg.reproduce import progress
from jaxseg.reproduce.job_file import Record
from jaxseg.reproduce.plan import Job


def job(row, seed=0, steps=100, folder="nowhere"):
    return Job(row, seed, pathlib.Path(folder), ("python",), steps=steps)


def test_what_is_about_to_be_run():
    jobs = [job("a"), job("a", 1), job("b"), job("b", 1)]
    status = dict.fromkeys((j.name for j in jobs), "not started")
    assert progress.headline("T", jobs, status, (1, 1)) == "T: 4 jobs, 2 rows x 2 seeds."
    status["a seed 1"] = "finished"
    assert (
        progress.headline("T", jobs[1:2], status, (2, 4))
        == "T: 1 job, 1 row x 1 seed, shard 2 of 4; 1 already finished."
    )


def test_a_shard_without_jobs_says_why():
    words = progress.headline("T", [], {}, (9, 20))
    assert "shard 9 of 20 has nothing to do. There are fewer than 20 parts" in words


def test_nothing_is_said_before_anything_was_measured():
    assert progress.seconds_left([job("a")], {}, {}) is None
    assert progress.seconds_left([], {}, {}) == 0


def test_a_row_goes_at_the_speed_of_its_other_seeds_or_of_all():
    spent = {"a seed 0": (200.0, 100), "b seed 0": (50.0, 100)}
    assert progress.seconds_left([job("a", 1)], spent, {}) == 200
    assert progress.seconds_left([job("a", 1)], spent, {"a seed 1": 75}) == 50
    assert progress.seconds_left([job("c", 0, steps=10)], spent, {}) == 12.5
    assert progress.seconds_left([job("a", 1, steps=50)], spent, {"a seed 1": 60}) == 0


def test_evaluations_take_what_others_took():
    spent = {"a seed 0": (200.0, 100), "look seed 0": (30.0, 0), "view seed 0": (50.0, 0)}
    jobs = [job("look", 1, steps=0), job("look", 2, steps=0)]
    assert progress.seconds_left(jobs, spent, {}) == 80
    assert progress.seconds_left(jobs, {}, {}) == 0


def test_the_last_step_of_a_log(tmp_path):
    assert progress.last_step(tmp_path) == 0
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": i, "split": "train"}) + "\n" for i in range(2000)))
    assert progress.last_step(tmp_path) == 1999
    assert progress.last_step(tmp_path, since=log.stat().st_mtime + 1) == 0
    with open(log, "a") as file:
        file.write('{"step": 20')
    assert progress.last_step(tmp_path) == 1999


def test_lines_in_a_log_file(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    one, two = job("a", 0, folder=tmp_path), job("a", 1)
    console = Console(file=io.StringIO(), width=200, highlight=False)
    with progress.Display([one, two], console) as display:
        display.begin(one)
        (tmp_path / "log.jsonl").write_text('{"step": 40, "split": "train"}\n')
        display.update(one)
        display.end(one, Record([], "finished", seconds=100.0))
        display.begin(two)
        display.end(two, Record([], "failed", "no data", seconds=61.0))
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "[1/2] a seed 0 starts."
    assert lines[1].startswith("[1/2] a seed 0 is at step 40 of 100")
    assert lines[2] == "[1/2] a seed 0 finished after 1:40, about 1:40 left for all."
    assert lines[3:] == ["[2/2] a seed 1 starts.", "[2/2] a seed 1 failed after 1:01: no data"]


def test_bars_on_a_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=100, force_terminal=True, highlight=False)
    with progress.Display([job("a", 0, folder=tmp_path), job("b")], console) as display:
        display.begin(job("a", 0, folder=tmp_path))
        (tmp_path / "log.jsonl").write_text('{"step": 40, "split": "train"}\n')
        display.update(job("a", 0, folder=tmp_path))
        text = console.file.getvalue()
    assert "40/100" in text and "0/2" in text
