"""A run that was stopped in any way and started again ends as if nothing had happened, to the bit."""

import os
import pathlib
import random
import signal
import time

import pytest
import runs

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
    names |= {"predictions.png", "results.json", "run.json", "tensorboard"}
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


def test_a_kill_in_mid_save_continues_from_the_save_before(tmp_path, whole):
    kill_when(tmp_path, lambda: any(pathlib.Path(tmp_path, "checkpoints").glob("6.*tmp*")))
    result, console = runs.train(tmp_path)
    assert result.finished
    assert "Resumed from step 3" in console.text or "Resumed from step 6" in console.text
    assert not list(pathlib.Path(tmp_path, "checkpoints").glob("*tmp*"))
    runs.assert_same(tmp_path, whole)


def kill_when(folder, condition, *settings):
    process = runs.start(folder, *settings)
    while process.poll() is None and not condition():
        time.sleep(0.0005)
    process.kill()
    process.communicate()
    return process.returncode


def marked_processes(mark):
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append(entry.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_kills_at_random_moments_change_no_bit_and_leave_nothing_behind(tmp_path, whole):
    rng = random.Random(0)
    mark = f"JAXSEG_TEST={tmp_path}"
    shared = set(os.listdir("/dev/shm"))
    env = dict([mark.split("=")])
    settings = ("data.workers=2", "train.log_every=2")
    newest, kills = 0, 0
    while kills < 12:
        process = runs.start(tmp_path, *settings, env=env, start_new_session=True)
        try:
            # From the start of the loop on, when most happens; sometimes SIGTERM, which saves first.
            deadline = time.monotonic() + rng.uniform(4, 14)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            if process.poll() is None:
                kills += 1
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        finally:
            output, _ = process.communicate(timeout=60)
        folder = tmp_path / "checkpoints"
        steps = (
            [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []
        )
        assert max([0, *steps]) >= newest, output
        newest = max([0, *steps])
        if process.returncode == 0:
            break
    if process.returncode != 0:
        process = runs.start(tmp_path, *settings, env=env)
        output, _ = process.communicate()
        assert process.returncode == 0, output
    runs.assert_same(tmp_path, whole)
    deadline = time.monotonic() + 20
    while marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not marked_processes(mark)
    assert set(os.listdir("/dev/shm")) <= shared
