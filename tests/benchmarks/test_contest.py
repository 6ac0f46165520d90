"""Programs take turns, and one that is wrong has no times."""

import pytest

from benchmarks import contest, contests, timing, torchvision_peer
from benchmarks.contest import Contestant


def fake(name, log, value=1.0, **facts):
    def check():
        if isinstance(value, Exception):
            raise value
        return value

    return Contestant(lambda: log.append(name), lambda _: None, check, facts)


def test_turns_and_every_call_is_made():
    log = []
    rows = contest.take_turns({n: fake(n, log, bytes=3) for n in "ab"}, repeats=3, least=0)
    assert (
        "".join(log) == "aabb" + "aabb" * 3
    )  # warm-up and planning, then turns: one call, one timed
    assert set(rows) == {"a", "b"} and rows["a"]["ratio"] == 1 and rows["b"]["bytes"] == 3


def test_ratios_are_seconds_over_those_of_the_first(monkeypatch):
    seconds = {"a": iter([9, 2, 1, 4]), "b": iter([9, 6, 6, 7])}  # the first one plans

    def call(timed):
        return next(seconds[timed.run()])

    monkeypatch.setattr(timing, "seconds_a_call", call)
    programs = {n: Contestant(lambda n=n: n, lambda _: None, lambda: 0.0) for n in "ab"}
    rows = contest.take_turns(programs, repeats=3, least=0)
    assert rows["a"] == dict(seconds=2, fastest=1, slowest=4, check=0.0, ratio=1)
    assert rows["b"] == dict(seconds=6, fastest=6, slowest=7, check=0.0, ratio=3)


@pytest.mark.parametrize(
    "value, error",
    [
        (float("nan"), "not finite (nan)"),
        (float("inf"), "not finite (inf)"),
        (ValueError("found [3] objects"), "ValueError: found [3] objects"),
    ],
)
def test_a_wrong_result_has_no_times(value, error):
    rows = contest.take_turns({"a": fake("a", [], value), "b": fake("b", [])}, repeats=1, least=0)
    assert list(rows["a"]) == ["error"] and error in rows["a"]["error"]
    assert "seconds" in rows["b"] and "ratio" not in rows["b"]


def test_one_that_breaks_costs_its_own_row_alone():
    def broken():
        raise MemoryError("out of memory\nand much more")

    programs = {"a": fake("a", []), "b": Contestant(broken, print, lambda: 0.0)}
    rows = contest.take_turns(programs, repeats=1, least=0)
    assert rows["b"] == {"error": "MemoryError: out of memory"} and rows["a"]["ratio"] == 1


def test_a_peer_that_cannot_be_made_says_why():
    def make(name):
        if name == "absent":
            raise torchvision_peer.Unavailable("no torch")
        if name == "compiled":
            raise RuntimeError("backend='inductor' raised: no compiler\nand much more")
        return fake(name, [])

    contestants, rows = contests.made(["absent", "plain", "compiled"], make)
    assert list(contestants) == ["plain"]
    assert rows == {
        "absent": {"skipped": "no torch"},
        "compiled": {"error": "RuntimeError: backend='inductor' raised: no compiler"},
    }


def test_table():
    measured = dict(seconds=0.5, fastest=0.25, slowest=1.0, check=0.0)
    head = dict.fromkeys(
        ("device", "platform", "cpu", "cores", "driver", "date", "commit", "backbone"), "x"
    )
    result = head | {
        "batch_size": 2,
        "size": ["64", "96"],
        "dtype": "float32",
        "load_before": 1,
        "load_after": 2,
        "unfinished": "the process exited with 2",
        "contests": {
            "mask_rcnn": {
                "mask_rcnn": measured
                | {"ratio": 1.0, "compile_seconds": 3.21, "planned_bytes": 5 << 20},
                "torchvision": {"skipped": "no torch"},
            },
            "mr_rcnn": {"mr_rcnn": {"error": "not finite"}, "mask_rcnn": measured},
            "brefine": {"error": "the process was ended by signal 9"},
        },
    }
    text = contests.table(result)
    assert "batch of 2 of 64 x 96" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        "| mask_rcnn | mask_rcnn | 500.0 | 250.0 to 1,000.0 | 4.00 | 1.00 | 3.2 | 5 |",
        "| mask_rcnn | torchvision | no torch | | | | | |",
        "| mr_rcnn | mr_rcnn | not finite | | | | | |",
        "| mr_rcnn | mask_rcnn | 500.0 | 250.0 to 1,000.0 | 4.00 |  |  |  |",
        "| brefine | | the process was ended by signal 9 | | | | | |",
    ]
    assert "Not everything was measured: the process exited with 2." in text
