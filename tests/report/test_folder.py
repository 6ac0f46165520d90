"""Reading work directories in every state that they may be in."""

import json
import shutil

import pytest
from made_runs import detections, write_run

from jaxseg.report import folder


def test_a_finished_run(finished, three_classes):
    run = folder.read(finished)
    assert run.finished and (run.step, run.steps, run.split) == (20, 20, "val")
    assert [c.name for c in run.categories] == ["cat", "dog", "cow"]
    assert run.results == detections(three_classes[1])
    assert run.final["mask"]["summary"].keys() >= {"AP", "AP50"}
    assert len(run.train) == 10 and len(run.val) == 2
    assert run.versions["jax"]
    source, reason = folder.open_data(run)
    assert reason == "" and len(source) == 6


def test_a_run_in_progress_with_a_torn_line(tmp_path, three_classes):
    root, dataset = three_classes
    run = folder.read(write_run(tmp_path / "run", root, dataset, logged=12, torn=True))
    assert not run.finished and run.step == 12
    assert run.final is None and run.results is None


def test_a_run_that_has_logged_nothing(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    (path / "log.jsonl").unlink()
    run = folder.read(path)
    assert (run.step, run.train, run.val) == (0, [], [])


def evaluation(path, source, split="test", step=20):
    out = path / "eval" / f"{split}-{step}"
    out.mkdir(parents=True)
    for name in ("results.json", "metrics.json"):
        shutil.copy(source / name, out / name)
    metrics = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").write_text(json.dumps({**metrics, "split": split}))
    return out


def test_evaluations_within_a_run(tmp_path, three_classes, finished):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    for step in (5, 20, 10):
        evaluation(path, finished, step=step)
    run = folder.read(path)
    assert run.final["step"] == 20 and run.split == "test"
    assert folder.read(path, "test").results_path.parent.name == "test-20"
    alone = folder.read(path / "eval" / "test-5")
    assert alone.final["step"] == 5 and alone.config is not None and not alone.finished
    with pytest.raises(
        FileNotFoundError, match=r"no results on the split 'train'.*eval\.py --workdir"
    ):
        folder.read(path, "train")


def test_an_evaluation_by_itself(tmp_path, finished):
    out = evaluation(tmp_path, finished).rename(tmp_path / "mine")
    run = folder.read(out)
    assert run.config is None and run.final["step"] is None and run.results
    assert folder.open_data(run)[0] is None


def test_what_a_job_notes(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    (path / "job.json").write_text(json.dumps({"command": ["python", "train.py", "--config=a b"]}))
    assert folder.read(path).command == ("python", "train.py", "--config=a b")


@pytest.mark.parametrize("name", ["finished.json", "results.json"])
def test_damaged_files_count_as_absent(tmp_path, finished, name):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / name).write_text('{"step": 20, "sp')
    run = folder.read(path)
    if name == "results.json":
        assert run.results is None and run.final is not None
    else:
        assert run.final["step"] is None  # of metrics.json, which a run has as well


def test_what_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds neither a training run nor an evaluation"):
        folder.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        folder.read(tmp_path / "nosuch")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        folder.read(tmp_path)


def test_data_that_is_gone_is_told(tmp_path, three_classes):
    path = write_run(tmp_path / "run", tmp_path / "nosuch", three_classes[1])
    source, reason = folder.open_data(folder.read(path))
    assert source is None and "nosuch" in reason


def test_labels_are_short_and_tell_runs_apart(tmp_path):
    paths = [tmp_path / p for p in ("a/run", "b/run", "b/other")]
    assert folder.labels(paths) == ["a/run", "b/run", "b/other"]
    assert folder.labels(paths[1:]) == ["run", "other"]
    assert folder.labels([tmp_path / "x", tmp_path / "x"])[0] != folder.labels([tmp_path] * 2)[1]
