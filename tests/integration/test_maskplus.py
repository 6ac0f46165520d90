"""Biased training in a run that is stopped: the weight of masks belongs to the step, not to the start."""

import os
import signal

import pytest
import runs

from configs import maskplus
from jaxseg import methods


@pytest.mark.slow
@pytest.mark.parametrize("stopped_at", [2, 4])  # before and after the weight changes
def test_the_weight_of_masks_changes_at_its_step_after_a_resume_too(tmp_path, stopped_at):
    config = maskplus.get_config("shapes,runlocal,parts=bias+quasi")
    config.train.steps = config.train.eval_every = 6
    config.train.log_every = config.train.save_every = 1

    def stop(line):
        if line.startswith(f"step {stopped_at}/"):
            os.kill(os.getpid(), signal.SIGTERM)

    result, _ = runs.train(tmp_path, config, hook=stop, build=methods.build)
    assert not result.finished and result.step == stopped_at
    result, _ = runs.train(tmp_path, config, build=methods.build)
    assert result.finished
    weights = [x["mask_weight"] for x in runs.log(tmp_path) if x["split"] == "train"]
    assert weights == [1.5, 1.5, 1.5, 1.0, 1.0, 1.0]
