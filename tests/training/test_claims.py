"""Checkpoints beside the work directory: found again, nobody else's, and of the same bits."""

import json
import os
import pathlib
import shutil
import threading

import jax
import numpy as np
import pytest
import test_checkpoints as saves

from jaxseg.training import checkpoints, claims, storage, workdir


def begin(folder, place):
    """What `loop.train` does for a run in `folder` with `config.checkpoints=place`."""
    folder = workdir.prepare(folder)
    chosen = claims.choose(folder, storage.checked(str(place)))
    claims.claim(folder, chosen)
    return chosen


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A work directory with three checkpoints in it, of which the first is gone and the second is the best."""
    folder = tmp_path_factory.mktemp("near")
    saves.fill(folder, [0.1, 0.9, 0.3])
    return folder


@pytest.fixture
def far(tmp_path, near):
    """(work directory, the folder in which its run saves), with the same checkpoints."""
    folder, place = tmp_path / "run", tmp_path / "disk" / "r50"
    begin(folder, place)
    shutil.copytree(near / "checkpoints", place, dirs_exist_ok=True)
    shutil.copy(near / "run.json", folder)
    return folder, place


def test_what_is_saved_elsewhere_is_found_with_the_work_directory_alone(far):
    folder, place = far
    assert sorted(os.listdir(folder)) == ["checkpoints.json", "run.json"]
    assert sorted(os.listdir(place)) == ["2", "3", "checkpoints.json"]
    assert claims.where(folder) == claims.choose(folder, "") == storage.path(place)
    assert storage.finished_steps(claims.where(folder)) == [2, 3]
    found, told = saves.restore(folder)
    jax.tree.map(np.testing.assert_array_equal, found, saves.make_state(3))
    assert not told
    assert checkpoints.restore_for_eval(folder, "best")[3] == 2


def test_it_has_the_bits_of_what_is_saved_in_the_work_directory(near, tmp_path):
    begin(tmp_path / "run", tmp_path / "place")
    saves.fill(tmp_path / "run", [0.1, 0.9, 0.3])
    assert sorted(os.listdir(tmp_path / "place")) == ["2", "3", "checkpoints.json"]
    digests = [
        json.loads((place / "3" / "digest" / "metadata").read_text())
        for place in (tmp_path / "place", near / "checkpoints")
    ]
    assert digests[0] == digests[1]


def test_a_damaged_newest_and_half_a_save_are_passed_over_there(far):
    folder, place = far
    saves.flip_a_bit(place / "3")
    shutil.copytree(place / "2", place / "4.orbax-checkpoint-tmp")
    found, told = saves.restore(folder)
    assert int(found.step) == 2 and "Checkpoint 3 is damaged and passed over" in told
    assert "The save of checkpoint 4 was cut short" in told
    assert sorted(os.listdir(place)) == ["2", "3.damaged", "checkpoints.json"]


def test_without_the_setting_nothing_is_noted(tmp_path):
    chosen = begin(tmp_path, "")
    assert chosen == claims.where(tmp_path) == storage.path(tmp_path / "checkpoints")
    assert begin(tmp_path, tmp_path / "checkpoints") == chosen
    assert not os.listdir(tmp_path)
    assert claims.noted(tmp_path, chosen) == ""


def test_a_place_is_for_one_run(far, tmp_path):
    folder, place = far
    other = workdir.prepare(tmp_path / "other")
    with pytest.raises(ValueError, match=rf"{place} are those of the run in {folder}, and not of"):
        begin(other, place)
    (folder / "checkpoints.json").unlink()
    with pytest.raises(ValueError, match="are those of the run in"):
        begin(folder, place)
    assert not os.listdir(other)
    assert storage.finished_steps(storage.path(place)) == [2, 3]


def test_of_two_runs_that_begin_at_a_time_one_is_refused(tmp_path, monkeypatch):
    """Both see that the place is free before either takes it."""
    both, result = threading.Barrier(2), {}
    create = storage.create

    def at_once(*arguments):
        both.wait(timeout=30)
        create(*arguments)

    monkeypatch.setattr(storage, "create", at_once)

    def run(name):
        try:
            result[name] = begin(tmp_path / name, tmp_path / "place")
        except ValueError as error:
            result[name] = error

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (loser,) = [name for name, what in result.items() if isinstance(what, ValueError)]
    assert "Another run has just begun to save to" in str(result[loser])
    assert not os.listdir(tmp_path / loser)
    winner = json.loads((tmp_path / "place" / "checkpoints.json").read_text())["workdir"]
    assert winner == str(tmp_path / ("b" if loser == "a" else "a"))


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "link", refuse)
    begin(tmp_path / "a", tmp_path / "place")
    assert os.listdir(tmp_path / "place") == ["checkpoints.json"]
    with pytest.raises(ValueError, match="are those of the run in"):
        begin(tmp_path / "b", tmp_path / "place")


def test_what_another_run_wrote_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "choose", lambda folder, wanted: storage.path(wanted))
    place = begin(tmp_path / "a", tmp_path / "place")
    before = (place / "checkpoints.json").read_text()
    with pytest.raises(ValueError, match="Another run has just begun to save to"):
        begin(tmp_path / "b", tmp_path / "place")
    assert (place / "checkpoints.json").read_text() == before


def test_a_run_does_not_begin_anew_where_its_disk_is_gone(far, tmp_path):
    folder, place = far
    place.rename(tmp_path / "moved")
    for wanted in ("", place, tmp_path / "elsewhere"):
        with pytest.raises(FileNotFoundError, match=rf"has its checkpoints in {place}, and there"):
            begin(folder, wanted)
    assert begin(folder, tmp_path / "moved") == claims.where(folder)  # with its record
    assert int(saves.restore(folder)[0].step) == 3


def test_checkpoints_that_are_nobodys_are_not_mixed_with_a_runs(tmp_path):
    place = saves.fill(tmp_path / "copy", [None])
    with pytest.raises(
        ValueError, match=r"There are checkpoints in .* already \(the newest is 1\)"
    ):
        begin(tmp_path / "run", place)
    shutil.rmtree(place)
    with pytest.raises(ValueError, match=rf"belongs to the run in {tmp_path / 'copy'}"):
        begin(tmp_path / "run", place)


def test_a_work_directory_does_not_save_where_another_run_does(tmp_path):
    begin(tmp_path / "a", tmp_path / "b" / "checkpoints")
    with pytest.raises(ValueError, match=rf"are those of the run in {tmp_path / 'a'}"):
        begin(tmp_path / "b", "")


def test_a_run_with_checkpoints_stays_where_it_is(far, near, tmp_path):
    folder, place = far
    with pytest.raises(ValueError, match=rf"\(the newest is 3\) in {place}. Leave config.checkp"):
        begin(folder, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=rf"\(the newest is 3\) in {near}/checkpoints\. Leave"):
        begin(near, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_a_lost_work_directory_is_replaced_by_the_record_as_the_message_says(far, tmp_path):
    folder, place = far
    shutil.rmtree(folder)
    with pytest.raises(ValueError) as refused:
        begin(folder, place)
    assert f"copy {place}/checkpoints.json to {folder}/checkpoints.json" in str(refused.value)
    shutil.copy(place / "checkpoints.json", folder / "checkpoints.json")
    begin(folder, place)
    assert int(saves.restore(folder)[0].step) == 3


def test_a_place_without_checkpoints_may_be_left_and_is_free_again(tmp_path):
    begin(tmp_path / "run", tmp_path / "first")
    begin(tmp_path / "run", tmp_path / "second")
    assert claims.where(tmp_path / "run") == storage.path(tmp_path / "second")
    begin(tmp_path / "other", tmp_path / "first")


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/jaxseg"])
def test_a_place_that_cannot_be_written(tmp_path, name):
    (tmp_path / "file").write_text("")
    folder, place = tmp_path / "run", tmp_path / name
    with pytest.raises(
        OSError, match=rf"config.checkpoints: {place} cannot be written: .*\. Choose"
    ):
        begin(folder, place)
    assert not os.listdir(folder)


def test_a_full_disk_leaves_no_half_a_record(tmp_path, monkeypatch):
    def full(file, *_, **__):
        file.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pathlib.Path, "write_text", full)
    with pytest.raises(OSError, match=r"cannot be written: No space left on device\. Choose"):
        begin(tmp_path / "run", tmp_path / "place")
    monkeypatch.undo()
    assert not os.listdir(tmp_path / "place") and not os.listdir(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "[]", '{"place": 1, "run": "", "workdir": ""}'])
def test_a_damaged_record_is_named(tmp_path, text):
    (tmp_path / "checkpoints.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoints.json, which says where .* is damaged"):
        claims.where(tmp_path)


def test_the_work_directory_itself_is_no_place(tmp_path):
    with pytest.raises(ValueError, match="is the work directory itself"):
        begin(tmp_path, tmp_path)
