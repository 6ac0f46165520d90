"""Files are replaced as a whole."""

import os
import time

import pytest

from jaxseg import atomic


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file.txt"]


def test_what_a_kill_left_is_tidied_after_a_day(tmp_path):
    """Recent ones may be somebody's at work, and other files are not touched."""
    path = tmp_path / "fi[l]e.txt"
    names = [".fi[l]e.txt.tmp12", ".fi[l]e.txt.tmp34", ".file.txt.tmp12", ".fi[l]e.txt.tmpx"]
    for name in names:
        (tmp_path / name).touch()
        if name != names[1]:
            os.utime(tmp_path / name, (0, time.time() - 2 * 86400))
    with atomic.replacing(path) as file:
        file.write("new")
    assert set(os.listdir(tmp_path)) == {path.name, *names[1:]}
