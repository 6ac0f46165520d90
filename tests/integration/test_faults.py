"""What a user gets wrong or a machine refuses ends in one clear message and loses nothing."""

import ctypes
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import time

import flax.linen as nn
import jax.numpy as jnp
import pytest
import runs
import standin

from jaxseg import exits
from jaxseg.data import shapes
from jaxseg.data import source as data_source
from jaxseg.data.sources import Category
from jaxseg.training import checkpoints, loop, metrics, setup, workdir
from tests.data import coco_folder

ROOT = pathlib.Path(__file__).parent.parent.parent


class Wide(standin.Standin):
    """The stand-in with parameters of 400 kB."""

    def setup(self):
        super().setup()
        self.wide = self.param("wide", nn.initializers.normal(), (100_000,))

    def losses(self, batch, key, step, *, train=True):
        total, log = super().losses(batch, key, step, train=train)
        return total + jnp.square(self.wide).mean(), log


class Poisoned(standin.Standin):
    """Its loss is NaN in the eighth step."""

    def losses(self, batch, key, step, *, train=True):
        total, log = super().losses(batch, key, step, train=train)
        return total * jnp.where(step == 7, jnp.nan, 1.0), log


def with_settings(**settings):
    config = standin.make_config()
    for key, value in settings.items():
        group, name = config, key
        while "__" in name:
            head, _, name = name.partition("__")
            group = group[head]
        group[name] = value
    return config


