"""eval.py and predict.py: a mistake ends in one line and exit status 2."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["eval.py", "--config=configs/small.py", "--config.eval.max_imges=3"],
            "did you mean eval.max_images",
        ),
        (["eval.py", "--config.model.test.score_alpha=2"], "Give --config=FILE, too"),
        (["predict.py", f"--images={__file__}"], "not the work directory of a training run"),
        (["predict.py", f"--images={__file__}", "--maps=best"], "--maps=best"),
    ],
)
def test_a_mistake_is_told_in_one_line(tmp_path, arguments, message):
    done = subprocess.run(
        [sys.executable, *arguments, f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1 and message in done.stderr
