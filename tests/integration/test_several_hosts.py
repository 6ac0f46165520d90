"""Processes on loopback evaluate what one process does, to the bit."""

import json
import pathlib

import jax
import optax
import pytest
import standin

from jaxseg import exits, methods
from jaxseg.data import sources
from jaxseg.evaluation import inference
from jaxseg.training import checkpoints, sharding, state, step, workdir
from tests import joined
from tests.data import coco_folder
from tests.methods import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The work directory of a tiny Mask R-CNN that knows nothing, and ten images, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("run")
    config = coco_folder.write(folder / "data", coco_folder.content(10))
    config.model = tiny.config().model
    config.model.num_classes = 2
    config.eval.update(batch_size=2, workers=1)
    variables = tiny.variables(methods.build(config), state.example_batch(config, 2))
    made = state.create(
        variables["params"], variables.get("batch_stats", {}), optax.sgd(0.1), ema=False
    )
    source = sources.open_source(config.data, "val")
    (folder / "data/images/4.png").write_bytes(b"no image")
    workdir.prepare(folder)
    workdir.save_run(folder, config, source.categories)
    with checkpoints.Checkpoints(folder) as saved:
        saved.save(made)
    return folder


def evaluate(run, out, processes, *arguments):
    command = ["eval.py", f"--workdir={run}", f"--out={out}", *arguments]
    return joined.run([command] * processes)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder with what one process finds."""
    out = tmp_path_factory.mktemp("whole")
    ((status, _, errors),) = evaluate(run, out, 1)
    assert status == 0, errors
    return out


def read(folder, name="metrics.json"):
    found = json.loads((folder / name).read_text())
    found.pop("seconds")
    return found


def test_eval_on_three_processes_is_eval_on_one(run, whole, tmp_path):
    found = evaluate(run, tmp_path, 3)
    assert [status for status, *_ in found] == [0] * 3, found
    results = (tmp_path / "results.json").read_bytes()
    assert len(json.loads(results)) > 20
    assert results == (whole / "results.json").read_bytes()
    assert read(tmp_path) == read(whole)
    assert read(whole)["images"] == 10
    assert sum(read(whole)["skipped"].values()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in whole.iterdir()}
    for _, output, _ in found[1:]:
        assert "AP" not in output and str(tmp_path) not in output  # the first one tells
    assert "in 10 images" in found[0][1]


def test_a_mistake_is_told_once(run, tmp_path):
    found = evaluate(run, tmp_path, 2, "--split=vall")
    assert [status for status, *_ in found] == [2, 2]
    assert "vall" in found[0][2] and "vall" not in found[1][2]


def test_a_process_that_lacks_a_file_ends_the_others(run, tmp_path):
    command = ["eval.py", f"--workdir={run}", f"--out={tmp_path}"]
    lacking = ["eval.py", f"--workdir={tmp_path / 'nowhere'}", f"--out={tmp_path}"]
    first, second = joined.run([command, lacking], timeout=120)
    assert first[0] == second[0] == 2
    assert "Process 1 of 2" in first[2] and "nowhere" in first[2] and "nowhere" in second[2]
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize("process", [0, 1])
def test_sigterm_to_one_process_ends_both(run, tmp_path, process):
    program = ["tests/evaluation/terminated.py", str(process)]
    found = joined.run([[*program, f"--workdir={run}", f"--out={tmp_path}"]] * 2, timeout=120)
    assert [status for status, *_ in found] == [exits.PREEMPTED] * 2, found
    assert "Stopped by SIGTERM. The same command starts it anew." in found[0][2]
    assert "process 1 of 2 ends (exit 143) at SIGTERM" in found[1][2]
    assert not (tmp_path / "results.json").exists()


def test_the_validation_of_a_run_of_two_processes_is_that_of_one(tmp_path):
    settings = ["data.shapes.val=5", "eval.batch_size=1"]
    command = [str(pathlib.Path(standin.__file__)), str(tmp_path), *settings]
    found = joined.run([command] * 2)
    assert [status for status, *_ in found] == [0, 0], found
    config, _, variables, number = checkpoints.restore_for_eval(tmp_path)
    assert number == 12
    source = sources.open_source(config.data, "val")
    mesh = sharding.make_mesh(jax.devices()[:1])
    detect = step.make_detect(standin.build(config), mesh)
    with jax.set_mesh(mesh):
        report = inference.evaluate_source(
            lambda batch: detect(variables, batch), source, config, progress=False
        )
    assert json.dumps(report.results) == (tmp_path / "results.json").read_text()
    assert report.to_dict() | {"seconds": 0} == read(tmp_path) | {"seconds": 0}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    validated = [line for line in lines if line["split"] == "val"]
    assert [line["step"] for line in validated] == [6, 12]
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert saved.metrics(12)["mask/AP"] == validated[-1]["mask/AP"]


def test_variables_that_are_spread_over_processes_come_whole_to_each():
    found = joined.run([["tests/training/spread.py"]] * 2)
    assert all(status == 0 and "whole" in output for status, output, _ in found), found
