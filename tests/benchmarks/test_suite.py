"""What fits runs, and what does not run is said."""

import pytest

from benchmarks import suite
from benchmarks.suite import Benchmark

_SLEEP = ["timeit", "-n1", "-r1", "import time; print('begun', flush=True); time.sleep(60)"]


def test_leaves_out_what_does_not_fit_or_lacks_a_package(tmp_path):
    fakes = [
        Benchmark("too_long", ["platform"], minutes=9, json=False),
        Benchmark("lacks", ["platform"], minutes=1, needs=["json", "no_such_package"]),
        Benchmark("breaks", ["no_such_module"], minutes=1, json=False),
        Benchmark("works", ["calendar", "2026", "11"], minutes=1, json=False),
    ]
    page = suite.Page(tmp_path / "page.md", "Benchmarks")
    suite.run_all(fakes, page, tmp_path, minutes=2)
    text = page.path.read_text()
    parts = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    assert list(parts) == ["too_long", "lacks", "breaks", "works"]
    assert "left out: 2.0 of 2 minutes were left, about 9 needed" in parts["too_long"]
    assert "left out: no_such_package not installed" in parts["lacks"]
    assert "ended with 1" in parts["breaks"] and "No module named no_such_module" in parts["breaks"]
    assert "`python -m calendar 2026 11`" in parts["works"]
    assert (
        "```\nNovember 2026\n" in parts["works"].replace("   ", "") and "**" not in parts["works"]
    )


def test_stops_what_takes_too_long_and_keeps_what_it_said(tmp_path):
    said, problem = suite.run(Benchmark("sleeps", _SLEEP, 1, json=False), tmp_path, seconds=1.5)
    assert (said, problem) == ("begun\n", "stopped after 2 s")


def test_results_are_asked_for_as_json(tmp_path, monkeypatch):
    code = "import sys; open(sys.argv[1].removeprefix('--json='), 'w').write('{}')"
    (tmp_path / "writes.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert suite.run(Benchmark("made", ["writes"], 1), tmp_path, seconds=30) == ("", "")
    assert (tmp_path / "made.json").read_text() == "{}"


@pytest.mark.parametrize("device", suite.BENCHMARKS)
def test_names_are_different(device):
    names = [benchmark.name for benchmark in suite.BENCHMARKS[device]]
    assert len(set(names)) == len(names)


def test_tables_stay_tables():
    assert suite._for_markdown("x\n\n| a |\n|---|\n") == "x\n\n| a |\n|---|"
    assert suite._for_markdown("a  b\n") == "```\na  b\n```"
    assert suite._for_markdown(" ") == ""
