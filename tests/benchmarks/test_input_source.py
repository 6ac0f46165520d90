"""The images that the benchmarks of the input read."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_what_cannot_be_opened_is_told_without_a_traceback(tmp_path):
    file = tmp_path / "nothing.json"
    command = [sys.executable, "-m", "benchmarks.input_wait", f"--images={tmp_path}"]
    done = subprocess.run(
        [*command, f"--annotations={file}"], capture_output=True, text=True, cwd=ROOT
    )
    output = done.stdout + done.stderr
    assert done.returncode == 1 and f"Annotation file {file} does not exist" in output
    assert "Traceback" not in output
