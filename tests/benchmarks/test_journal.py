"""What a worker did survives its end, whichever way it ends."""

import sys

from benchmarks import journal

_WORKER = """
import os, sys, time
from benchmarks.journal import Journal
log = Journal(sys.argv[1])
for step in ("first", "dies", "hangs", "last"):
    if step in log.rows:
        continue
    log.begin(step)
    if step == "dies":
        os.abort()
    if step == "hangs":
        time.sleep(60)
    log.end(step, {"by": os.getpid()})
log.finish()
"""


def _supervise(code, path, **options):
    return journal.supervise([sys.executable, "-c", code, str(path)], path, **options)


def test_a_step_that_breaks_costs_its_own_row_alone(tmp_path):
    done = _supervise(_WORKER, tmp_path / "journal", stall_seconds=3)
    assert list(done.rows) == ["first", "dies", "hangs", "last"]
    assert "signal 6" in done.rows["dies"]["error"]
    assert done.rows["hangs"] == {"error": "no progress in 3 s"}
    assert done.rows["first"]["by"] != done.rows["last"]["by"]
    assert done.finished


def test_a_crash_after_an_earlier_call_had_finished_is_noted(tmp_path):
    before = journal.Journal(tmp_path / "journal")
    before.end("earlier", {})
    before.finish()
    done = _supervise(_WORKER, tmp_path / "journal", stall_seconds=3)
    assert list(done.rows) == ["earlier", "first", "dies", "hangs", "last"] and done.finished


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    path = tmp_path / "journal"
    log = journal.Journal(path)
    log.begin("a")
    log.end("a", {"x": 1})
    path.write_text(path.read_text() + '{"end": "b", "row"')
    journal.Journal(path).end("c", {})
    assert journal.Journal(path).rows == {"a": {"x": 1}, "c": {}}


def test_a_worker_that_does_nothing_is_not_started_for_ever(tmp_path):
    done = _supervise("import sys; sys.exit(2)", tmp_path / "journal", stall_seconds=9)
    assert not done.finished and not done.rows
    assert done.unfinished == "the process exited with 2"
