import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import standin
from jax.experimental import multihost_utils

from jaxseg.data.sources import Category
from jaxseg.training import checkpoints, optimizer, state, workdir

CATEGORIES = (Category(1, "disc"), Category(7, "ring"))


def make_state(step=0, classes=2, width=50_000, ema=True):
    """A small state whose values follow from `step`."""
    config = standin.make_config()
    params = {
        "backbone": {"kernel": jnp.arange(width, dtype=jnp.float32) + step},
        "head": {"kernel": jnp.full((3, classes), float(step)), "bias": jnp.zeros(classes)},
    }
    transform, _ = optimizer.make(config, params)
    stats = {"norm": {"mean": jnp.full(4, float(step))}}
    return state.create(params, stats, transform, ema=ema).replace(step=jnp.int32(step))


def fill(folder, scores, **shape):
    """Saves steps 1, 2, ... with these validation APs (None: not validated)."""
    with checkpoints.Checkpoints(folder) as saved:
        for step, score in enumerate(scores, 1):
            metrics = None if score is None else {checkpoints.BEST: score}
            saved.save(make_state(step, **shape), metrics)
            saved.wait()
    workdir.save_run(folder, standin.make_config(), CATEGORIES)
    return folder / "checkpoints"


def restore(folder, **shape):
    told = []
    with checkpoints.Checkpoints(folder, told.append) as saved:
        return saved.restore(make_state(**shape)), " ".join(told)


def largest_file(folder):
    files = [os.path.join(r, f) for r, _, fs in os.walk(folder) for f in fs]
    return max(files, key=os.path.getsize)


def flip_a_bit(folder):
    with open(largest_file(folder / "variables"), "r+b") as file:
        file.seek(60_000)
        byte = file.read(1)[0]
        file.seek(60_000)
        file.write(bytes([byte ^ 1]))


def cut_a_file(folder):
    os.truncate(largest_file(folder / "variables"), 10_000)


def empty_the_metrics(folder):
    (folder / "metrics" / "metrics").write_text("")


def lose_the_variables(folder):
    shutil.rmtree(folder / "variables")


def lose_everything(folder):
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = [flip_a_bit, cut_a_file, empty_the_metrics, lose_the_variables, lose_everything]


def test_a_state_comes_back_bit_by_bit(tmp_path):
    fill(tmp_path, [None])
    found, told = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, found, make_state(1))
    assert jax.tree.structure(found) == jax.tree.structure(make_state(1))
    assert not told


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path) == (None, "")


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([None, None, None, None], ["3", "4"]),
        ([0.1, 0.9, None, 0.2, None], ["2", "4", "5"]),
        ([0.5, 0.5, None, None, None], ["2", "4", "5"]),
        ([0.0, None, None, None], ["1", "3", "4"]),
    ],
)
def test_the_latest_two_and_the_best_are_kept(tmp_path, scores, kept):
    folder = fill(tmp_path, scores)
    assert sorted(os.listdir(folder)) == kept


def test_the_best_is_kept_across_restarts(tmp_path):
    folder = fill(tmp_path, [0.9, None])
    with checkpoints.Checkpoints(tmp_path) as saved:
        for step in (3, 4, 5):
            saved.save(make_state(step), {checkpoints.BEST: 0.1})
    assert sorted(os.listdir(folder)) == ["1", "4", "5"]


def test_a_save_does_not_ask_for_preemptions(tmp_path, monkeypatch):
    """Processes would take the step it asks for as the one they are at, and could agree on one that has passed."""
    asked = []
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step))
    )
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(make_state(3))
        saved.wait()
        assert not asked
        assert not saved.reached_preemption(4) and asked == [4]


def test_a_donated_state_is_saved_as_it_was(tmp_path):
    now = jax.jit(lambda: make_state(1, width=2_000_000))()
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.save(now)
        for _ in range(20):
            now = advance(now)
    found, _ = restore(tmp_path, width=2_000_000)
    jax.tree.map(np.testing.assert_array_equal, found, make_state(1, width=2_000_000))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over(tmp_path, damage):
    folder = fill(tmp_path, [0.1, 0.2, 0.3])
    damage(folder / "3")
    found, told = restore(tmp_path)
    assert int(found.step) == 2
    assert "Checkpoint 3 is damaged and passed over" in told
    with checkpoints.Checkpoints(tmp_path) as saved:  # its number can be taken again
        saved.save(make_state(3), {checkpoints.BEST: 0.3})
    assert "3.damaged" in os.listdir(folder)
    found, told = restore(tmp_path)
    assert int(found.step) == 3 and not told


