import json
import os
import sys

import pytest
import standin

from jaxseg.data.sources import Category
from jaxseg.training import provenance, workdir

CATEGORIES = (Category(3, "cat"), Category(9, "dog"))


def test_a_run_comes_back(tmp_path):
    config = standin.make_config()
    workdir.save_run(tmp_path, config, CATEGORIES)
    found, categories = workdir.load_run(tmp_path)
    assert found.to_dict() == config.to_dict()
    assert categories == CATEGORIES
    assert set(os.listdir(tmp_path)) == {"run.json"}
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["versions"] == provenance.versions() and run["device"] == provenance.device()
    assert run["commit"] == provenance.commit()
    assert run["command"][0] == "python" and run["command"][1:] == sys.argv


def test_runs_of_earlier_versions_come_back(tmp_path):
    """They have neither commit nor device."""
    workdir.save_run(tmp_path, standin.make_config(), CATEGORIES)
    run = json.loads((tmp_path / "run.json").read_text())
    del run["commit"], run["device"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert workdir.load_run(tmp_path)[1] == CATEGORIES


def test_an_evaluation_says_what_it_was_made_of(tmp_path):
    config = standin.make_config()
    config.eval.split = "test"
    workdir.save_evaluation(tmp_path, config, CATEGORIES, run="runs/mine", step=7)
    path = tmp_path / "evaluation.json"
    found, categories = workdir.load_settings(path)
    assert found.eval.split == "test" and categories == CATEGORIES
    noted = json.loads(path.read_text())
    assert (noted["workdir"], noted["step"]) == ("runs/mine", 7)
    assert noted["commit"] == provenance.commit() and noted["versions"] == provenance.versions()
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"evaluation.json is damaged"):
        workdir.load_settings(path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the work directory of a training run"):
        workdir.load_run(tmp_path)


def test_a_damaged_run_file(tmp_path):
    (tmp_path / "run.json").write_text('{"config": ')
    with pytest.raises(ValueError, match=r"run.json is damaged"):
        workdir.load_run(tmp_path)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("optim.lrate", r"optim.lrate \(did you mean optim.lr"),
        ("optim.batch_size", r"optim.batch_size \(did you mean .*train.batch_size"),
        ("training", r"training \(did you mean .*train"),
    ],
)
def test_unknown_keys_are_named_with_what_was_meant(path, message):
    config = standin.make_config()
    group = config
    for name in path.split(".")[:-1]:
        group = group[name]
    group[path.rpartition(".")[2]] = 1
    with pytest.raises(ValueError, match=message):
        workdir.check_keys(config, standin.common.base())


def test_further_splits_are_no_unknown_keys():
    config = standin.make_config()
    config.data.test = dict(images="test", annotations="test.json")
    workdir.check_keys(config, standin.common.base())


def test_changes_are_told_one_by_one():
    old, new = standin.make_config(), standin.make_config(steps=20)
    new.data.new = 1
    assert workdir.differences(old, new) == {"data.new": ("absent", 1), "train.steps": (12, 20)}


def test_a_key_of_another_version_is_as_by_default():
    old, new = standin.make_config(), standin.make_config(steps=20)
    del old.optim.clip_norm, old.optim.gamma
    new.optim.gamma, old.gone = 0.5, 1
    found = {"train.steps": (12, 20), "optim.gamma": (0.1, 0.5), "gone": (1, "absent")}
    assert workdir.differences(old, new, standin.common.base()) == found


def test_an_evaluation_is_not_replaced_by_one_with_other_settings(tmp_path):
    config = standin.make_config()
    workdir.check_evaluation(tmp_path, config)
    changed = {"model.test.score": (0.3, 0.05)}
    workdir.save_evaluation(tmp_path, config, CATEGORIES, run="runs/a", step=7, changed=changed)
    noted = json.loads((tmp_path / "evaluation.json").read_text())
    assert noted["changed"] == {"model.test.score": [0.3, 0.05]}
    config.data.workers, config.eval.batch_size, config.train.steps = 5, 1, 99
    workdir.check_evaluation(tmp_path, config)
    config.data.test.images = "elsewhere"  # no matter of the split that was evaluated
    workdir.check_evaluation(tmp_path, config)
    config.model.test.score = 0.5
    message = r"config.model.test.score is 0.05 there and 0.5 here\. Give --out=DIR"
    with pytest.raises(ValueError, match=message):
        workdir.check_evaluation(tmp_path, config)


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/jaxseg"])
def test_a_work_directory_that_cannot_be_written(tmp_path, folder):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"The work directory .* cannot be written"):
        workdir.prepare(tmp_path / folder)


def test_a_new_work_directory_is_made_and_left_empty(tmp_path):
    assert os.listdir(workdir.prepare(tmp_path / "a" / "b")) == []


def test_a_work_directory_is_for_one_run_at_a_time(tmp_path):
    with workdir.locked(tmp_path), pytest.raises(BlockingIOError, match="Another run is under"):
        workdir.locked(tmp_path).__enter__()
    with workdir.locked(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(workdir.fcntl, "flock", refuse)
    with workdir.locked(tmp_path):
        pass
