"""The curves of a table: of many noisy runs each can be followed, and their legend is there once."""

import json
import re

import numpy as np
import pytest

from jaxseg.reproduce import curves, records, table_page
from tests.reproduce import made_runs
from tests.reproduce.test_results import made_table

LABELS = {"plain": "Plain", "deep": "deep", "strict": "strict"}


def write(folder, losses, **fields):
    """Runs of two rows with two seeds, with these losses in their logs."""
    for row in ("plain", "deep"):
        for seed in (0, 1):
            place = made_runs.job(folder, row, seed, **fields)
            made_runs.write_log(place, 0.2, 0.3)
            lines = [dict(step=i, split="train", loss=loss) for i, loss in enumerate(losses)]
            text = [json.dumps(line) + "\n" for line in lines]
            with open(place / "log.jsonl", "a") as file:
                file.writelines(["\n", *text])
    return curves.collect(records.find(folder, made_table()), LABELS)


def test_a_loss_is_averaged_over_stretches():
    xs, ys = curves.averaged(range(12), [1, 3] * 6, stretches=4)
    assert xs == [1, 4, 7, 10] and ys == pytest.approx([5 / 3, 7 / 3, 5 / 3, 7 / 3])
    assert curves.averaged([2, 4], [1, 3]) == ([2, 4], [1, 3])
    assert curves.averaged([2, 4, 6], [1, float("nan"), 3]) == ([2, 6], [1, 3])
    assert curves.averaged([2], [float("inf")]) == ([], [])


def test_noise_is_no_band():
    noise = np.random.default_rng(0).normal(1, 0.3, 4500)
    _, ys = curves.averaged(range(4500), noise)
    assert len(ys) == curves.STRETCHES and max(ys) - min(ys) < 0.3


def test_a_high_start_does_not_flatten_the_rest():
    start = [100.0] * 5 + [2.0, 1.0] * 30
    assert curves.ceiling({"a": [(range(65), start)]}) == pytest.approx(2.2)
    assert curves.ceiling({"a": [(range(60), [2.0, 1.0] * 30)]}) is None
    assert curves.ceiling({"a": [([1], [3.0])], "b": [([], [])]}) is None


def test_the_legend_is_there_once_for_all_charts(tmp_path):
    found = write(tmp_path, [1.0] * 5)
    assert len(found.charts) == 3 and not found.note
    assert "Plain" in found.legend and "strict" not in found.legend  # which has no log
    assert all("Plain" not in chart for chart in found.charts)
    path = table_page.write(tmp_path, made_table())
    section = re.search(r'<section id="curves".*?</section>', path.read_text(), re.DOTALL)[0]
    assert section.count('<ul class="key">') == 1


def test_every_seed_is_one_line_of_means_and_the_page_says_so(tmp_path):
    found = write(tmp_path, [50.0] * 20 + [2.0, 1.0] * 400, status="running")
    assert "its mean over each 60th part" in found.note and "higher than its chart" in found.note
    lines = re.findall(r'<path d="(M [^"]+)" clip-path', found.charts[0])
    drawn = [line for line in lines if line.count("L") > 40]
    assert len(drawn) == 4  # no faint line of all points beneath
    assert max(line.count("L") for line in drawn) < curves.STRETCHES
    assert found.note.split(" (")[0] in table_page.write(tmp_path, made_table()).read_text()


def test_without_any_log_there_are_no_charts():
    found = curves.collect({"plain": []}, LABELS)
    assert (found.charts, found.legend, found.note) == ([], "", "")