MISTAKES = {
    "an unknown key": (dict(optim__lrate=1.0), r"optim.lrate \(did you mean optim.lr"),
    "steps": (dict(train__steps=0), r"config.train.steps=0: must be a whole number >= 1"),
    "a batch that does not split": (
        dict(optim__accumulate=3),
        r"config.train.batch_size=4 is not divisible by 1 device x optim.accumulate=3. Take 3 or 6",
    ),
    "class count": (
        dict(model__num_classes=80),
        r"config.model.num_classes=80, but the data set has 6 classes \(disc, square",
    ),
    "freeze": (dict(freeze=("stam",)), r"no parameter lies under 'stam'. There are: .*stem"),
    "freeze pattern": (dict(freeze=("stem(",)), r"'stem\(' is no regular expression"),
    "schedule": (dict(optim__schedule="linear"), "allowed are step, cosine"),
    "evaluator": (dict(eval__evaluator="coco"), "faster_coco_eval"),
    "init_from": (dict(init_from="/nonexistent"), "not the work directory of a training run"),
    "checkpoints": (dict(checkpoints="s3://a/b"), r"config.checkpoints='s3://a/b': allowed are"),
    "seed": (dict(seed=-1), r"config.seed=-1: must be a whole number >= 0"),
    "images to evaluate": (dict(eval__max_images=-1), r"config.eval.max_images=-1: must be"),
    "views": (dict(eval__tta__scales=(0,)), r"config.eval.tta.scales=\(0,\): a tuple of"),
    "evaluation batch": (dict(eval__batch_size=0), r"config.eval.batch_size=0: must be"),
    "evaluation workers": (
        dict(eval__workers=-2),
        r"config.eval.workers=-2: a number of processes",
    ),
    "buckets": (dict(data__buckets=((100, 100),)), r"data.buckets"),
    "objects": (dict(data__max_instances=0), r"data.max_instances"),
    "no images": (dict(data__shapes__train=0), r"shapes.train|training set"),
    "source": (dict(data__source="voc"), "allowed are coco_json, shapes and tfds"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_compiled(tmp_path, mistake):
    settings, message = MISTAKES[mistake]
    lines = []
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runs.train(tmp_path, with_settings(**settings), hook=lines.append)
    assert not any(line.startswith("Compiling") for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/jaxseg"])
def test_an_unwritable_work_directory(tmp_path, folder):
    (tmp_path / "file").write_text("")
    lines = []
    with pytest.raises(OSError, match="cannot be written"):
        runs.train(tmp_path / folder, hook=lines.append)
    assert not lines


def test_checkpoints_that_cannot_be_written_are_told_at_the_start(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    lines = []
    with pytest.raises(OSError, match=r"The folder of the checkpoints .* cannot be written"):
        runs.train(tmp_path, hook=lines.append)
    assert not any(line.startswith("Compiling") for line in lines)


@pytest.fixture
def file_limit():
    """Sets the size at which files cannot grow any more, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_in_a_save_leaves_the_save_before(tmp_path, file_limit, caplog):
    def build(config):
        return Wide(config.model.num_classes)

    def fill_the_disk(line):
        if line.startswith("step 6/"):
            while not (tmp_path / "checkpoints" / "3").exists():
                time.sleep(0.01)
            file_limit(200_000)

    with pytest.raises(
        OSError,
        match=r"Could not write checkpoint 6 to .*: File too large \(checkpoint 3 is the newest\). Free some space",
    ):
        runs.train(tmp_path, hook=fill_the_disk, build=build)
    assert "Traceback" not in caplog.text
    file_limit(-1)
    result, console = runs.train(tmp_path, build=build)
    assert result.finished and "Resumed from step 3" in console.text
    steps = [x["step"] for x in metrics.read(tmp_path, "train")]
    assert steps == [2, 4, 6, 8, 10, 12]


def obey_modes():
    """Root may write into what is read-only; what is executed after this may not. Others cannot anyway."""
    bounding_set_drop, dac_override = 24, 1
    ctypes.CDLL(None).prctl(bounding_set_drop, dac_override, 0, 0, 0)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_is_told_and_keeps_its_checkpoints(tmp_path):
    folder, said = tmp_path / "run", tmp_path / "output.txt"
    settings = ("train.steps=100000", "train.eval_every=0", "train.log_every=50")
    with open(said, "w") as file:
        process = runs.start(folder, *settings, stdout=file, preexec_fn=obey_modes)
    place = folder / "checkpoints"
    try:
        deadline = time.monotonic() + 400
        while not (place / "3").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        place.chmod(0o555)
        # Orbax' threads would hold up the interpreter's end for 300 s.
        assert process.wait(timeout=60) == exits.MISTAKE
    finally:
        process.kill()
        process.wait()
        place.chmod(0o755)
    told = said.read_text()
    found = re.search(r"Could not write checkpoint \d+ to .*: .*Permission denied.*", told)
    assert found, told
    newest = int(re.search(r"checkpoint (\d+) is the newest", found[0])[1])
    assert checkpoints.restore_for_eval(folder)[3] == newest


def test_a_loss_that_is_not_finite_stops_and_is_explained(tmp_path):
    def build(config):
        return Poisoned(config.model.num_classes)

    with pytest.raises(FloatingPointError) as raised:
        runs.train(tmp_path, build=build)
    message = str(raised.value)
    for part in (
        "at step 8 ",
        "Image ids of its batch: ",
        "Learning rate: 0.05.",
        "optim.lr=0.0125",
    ):
        assert part in message
    assert "the newest checkpoint is 6" in message
    ids = message.partition("batch: ")[2].partition(".")[0].split(", ")
    assert len(ids) == 4 and all(i.isdigit() for i in ids)
    with pytest.raises(FloatingPointError, match="at step 8"):  # the same command, the same step
        runs.train(tmp_path, build=build)
    result, _ = runs.train(tmp_path)
    assert result.finished


def test_another_class_count_in_the_same_work_directory(tmp_path):
    runs.train(tmp_path, standin.make_config(steps=3))
    before = (tmp_path / "run.json").read_text()
    lines = []
    with pytest.raises(
        ValueError, match=r"params/counts/bias is of shape \(6,\) there and of shape \(9,\) here"
    ):
        runs.train(tmp_path, build=lambda config: standin.Standin(9), hook=lines.append)
    assert not any(line.startswith("Compiling") for line in lines)
    assert (tmp_path / "run.json").read_text() == before


def test_a_finished_run_goes_on_when_it_gets_more_steps(tmp_path):
    runs.train(tmp_path, standin.make_config(steps=3))
    result, console = runs.train(tmp_path, standin.make_config(steps=6))
    assert result.finished and result.step == 6
    assert "Resumed from step 3" in console.text
    assert "Changed since the last start: train.steps: 3 -> 6." in console.lines


def test_a_finished_run_refuses_another_model(tmp_path):
    runs.train(tmp_path, standin.make_config(steps=3))
    changed = with_settings(train__steps=3, model__backbone__depth=18, optim__lr=0.1)
    with pytest.raises(ValueError, match=r"finished, and it has model.backbone.depth=50 .* 18"):
        runs.train(tmp_path, changed)
    result, console = runs.train(tmp_path, with_settings(train__steps=2, optim__lr=0.1))
    assert result.finished and result.step == 3
    told = [line for line in console.lines if line.startswith("Changed")]
    assert [line.partition(": ")[2] for line in told] == [
        "optim.lr: 0.05 -> 0.1.",
        "train.steps: 3 -> 2.",
    ]


def test_fewer_steps_than_were_trained_end_the_run(tmp_path):
    def stop(line):
        if line.startswith("step 8/"):
            raise KeyError

    with pytest.raises(KeyError):
        runs.train(tmp_path, hook=stop)
    result, console = runs.train(tmp_path, standin.make_config(steps=4))
    assert result.finished and result.step == 6 and not result.signal
    assert result.report is not None and (tmp_path / "finished.json").exists()
    assert "Stopped" not in console.text


def test_two_runs_in_one_work_directory(tmp_path):
    with workdir.locked(tmp_path), pytest.raises(BlockingIOError, match="Another run is under"):
        runs.train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [workdir.LOCK_FILE]


def test_images_that_cannot_be_read_stop_the_run(tmp_path, monkeypatch):
    def unreadable(self, index):
        raise data_source.ImageError("the file is missing", f"{index}.jpg")

    monkeypatch.setattr(shapes.Shapes, "image", unreadable)
    with pytest.raises(ValueError, match=r"None of the 14 training images .*the file is missing"):
        runs.train(tmp_path)


def test_a_folder_of_images_that_disappears_ends_the_run_and_loses_no_step(tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    written = coco_folder.write(data, coco_folder.content(8)).data
    config = standin.make_config(eval_every=0, save_every=2)
    config.data.update(source="coco_json", root=written.root, keep_empty=True)
    config.data.train, config.data.val = written.train, written.val

    def disappear(line):
        if line.startswith("step 2/"):
            (data / "images").rename(data / "elsewhere")

    with pytest.raises(
        ValueError, match=r"None of the 8 training images .*missing\)\. Is the disk still there"
    ):
        runs.train(run, config, hook=disappear)
    (data / "elsewhere").rename(data / "images")
    result, console = runs.train(run, config)
    assert result.finished and re.search(r"Resumed from step [24]\b", console.text)


def test_a_split_without_annotations_has_the_classes_of_the_training_split(monkeypatch):
    class Split(list):
        categories = (Category(1, "cat"), Category(2, "dog"))
        annotated = True

    class Unannotated(Split):
        categories = (Category(1, "cat"),)
        annotated = False

    train, val = Split([0]), Unannotated([0])
    opened = {"train": train, "val": val}
    monkeypatch.setattr(setup.sources, "open_source", lambda data, split: opened[split])
    monkeypatch.setattr(setup.pipeline, "training_images", lambda data, source: [0])
    with pytest.raises(ValueError, match="The classes of split 'val' are not those"):
        setup.open_data(standin.make_config(), runs.Console())


def test_a_validation_that_fails_loses_no_step(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise MemoryError("too large")

    monkeypatch.setattr(loop.validation.inference, "evaluate_source", broken)
    with pytest.raises(MemoryError):
        runs.train(tmp_path)
    assert (tmp_path / "checkpoints" / "6").is_dir()


def test_fine_tuning_from_a_run_with_the_same_classes(tmp_path):
    runs.train(tmp_path / "first", standin.make_config(steps=3))
    config = standin.make_config(steps=3)
    config.init_from = str(tmp_path / "first")
    _, console = runs.train(tmp_path / "second", config)
    assert f"Started from the weights of {tmp_path / 'first'}." in console.lines


def test_the_command_explains_a_mistake_in_one_message(tmp_path):
    settings = [
        "--config=configs/demo.py:runlocal",
        "--config.optim.lrr=1",
        f"--workdir={tmp_path}",
    ]
    done = subprocess.run(
        [sys.executable, "train.py", *settings],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("train.py: --config.optim.lrr=1: unknown key optim.lrr (did you")
    assert len(done.stderr.splitlines()) == 1
    assert not os.listdir(tmp_path)


def test_a_run_file_holds_what_evaluation_needs(tmp_path):
    runs.train(tmp_path, standin.make_config(steps=3))
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"]["model"]["num_classes"] == 6
    assert [c["name"] for c in run["categories"]][:2] == ["disc", "square"]
