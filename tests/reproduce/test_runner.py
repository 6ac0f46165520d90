"""Every job ends in one of its states, whatever ends the runner; nothing finished is done twice."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from jaxseg.reproduce import compiled, job_file, process, runner
from tests.reproduce.conftest import Lab

ROOT = pathlib.Path(__file__).parents[2]


def test_jobs_are_run_in_order_and_never_again(lab):
    jobs = [lab.job("base"), lab.job("late", needs="base"), lab.evaluation("look", needs="base")]
    outcome = lab.run(*jobs)
    assert outcome.status == dict.fromkeys((job.name for job in jobs), "finished")
    assert outcome.exit_status == 0
    assert lab.written == ["results"] * 4 + ["report"]
    record = lab.record("base")
    assert (record.status, record.error, record.starts) == ("finished", "", 1)
    assert record.command == list(jobs[0].command)
    assert record.seconds > 0 and record.finished.endswith("+00:00")
    text = (jobs[0].folder / job_file.OUTPUT).read_text()
    assert text == "A fake program begins.\n"

    lab.written.clear()
    assert lab.run(*jobs).exit_status == 0
    assert [lab.starts(job.row) for job in jobs] == [1, 1, 1]
    assert lab.record("base") == record
    assert lab.written == ["results", "report"]


def test_a_failing_row_is_recorded_and_the_others_go_on(lab):
    jobs = [
        lab.job("broken", do="fail"),
        lab.job("after", needs="broken"),
        lab.evaluation("look", needs="after"),
        lab.job("mistaken", do="mistake"),
        lab.job("killed", do="die"),
        lab.job("quiet", do="quiet"),
        lab.job("left", do="leave"),
        lab.job("fine"),
    ]
    outcome = lab.run(*jobs)
    errors = {job.row: (lab.record(job.row).status, lab.record(job.row).error) for job in jobs}
    assert errors == {
        "broken": ("failed", "ValueError: the loss is not finite"),
        "after": ("skipped", "it needs broken seed 0, which failed"),
        "look": ("skipped", "it needs after seed 0, which was skipped"),
        "mistaken": ("failed", "train.py: config.optim.lr=x: must be a number."),
        "killed": ("failed", "killed by signal 9 (SIGKILL; perhaps out of memory)"),
        "quiet": ("failed", "ended without results: A fake program begins."),
        "left": (
            "failed",
            "stopped by SIGTERM from outside, after saving; the same command continues it",
        ),
        "fine": ("finished", ""),
    }
    assert outcome.exit_status == 1
    assert "fine seed 0" not in outcome.failed and len(outcome.failed) == 7
    assert "[1/8] broken seed 0 failed" in lab.said
    assert "ValueError: the loss is not finite" in lab.said


def test_what_failed_is_tried_again(lab):
    jobs = [lab.job("shaky", do="fail_once"), lab.job("after", needs="shaky")]
    assert lab.run(*jobs).exit_status == 1
    assert lab.record("after").status == "skipped"
    first = lab.record("shaky").seconds
    assert lab.run(*jobs).exit_status == 0
    assert (lab.record("shaky").starts, lab.record("shaky").error) == (2, "")
    assert lab.record("shaky").seconds > first
    assert lab.record("after").status == "finished"
    output = (jobs[0].folder / job_file.OUTPUT).read_text()
    assert output.count("A fake program begins.") == 2


@pytest.mark.parametrize("do, number", [("term", signal.SIGTERM), ("interrupt", signal.SIGINT)])
def test_a_signal_waits_for_the_save_and_the_same_call_goes_on(lab, do, number):
    handler = signal.getsignal(number)
    jobs = [lab.job("first", do=do), lab.job("second")]
    outcome = lab.run(*jobs)
    assert outcome.exit_status == 128 + number and not outcome.failed
    assert outcome.status == {"first seed 0": "stopped"}
    assert (jobs[0].folder / "saved.txt").read_text() == "2"
    assert lab.record("first").status == "stopped"
    assert lab.record("second") is None
    assert lab.written == ["results", "results", "report"]
    assert signal.getsignal(number) == handler

    assert lab.run(*jobs).exit_status == 0
    assert lab.record("first").starts == 2
    assert "[1/2] first seed 0 goes on from step 2" in lab.said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
def test_a_killed_runner_takes_its_program_along_and_the_next_one_waits(tmp_path):
    lab = Lab(tmp_path / "table")
    script = (
        "import sys, pathlib; from tests.reproduce.conftest import Lab\n"
        "lab = Lab(pathlib.Path(sys.argv[1])); lab.run(lab.job('base', do='slow'))"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", script, str(lab.folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log = lab.folder / "runs/base/seed0/log.jsonl"
    deadline = time.monotonic() + 120
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    with pytest.raises(BlockingIOError, match="Another runner is at work"):
        lab.run(lab.job("base", do="slow"))
    first.kill()
    first.wait()
    assert lab.run(lab.job("base", do="slow")).exit_status == 0
    assert "Waiting for base seed 0" in lab.said
    # The orphan had got SIGTERM and saved; the next start came only after that.
    assert (lab.folder / "runs/base/seed0/saved.txt").read_text() == "2"
    assert lab.starts("base") == 2


def test_a_stop_while_waiting_for_a_folder(lab, monkeypatch):
    job = lab.job("base")
    job.folder.mkdir(parents=True)
    with process.locked(job.folder / job_file.LOCK, pytest.fail, process.Stop()):
        waits = runner._Turn._tell_waiting

        def interrupted(self):
            waits(self)
            os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(runner._Turn, "_tell_waiting", interrupted)
        assert lab.run(job).exit_status == 143
    assert lab.starts("base") == 0


def test_another_command_is_refused_before_anything_is_run(lab):
    lab.run(lab.job("base"), lab.job("other"))
    new = lab.job("new")
    with pytest.raises(
        ValueError,
        match=r"other/seed0 belongs to another command: it has --steps=3; asked for now: --steps=4\. Give",
    ):
        lab.run(new, lab.job("base"), lab.job("other", steps=4))
    assert lab.record("new") is None


def test_the_difference_of_two_commands(lab):
    job = lab.job("base")
    lab.run(job)
    more = dataclasses.replace(job, command=(*job.command, "--x=1"))
    with pytest.raises(ValueError, match="command: it lacks --x=1, which is asked for now"):
        runner.survey([more])
    less = dataclasses.replace(job, command=job.command[:-1])
    with pytest.raises(ValueError, match="command: it has --do=, which is not asked for now"):
        runner.survey([less])


def test_a_run_that_is_not_asked_for_is_in_the_results_and_checked_too(lab):
    lab.run(lab.job("base"), lab.job("base", 1))
    changed, new = lab.job("base", 1, steps=4), lab.job("new")
    with pytest.raises(ValueError, match=r"base/seed1 belongs to another command: .*--steps=3"):
        lab.run(new, others=[lab.job("base"), changed])
    assert lab.record("new") is None
    assert lab.run(new, others=[lab.job("base"), lab.job("base", 1)]).exit_status == 0


def test_all_folders_that_are_in_the_way_are_named_at_once(lab):
    lab.run(*(lab.job("base", seed) for seed in range(13)))
    with pytest.raises(ValueError) as caught:
        lab.run(*(lab.job("base", seed, steps=4) for seed in range(13)))
    lines = str(caught.value).splitlines()
    assert [f"seed{seed} belongs to" in lines[seed] for seed in range(10)] == [True] * 10
    assert lines[10:] == ["and 3 more folders."]


def needing(lab):
    base = lab.job("base")
    return base, lab.job("late", needs="base"), lab.evaluation("look", needs="late")


def test_what_started_from_a_run_that_is_gone_is_not_finished_any_more(lab):
    base, late, look = jobs = needing(lab)
    lab.run(*jobs)
    shutil.rmtree(base.folder)
    with pytest.raises(ValueError, match=r"late/seed0 belongs to another run of base seed 0 .*Rem"):
        lab.run(*jobs)
    with pytest.raises(ValueError, match="late/seed0 belongs to another run"):
        lab.run(base, others=[late, look])
    assert not base.folder.exists()
    # Also if somebody runs it alone: the others are told apart from what follows from it.
    lab.run(base)
    with pytest.raises(ValueError, match="late/seed0 belongs to another run of base seed 0"):
        lab.run(*jobs)
    shutil.rmtree(late.folder)
    with pytest.raises(ValueError, match="look/seed0 belongs to another run of late seed 0"):
        lab.run(*jobs)
    shutil.rmtree(look.folder)
    assert lab.run(*jobs).exit_status == 0
    assert lab.starts("base") == 1


def test_what_started_from_a_run_that_was_trained_further(lab):
    lab.run(*needing(lab))
    final = lab.folder / "runs/base/seed0/finished.json"
    final.write_text(json.dumps(json.loads(final.read_text()) | {"step": 2}))
    with pytest.raises(ValueError, match="late/seed0 belongs to another run of base seed 0"):
        lab.run(*needing(lab))
    lab.run(lab.job("base"))
    with pytest.raises(ValueError, match="late/seed0 belongs to another run of base seed 0"):
        lab.run(*needing(lab))


def test_what_a_stop_or_a_lost_result_leaves_is_still_the_same_run(lab):
    """Its checkpoints are those of before, and so is what started from them."""
    jobs = lab.job("base", do="term"), *needing(lab)[1:]
    lab.run(*jobs)
    first = lab.record("base").run
    assert lab.run(*jobs).exit_status == 0
    assert lab.record("base").run == first == lab.record("late").source != lab.record("late").run
    (jobs[0].folder / "finished.json").unlink()
    assert lab.run(*jobs).exit_status == 0
    assert (lab.starts("base"), lab.starts("late")) == (3, 1)


def test_a_failed_row_without_a_checkpoint_may_be_mended(lab):
    lab.run(lab.job("base", do="mistake"))
    assert lab.run(lab.job("base")).exit_status == 0
    assert "--do=" in lab.record("base").command


def test_a_moved_table_goes_on(lab):
    jobs = lab.job("base"), lab.evaluation("look", needs="base")
    lab.run(*jobs)
    moved = Lab(lab.folder.rename(lab.folder.with_name("moved")))
    assert moved.run(moved.job("base"), moved.evaluation("look", needs="base")).exit_status == 0
    assert moved.starts("base") == 1


def test_a_run_that_nobody_knows_is_not_touched(lab):
    job = lab.job("base")
    (job.folder / "checkpoints" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"has a run without job\.json"):
        lab.run(job)
    (job.folder / job_file.FILE).write_text("{")
    with pytest.raises(ValueError, match=r"job\.json is damaged"):
        lab.run(job)


def test_a_kill_between_the_end_and_its_note(lab):
    job = lab.job("base")
    lab.run(job)
    job_file.write(job.folder, job_file.Record(list(job.command), starts=1))
    assert runner.survey([job]) == {job.name: "finished"}
    lab.run(job)
    assert lab.record("base").status == "finished" and lab.starts("base") == 1


def test_results_that_are_gone_are_made_again(lab):
    job = lab.job("base")
    lab.run(job)
    (job.folder / "finished.json").unlink()
    assert runner.survey([job]) == {job.name: "stopped"}
    assert lab.run(job).exit_status == 0
    assert lab.starts("base") == 2


def test_what_is_missing_is_told_before_anything_is_run(lab):
    jobs = [lab.job("fine"), lab.job("a", lacks=("x.pth",)), lab.job("b", lacks=("x.pth",))]
    with pytest.raises(ValueError, match=r"something missing:\n  x\.pth, for a, b"):
        lab.run(*jobs)
    assert not lab.folder.exists()


def test_numbers_that_cannot_be_written_do_not_end_the_training(lab):
    def broken(*_):
        lab.written.append("tried")
        if len(lab.written) <= 2:
            raise KeyError("AP")

    options = dict(console=lab.console, write_report=lambda *_: None)
    jobs = [lab.job("a"), lab.job("b")]
    outcome = runner.run(None, jobs, lab.folder, write_results=broken, **options)
    assert outcome.exit_status == 0
    assert "The results could not be written: KeyError: 'AP'" in lab.said


@pytest.mark.parametrize("place", ["file/table", "/proc/table"])
def test_an_unwritable_folder(tmp_path, place):
    (tmp_path / "file").write_text("")
    lab = Lab(tmp_path / place)
    with pytest.raises(OSError, match="cannot be written"):
        lab.run(lab.job("base"))


def test_a_full_disk_ends_it_with_the_name_of_the_file(lab, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_file.workdir, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        lab.run(lab.job("base"))
    assert lab.starts("base") == 0


def test_a_row_that_finds_the_disk_full_is_the_last(lab):
    with pytest.raises(OSError, match=r"first seed 0 failed and nothing else .*: No space left on"):
        lab.run(lab.job("first", do="full"), lab.job("second"))
    assert lab.record("first").status == "failed" and lab.record("second") is None


def test_an_error_here_leaves_no_program_behind(lab, monkeypatch):
    children = []

    class Watched(process.Child):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            children.append(self)

    def broken(self, job):
        if (job.folder / "log.jsonl").exists():
            raise RuntimeError

    monkeypatch.setattr(process, "Child", Watched)
    monkeypatch.setattr(runner.Display, "update", broken)
    with pytest.raises(RuntimeError):
        lab.run(lab.job("base", do="slow"))
    assert children[0].poll() is not None


def test_shards_of_one_folder_run_side_by_side(tmp_path):
    with (
        runner._alone(tmp_path, (1, 2)),
        runner._alone(tmp_path, (2, 2)),
        pytest.raises(BlockingIOError, match="--shard"),
        runner._alone(tmp_path, (2, 2)),
    ):
        pass


def test_the_programs_share_what_was_compiled(tmp_path):
    found = compiled.environment(tmp_path, {})
    (folder,) = found.values()
    assert folder.startswith(str(tmp_path / ".compiled"))
    assert compiled.environment(tmp_path, {"JAX_COMPILATION_CACHE_DIR": "/mine"}) == {}


def test_a_child_gets_its_environment_and_tells_its_memory(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nprint(os.environ['SOME'])\nx = b'x' * 50_000_000\ntime.sleep(0.3)"
    )
    with open(tmp_path / "out", "ab+") as output:
        child = process.Child(("python", str(script)), output, None, {"SOME": "value"})
        while child.poll() is None:
            time.sleep(0.02)
    assert (tmp_path / "out").read_text() == "value\n"
    if sys.platform == "linux":
        assert 0.04 < child.peak_rss_gib < 0.2


FAILURES = {
    "a traceback with what it caused": (
        1,
        "Traceback (most recent call last):\n  File\nKeyError: 1\n\nDuring handling ...:\n\n"
        "Traceback (most recent call last):\n  File\n    x\n    ^\nOSError: gone\n",
        "OSError: gone",
    ),
    "what jax appends": (
        1,
        "Traceback (most recent call last):\n  File\nValueError: no\n--------------------\n"
        "For simplicity, JAX has removed its internal frames from the traceback.\n",
        "ValueError: no",
    ),
    "colours and bars": (2, "10%\r\x1b[31mtrain.py: no data\x1b[0m\n\n", "train.py: no data"),
    "nothing": (3, "\n", "exit status 3, without a word"),
    "an abort": (-6, "terminate called\n", "killed by signal 6 (SIGABRT): terminate called"),
    "a novel": (1, "x" * 2000, "x" * 596 + " ..."),
}


@pytest.mark.parametrize("case", FAILURES)
def test_why_a_program_ended(case):
    status, output, words = FAILURES[case]
    assert process.failure(status, output) == words
