"""A run's config and classes beside those that it is evaluated on."""

import pytest

from configs import common
from jaxseg.data.source import Category
from jaxseg.evaluation import runs


def test_data_and_test_settings_come_from_the_given_config():
    run, given = common.base(), common.base()
    run.model.num_classes = 3
    given.data.root, given.eval.max_detections, given.model.test.score = "there", 400, 0.3
    config = runs.with_settings(run, given)
    assert (config.data.root, config.eval.max_detections) == ("there", 400)
    assert (config.model.test.score, config.model.num_classes) == (0.3, 3)
    assert run.data.root == "" and runs.with_settings(run, None).to_dict() == run.to_dict()


def test_another_model_is_an_error():
    given = common.base()
    given.model.backbone.depth = 101
    with pytest.raises(ValueError, match=r"model.backbone.depth=101 is not the run's 50"):
        runs.with_settings(common.base(), given)


def test_another_method_is_an_error():
    given = common.base()
    given.method = "mr_rcnn"
    with pytest.raises(ValueError, match=r"config's method='mr_rcnn' is not the run's 'mask_rcnn'"):
        runs.with_settings(common.base(), given)


def test_a_run_of_an_earlier_version_lacks_keys_that_came_later():
    run = common.base()
    with run.unlocked():
        del run.model.refine, run.model.criterion.weights.refine_box
    given = common.base()
    given.model.test.score = 0.3
    assert runs.with_settings(run, given).model.test.score == 0.3


def test_classes_are_found_by_name():
    trained = [Category(1, "cat"), Category(2, "dog")]
    assert runs.match_categories(trained, [Category(7, "dog"), Category(9, "cat")]) == [
        Category(9, "cat"),
        Category(7, "dog"),
    ]
    twice = [Category(0, "facade"), Category(3, "facade")]
    assert runs.match_categories(twice, twice) == twice
    with pytest.raises(ValueError, match="missing here: dog; unknown to the run: cow"):
        runs.match_categories(trained, [Category(1, "cat"), Category(2, "cow")])


def test_labels_that_fill_gaps_between_ids_need_no_category():
    trained = [Category(1, "cat"), Category(2, "N/A 2"), Category(3, "dog")]
    found = [Category(1, "cat"), Category(3, "dog")]
    assert runs.match_categories(trained, found) == [found[0], None, found[1]]
    with pytest.raises(ValueError, match="missing here: cat, dog; unknown to the run: cow"):
        runs.match_categories(trained, [Category(1, "cow")])
