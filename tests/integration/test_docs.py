"""docs/train_your_own.md does what it says, command by command."""

import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
USED = ("train.py", "eval.py", "predict.py", "configs", "jaxseg", "pallas_kernels")


@pytest.mark.slow
def test_train_your_own(tmp_path):
    for name in USED:  # a checkout of its own, so that nothing is left in this one
        (tmp_path / name).symlink_to(ROOT / name)
    text = (ROOT / "docs" / "train_your_own.md").read_text()
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 6
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "PYTHONPATH": str(tmp_path),
    }
    for language, block in blocks:
        if language == "python":
            command = [sys.executable, "-c", block]
        else:
            command = shlex.split(block)
            assert command[0] == "python"
            command[0] = sys.executable
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert (tmp_path / "runs" / "mine" / "predictions.png").exists()
    assert (tmp_path / "one.png").exists() and len(
        list((tmp_path / "out" / "overlays").glob("*.jpg"))
    ) == 8
    assert list((tmp_path / "look").iterdir())
