"""Training learns: eight images by heart, and real data sets run from end to end."""

import pytest

from configs import common, demo, mask_rcnn
from jaxseg.training import loop


@pytest.mark.slow
def test_eight_images_are_learned_by_heart(tmp_path):
    config = demo.get_config()
    config.data.shapes.train = 8
    config.data.shapes.size = (128, 128)
    config.data.shapes.objects = (1, 3)
    config.data.resize.short, config.data.flip = (128,), 0.0
    config.data.mask_crop_size = 112
    config.data.workers = 0
    config.model.criterion.roi.samples = 32
    config.optim.lr, config.optim.base_batch_size = 0.03, 8
    config.eval.split = "train"
    config.train.batch_size, config.train.steps = 8, 900
    config.train.eval_every = config.train.save_every = 900
    result = loop.train(config, tmp_path / "run", base=common.base())
    assert result.report.mask.summary["AP"] >= 0.90


@pytest.mark.slow
@pytest.mark.parametrize("name", ["facades", "coco_cc", "nuclei"])
def test_real_data_sets_train_and_evaluate(tmp_path, test_data, name):
    config = mask_rcnn.get_config(f"own,runlocal,root={test_data / name}")
    if name == "coco_cc":  # it has one split
        config.data.val = config.data.train
    result = loop.train(config, tmp_path / "run", base=common.base())
    assert result.finished and len(result.report.mask.per_class) == {
        "facades": 10,
        "coco_cc": 80,
    }.get(name, 1)
    assert (tmp_path / "run" / "predictions.png").stat().st_size > 10_000
