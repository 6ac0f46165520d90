"""The images that the benchmarks of the input read."""

import pytest
from absl import app

from benchmarks import input_source
from configs import common


@pytest.mark.parametrize("source", ["coco_json", "tfds"])
def test_what_cannot_be_opened_is_told_without_a_traceback(tmp_path, source):
    config = common.base()
    config.data.source, config.data.root = source, str(tmp_path)
    config.data.tfds.name = "own"
    config.data.train.images = config.data.train.annotations = str(tmp_path / "nothing.json")
    with pytest.raises(app.UsageError, match=r"nothing\.json does not exist|no prepared data set"):
        input_source.opened(config)
