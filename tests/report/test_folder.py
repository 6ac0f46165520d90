"""Reading work directories in every state that they may be in."""

import json
import shutil

import pytest
from made_runs import detections, write_run

from jaxseg.report import folder
from jaxseg.training import provenance, workdir


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


def test_an_evaluation_elsewhere_knows_its_data_and_its_run(tmp_path, finished, three_classes):
    """As the rows of a table do that only evaluate."""
    out = evaluation(tmp_path, finished).rename(tmp_path / "seed0")
    config, categories = workdir.load_run(finished)
    config.eval.max_detections = 7
    workdir.save_evaluation(out, config, categories, run="runs/first", step=20)
    (out / "metrics.json").unlink()  # a split without annotations
    run = folder.read(out)
    assert not run.training and (run.step, run.split) == (20, "val")
    assert run.config.eval.max_detections == 7 and run.categories == categories
    assert run.evaluation["workdir"] == "runs/first" and run.versions["jax"]
    assert run.commit == provenance.commit() and run.device and run.command[0] == "python"
    assert len(folder.open_data(run)[0]) == 6


def test_an_evaluation_of_a_run_on_other_data_is_seen_on_that_data(
    tmp_path, finished, three_classes
):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", tmp_path / "nosuch", dataset)
    out = evaluation(path, finished, split="val")
    assert folder.open_data(folder.read(path))[0] is None
    config, categories = workdir.load_run(path)
    config.data.root = str(root)
    workdir.save_evaluation(out, config, categories, run=path, step=20)
    run = folder.read(path)
    assert run.training and run.config.data.root != str(root)
    assert len(folder.open_data(run)[0]) == 6


def test_a_failed_job(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    noted = dict(status="failed", error="train.py: no such weights", command=["python", "train.py"])
    (path / "job.json").write_text(json.dumps(noted))
    run = folder.read(path)
    assert run.failed and run.error == "train.py: no such weights"
    (path / "run.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no results to show \(job failed\): train.py: no"):
        folder.read(path)


def test_the_work_directory_of_a_table_is_told(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"format": 1, "rows": []}))
    with pytest.raises(ValueError, match=r"of a table: its report is .*report.html.*ROW/seed0"):
        folder.read(tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "runs" / "plain" / "seed1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"of a table.*runs/plain/seed1"):
        folder.read(tmp_path)


def test_what_a_job_notes(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    (path / "job.json").write_text(json.dumps({"command": ["python", "train.py", "--config=a b"]}))
    assert folder.read(path).command == ("python", "train.py", "--config=a b")


DAMAGED = ['{"step": 20, "sp', "[3]", '{"split": "val"}', "null"]


@pytest.mark.parametrize("text", DAMAGED)
@pytest.mark.parametrize("name", ["finished.json", "results.json"])
def test_damaged_files_count_as_absent(tmp_path, finished, name, text):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / name).write_text(text)
    run = folder.read(path)
    if name == "results.json":
        assert run.results is None and run.final is not None
    else:
        assert run.final["step"] is None  # of metrics.json, which a run has as well
        assert [file.name for file in run.damaged] == [name]


@pytest.mark.parametrize("text", DAMAGED)
def test_an_evaluation_with_nothing_but_damaged_files(tmp_path, text):
    for name in ("metrics.json", "results.json", "job.json", "evaluation.json"):
        (tmp_path / name).write_text(text)
    if text == "[3]":
        (tmp_path / "results.json").unlink()  # it would be a list
    with pytest.raises(ValueError, match=r"no results that can be read: .*metrics.json.*eval\.py"):
        folder.read(tmp_path)


def test_what_is_no_number_in_a_log_is_left_out(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset)
    with open(path / "log.jsonl", "a") as file:
        file.write('{"step": "x", "split": "val"}\n{"step": 21, "split": "val", "mask/AP": null}\n')
    assert folder.read(path).val[-1] == {"step": 21, "split": "val"}


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