def test_nothing_readable_is_an_error_and_loses_nothing(tmp_path):
    folder = fill(tmp_path, [None, None])
    cut_a_file(folder / "1")
    cut_a_file(folder / "2")
    with pytest.raises(ValueError, match=r"No checkpoint in .* can be read \(tried 2, 1\)"):
        restore(tmp_path)
    assert sorted(os.listdir(folder)) == ["1", "2"]


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    folder = fill(tmp_path, [None, None])
    shutil.copytree(folder / "2", folder / "3.orbax-checkpoint-tmp")
    assert checkpoints.restore_for_eval(tmp_path)[3] == 2
    found, told = restore(tmp_path)
    assert int(found.step) == 2
    assert told == "The save of checkpoint 3 was cut short; what there is of it is removed."
    assert sorted(os.listdir(folder)) == ["1", "2"]


def test_a_removal_that_was_cut_short_is_ended(tmp_path):
    folder = fill(tmp_path, [None, None, None])
    (folder / "2" / "_CHECKPOINT_METADATA").unlink()
    found, told = restore(tmp_path)
    assert int(found.step) == 3 and not told
    assert os.listdir(folder) == ["3"]


def test_another_class_count_names_the_first_parameter(tmp_path):
    fill(tmp_path, [None])
    with pytest.raises(
        ValueError, match=r"params/head/bias is of shape \(2,\) there and of shape \(5,\) here"
    ):
        restore(tmp_path, classes=5)


def test_another_architecture_names_the_first_parameter(tmp_path):
    fill(tmp_path, [None])
    wanted = make_state()
    wanted.params["neck"] = {"kernel": jnp.zeros(2)}
    with (
        checkpoints.Checkpoints(tmp_path) as saved,
        pytest.raises(ValueError, match=r"params/neck/kernel is absent there and of shape \(2,\)"),
    ):
        saved.restore(wanted)


@pytest.mark.parametrize(("step", "wanted"), [("latest", 3), ("best", 1), ("2", 2), (2, 2)])
def test_evaluation_takes_the_step_it_asks_for(tmp_path, step, wanted):
    fill(tmp_path, [0.9, None, 0.2])
    config, categories, variables, found = checkpoints.restore_for_eval(tmp_path, step)
    assert found == wanted
    assert categories == CATEGORIES
    assert config.to_dict() == standin.make_config().to_dict()
    kernel = variables["params"]["backbone"]["kernel"]
    np.testing.assert_array_equal(kernel, make_state(wanted).ema["backbone"]["kernel"])
    assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        ("9", FileNotFoundError, r"no checkpoint 9 in .*; there are \[1, 2\]"),
        ("best", FileNotFoundError, "there is no best"),
        ("newest", ValueError, "allowed are latest, best and a number"),
    ],
)
def test_a_step_that_is_not_there_is_named(tmp_path, step, error, message):
    fill(tmp_path, [None, None])
    with pytest.raises(error, match=message):
        checkpoints.restore_for_eval(tmp_path, step)


def test_evaluation_passes_a_damaged_newest_over(tmp_path):
    folder = fill(tmp_path, [None, None])
    flip_a_bit(folder / "2")
    told = []
    assert checkpoints.restore_for_eval(tmp_path, report=told.append)[3] == 1
    assert "2 is damaged" in told[0]
    with pytest.raises(ValueError, match=r"Checkpoint 2 .* cannot be read"):
        checkpoints.restore_for_eval(tmp_path, 2)


def test_evaluation_of_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the work directory of a training run"):
        checkpoints.restore_for_eval(tmp_path)


def test_a_validation_that_came_late_makes_its_step_the_best(tmp_path):
    folder = fill(tmp_path, [0.5, None])
    with checkpoints.Checkpoints(tmp_path) as saved:
        saved.replace(make_state(2), {checkpoints.BEST: 0.7})
        saved.save(make_state(3))
        saved.save(make_state(4))
    assert sorted(os.listdir(folder)) == ["2", "3", "4"]
    assert json.loads((folder / "2" / "metrics" / "metrics").read_text()) == {checkpoints.BEST: 0.7}


def test_a_home_folder_and_no_warning_of_reading_only(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, [None])
    *_, step = checkpoints.restore_for_eval("~")
    assert step == 1
    assert "read only" not in caplog.text
