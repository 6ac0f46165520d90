"""A run that was stopped in any way and started again ends as if nothing had happened, to the bit."""

import multiprocessing
import os
import pathlib
import random
import signal
import time

import pytest
import runs
import standin

from jaxseg.training import checkpoints, validation


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The work directory of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    result, _ = runs.train(folder)
    assert result.finished and result.step == 12
    return folder


def send(number, when):
    """A hook that sends this process a signal at the first line that starts with `when`."""
    sent = []

    def hook(line):
        if line.startswith(when) and not sent:
            sent.append(line)
            os.kill(os.getpid(), number)

    return hook


def test_a_run_leaves_what_it_promises(whole):
    names = {"checkpoints", "finished.json", "log.jsonl", "metrics.json", "metrics.md"}
    names |= {"precision_recall.png", "predictions.png", "results.json", "run.json"}
    names |= {"tensorboard", ".lock"}
    assert set(os.listdir(whole)) == names
    assert [x["step"] for x in runs.log(whole) if x["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    validated = [x for x in runs.log(whole) if x["split"] == "val"]
    assert [x["step"] for x in validated] == [6, 12]
    assert "mask/AP" in validated[0] and "box/AP50" in validated[0]
    kept = set(os.listdir(whole / "checkpoints"))
    assert kept in ({"9", "12"}, {"6", "9", "12"})


def test_a_finished_run_is_told_and_not_trained(whole):
    before = runs.bits(whole)
    result, console = runs.train(whole)
    assert result.finished and result.report.mask.summary["AP"] >= 0
    assert "is finished (step 12); nothing is trained" in console.text
    assert "COCO metrics" in result.report.markdown()
    assert not any(line.startswith("Compiling") for line in console.lines)
    assert runs.bits(whole) == before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(tmp_path, whole, number):
    handler = signal.getsignal(number)
    result, console = runs.train(tmp_path, hook=send(number, "step 4/"))
    assert not result.finished and result.step == 4
    assert f"Stopped by {signal.Signals(number).name}: step 4 is saved" in console.lines[-1]
    assert result.signal == number
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["3", "4"]
    assert signal.getsignal(number) == handler
    if number == signal.SIGINT:
        return
    result, console = runs.train(tmp_path)
    assert result.finished and "Resumed from step 4" in console.text
    assert_steps_once(tmp_path)
    runs.assert_same(tmp_path, whole)


def test_a_run_that_saves_elsewhere_ends_with_the_same_bits(tmp_path, whole):
    folder, place = tmp_path / "run", tmp_path / "disk" / "checkpoints"
    config = standin.make_config()
    config.checkpoints = str(place)
    result, _ = runs.train(folder, config, hook=send(signal.SIGTERM, "step 4/"))
    assert not result.finished and sorted(os.listdir(place)) == ["3", "4", "checkpoints.json"]
    with pytest.raises(ValueError, match=rf"are those of the run in {folder}"):
        runs.train(tmp_path / "other", config)
    assert not os.listdir(tmp_path / "other")
    result, console = runs.train(folder)  # its work directory says where they are
    assert result.finished and "Resumed from step 4" in console.text
    assert f"Checkpoints: {place}." in console.text and "Changed since" not in console.text
    assert not (folder / "checkpoints").exists()
    runs.assert_same(folder, whole, place=place)
    found, *_, step = checkpoints.restore_for_eval(folder)
    assert (found.checkpoints, step) == (str(place), 12)
    _, console = runs.train(folder, config)
    assert "nothing is trained" in console.text and "Changed since" not in console.text


def assert_steps_once(folder):
    steps = [(x["split"], x["step"]) for x in runs.log(folder)]
    assert len(steps) == len(set(steps))


def test_a_signal_in_a_validation_saves_at_once_and_validates_later(tmp_path, whole, monkeypatch):
    evaluate = validation.inference.evaluate_source

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(validation.inference, "evaluate_source", interrupted)
    result, _ = runs.train(tmp_path)
    assert not result.finished and result.step == 6
    monkeypatch.setattr(validation.inference, "evaluate_source", evaluate)
    result, _ = runs.train(tmp_path)
    assert result.finished
    runs.assert_same(tmp_path, whole)
    with checkpoints.Checkpoints(tmp_path) as saved:
        assert checkpoints.BEST in saved.metrics(12)


@pytest.mark.parametrize("moment", ["/variables", "/checkpoints/6"])
def test_a_kill_in_mid_save_continues_from_the_save_before(tmp_path, whole, moment):
    moment = "6.orbax-checkpoint-tmp" + moment if moment == "/variables" else moment
    process = runs.start(tmp_path, env={"STANDIN_KILL": moment})
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output
    left = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert sorted(left) == ["3", "6.orbax-checkpoint-tmp"]
    result, console = runs.train(tmp_path)
    assert result.finished and "Resumed from step 3" in console.text
    assert not list((tmp_path / "checkpoints").glob("*tmp*"))
    runs.assert_same(tmp_path, whole)


def test_a_killed_worker_changes_no_bit(tmp_path, whole, caplog):
    config = standin.make_config()
    config.data.update(workers=2, prefetch=1)  # most batches are yet to be prepared

    def kill(line):
        if line.startswith("Compiling"):
            name = "grain-process-prefetch"
            next(c for c in multiprocessing.active_children() if c.name.startswith(name)).kill()

    result, _ = runs.train(tmp_path, config, hook=kill)
    assert result.finished and "All 2 are started again; no batch is lost." in caplog.text
    runs.assert_same(tmp_path, whole)


# Images large enough to travel through shared memory, in blocks of a size that nothing else has.
LONG = ("train.steps=150", "train.eval_every=50", "train.save_every=5", "train.log_every=10")
LARGE = ("data.buckets=((160, 192),)", "data.shapes.size=(140, 150)", "data.resize.short=(150,)")
LARGE += ("data.resize.max=168", "data.workers=2")
BLOCK = 4 * 160 * 192 * 3


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit_and_leave_nothing_behind(tmp_path):
    whole, folder, settings = tmp_path / "whole", tmp_path / "killed", (*LONG, *LARGE)
    config = standin.make_config()
    standin.update(config, *settings)
    runs.train(whole, config)
    rng = random.Random(0)
    newest = kills = 0
    seen = set()
    while kills < 12:
        output = tmp_path / "output.txt"
        with open(output, "w") as file:
            process = runs.start(folder, *settings, env={"JAXSEG_TEST": str(folder)}, stdout=file)
            early = rng.random() < 0.2
            while process.poll() is None and not early and "Compiled in" not in output.read_text():
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 4) if early else rng.uniform(0, 1.5))
            if process.poll() is None:
                kills += 1
                seen |= set(shared_memory())
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
            process.wait(timeout=120)
        steps = [int(p.name) for p in folder.glob("checkpoints/*") if p.name.isdigit()]
        assert max(steps, default=0) >= newest, output.read_text()
        newest = max(steps, default=0)
        if process.returncode == 0:
            break
    assert kills > 3 and seen
    if process.returncode:
        process = runs.start(folder, *settings)
        assert process.wait(timeout=300) == 0, process.communicate()
    runs.assert_same(folder, whole, 150)
    assert_gone(lambda: marked_processes(f"JAXSEG_TEST={folder}"))
    assert_gone(shared_memory)


def assert_gone(look, seconds=20):
    """Nothing that `look` finds now is still found in a while (other programs may come and go)."""
    found, deadline = set(look()), time.monotonic() + seconds
    while found and time.monotonic() < deadline:
        time.sleep(0.2)
        found &= set(look())
    assert not found


def marked_processes(mark):
    """Processes with `mark` in their environment."""
    return [p.parent.name for p in pathlib.Path("/proc").glob("[0-9]*/environ") if mark in text(p)]


def shared_memory():
    """Blocks of shared memory that hold the images of such a batch."""
    return [p.name for p in pathlib.Path("/dev/shm").glob("psm_*") if p.stat().st_size == BLOCK]


def text(path):
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""
