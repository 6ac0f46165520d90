from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import cv2
import pytest

from jaxseg.data import browse
from tests.data import coco_folder

_ROOT = pathlib.Path(__file__).parents[2]


def test_pictures_and_summary(tmp_path, capsys):
    data = coco_folder.content(4)
    data["annotations"].append(coco_folder.annotation(9, 1, iscrowd=1))
    config = coco_folder.write(tmp_path, data)
    (tmp_path / "images" / "2.png").unlink()
    browse.browse(config, str(tmp_path / "out"), 3, "train")
    pictures = sorted((tmp_path / "out").iterdir())
    assert len(pictures) == 3 and {p.stem[4:] for p in pictures} <= {"1", "3"}
    assert min(cv2.imread(str(pictures[0])).shape[:2]) >= 512  # 64 pixels, enlarged
    told = capsys.readouterr().out
    assert "4 images (1 without objects), 3 objects, 1 crowds" in told
    assert "without a file: 1 images" in told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--config.data.flip=2.0"], "data.flip=2.0"),
        (["--split=tset"], "Unknown split 'tset'"),
        (["--num=0"], "num"),
    ],
)
def test_mistakes_are_one_message(tmp_path, arguments, named):
    command = [sys.executable, "-m", "jaxseg.data.browse", "--config=configs/demo.py"]
    command += [f"--out={tmp_path}", *arguments]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=_ROOT, env=environment)
    assert ended.returncode == 2 and named in ended.stderr and "Traceback" not in ended.stderr
