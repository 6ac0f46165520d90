"""Cost over images and RoIs: the line, and what is said of points that could not be measured."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import lines, scaling_table
from benchmarks.journal import Journal

ROOT = pathlib.Path(__file__).parents[2]


def test_a_line_is_found_and_its_departure():
    x = [1, 2, 4, 32]
    line = lines.fit(x, [3 * n + 5 for n in x])
    np.testing.assert_allclose(line, (3, 5, 0), atol=1e-9)
    square = lines.fit(x, [n**2 for n in x])
    largest = max(abs(square.at(n) - n**2) / n**2 for n in x)
    assert square.departure == pytest.approx(largest) and largest > 0.3
    assert lines.fit([1, 2], [1, 2]) is None  # any two points lie on one


def test_a_small_point_counts_as_much_as_a_large_one():
    line = lines.fit([1, 2, 1000], [0.5, 1, 1000])  # half the cost each at the small end
    assert 0.1 < line.departure < 0.5


def journal(path):
    made = Journal(path)
    facts = ("device", "platform", "cpu", "cores", "date", "commit", "jax", "backbone", "dtype")
    context = dict.fromkeys(facts, "x") | {"small": True, "size": ["64", "96"], "batch_size": 1}
    made.end("context", context | {"load_before": 1})
    for n in (32, 1, 2, 4):
        row = {"seconds": 9, "fastest": n / 10 + 1, "slowest": 9.5, "planned_bytes": n << 20}
        made.end(f"mask_rcnn train_images {n}", row)
    made.end("mask_rcnn train_images 64", {"error": "RESOURCE_EXHAUSTED: out of memory"})
    made.end("mask_rcnn detect_rois 64", {"error": "the process was ended by signal 9"})
    return made


def test_table_of_points_and_lines(tmp_path):
    result = scaling_table.to_result(journal(tmp_path / "journal"))
    text = scaling_table.table(json.loads(json.dumps(result)))  # as from the file
    rows = [line for line in text.splitlines() if line.startswith("| mask_rcnn")]
    assert rows == [
        "| mask_rcnn train_images | 1 | 9,000.0 | 1,100.0 to 9,500.0 | 1,100.0 | 1.00 | 1 |",
        "| mask_rcnn train_images | 2 | 9,000.0 | 1,200.0 to 9,500.0 | 600.0 | 1.00 | 2 |",
        "| mask_rcnn train_images | 4 | 9,000.0 | 1,400.0 to 9,500.0 | 350.0 | 1.00 | 4 |",
        "| mask_rcnn train_images | 32 | 9,000.0 | 4,200.0 to 9,500.0 | 131.2 | 1.00 | 32 |",
        "| mask_rcnn train_images | 64 | RESOURCE_EXHAUSTED: out of memory | | | | |",
        "| mask_rcnn detect_rois | 64 | the process was ended by signal 9 | | | | |",
        "| mask_rcnn train_images | 100.000 | 1,000.000 | 0% |",
        "| mask_rcnn detect_rois | fewer than three points | | |",
    ]


def test_a_picture_of_what_there_is(tmp_path):
    result = scaling_table.to_result(journal(tmp_path / "journal"))
    scaling_table.draw(str(tmp_path / "plot.png"), result)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_command(tmp_path):
    out, plot = tmp_path / "out.json", tmp_path / "plot.png"
    tiny = ["--size=64,64", "--images=1,2", "--rois=16,32", "--repeats=1", "--least_seconds=0"]
    command = [sys.executable, "-m", "benchmarks.scaling", *tiny, f"--json={out}", f"--plot={plot}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sweeps = json.loads(out.read_text())["sweeps"]
    assert {name.split()[1] for name in sweeps} == set(scaling_table.SWEEPS) and plot.exists()
    assert all(row["seconds"] > 0 for sweep in sweeps.values() for row in sweep["points"])


@pytest.mark.slow
def test_points_that_fail_are_rows(tmp_path):
    tiny = ["--size=64,64", "--rois=16,32", "--sweeps=detect_rois", "--repeats=1"]
    too_few = ["--set=data.max_instances=3", f"--json={tmp_path / 'out.json'}"]
    command = [sys.executable, "-m", "benchmarks.scaling", *tiny, *too_few]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("data.max_instances is 3") == 2
