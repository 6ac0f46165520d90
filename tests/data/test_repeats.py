"""Repeat factors against hand-made values and Detectron2's formula, and the plan that they make."""

from __future__ import annotations

import collections
import math
import pickle

import numpy as np
import pytest

from jaxseg.data import pipeline, plan, repeats, sources
from tests.data import coco_folder

BUCKETS = np.array([0] * 30 + [1] * 9 + [2])
FACTORS = np.array([1.0, 2.0, 1.3, 1.0, 3.7] * 8)
IDS = np.arange(100, 140) * 7


def test_values_by_hand():
    """Of 4 images all have class 0, one has class 2, one 5 (twice): f = 1, 1/4, 1/4."""
    classes = [np.array(c, np.int32) for c in ([0], [0, 2, 0], [5, 0, 5], [0])]
    np.testing.assert_allclose(repeats.factors(classes, 1.0), [1, 2, 2, 1])
    np.testing.assert_allclose(repeats.factors(classes, 0.5), [1, math.sqrt(2), math.sqrt(2), 1])
    np.testing.assert_allclose(repeats.factors(classes, 0.25), 1)
    np.testing.assert_allclose(repeats.factors(classes, 0.0), 1)


def test_images_without_objects_count_and_are_not_repeated():
    empty = np.array([], np.int32)
    classes = [np.array([1]), empty, empty, np.array([1, 0]), np.array([1])]
    np.testing.assert_allclose(repeats.factors(classes, 0.6), [1, 1, 1, math.sqrt(3), 1])
    np.testing.assert_array_equal(repeats.factors([empty, empty], 1.0), [1, 1])


def detectron2(classes, threshold):
    """`RepeatFactorTrainingSampler.repeat_factors_from_category_frequency`, as its documentation has it."""
    frequency = collections.Counter(c for image in classes for c in {*image.tolist()})
    of_class = {
        c: max(1.0, math.sqrt(threshold / (n / len(classes)))) for c, n in frequency.items()
    }
    return [max((of_class[c] for c in image.tolist()), default=1.0) for image in classes]


def test_as_detectron2_on_long_tails():
    rng = np.random.default_rng(0)
    classes = [rng.zipf(1.5, rng.integers(0, 12)) % 1203 for _ in range(500)]
    found = repeats.factors(classes, 0.02)
    np.testing.assert_allclose(found, detectron2(classes, 0.02))
    assert (found > 1).sum() > 50


def test_the_mean_over_epochs_is_the_factor():
    rounding = repeats.Rounding(3, FACTORS, IDS)
    copies = np.array([rounding.copies(epoch) for epoch in range(2000)])
    assert set(np.unique(copies - np.floor(FACTORS))) == {0, 1}
    error = np.abs(copies.mean(0) - FACTORS)
    assert (error < 5 * 0.5 / math.sqrt(len(copies))).all()
    assert (error[FACTORS == 2.0] == 0).all()
    # Images, epochs and seeds are drawn apart.
    drawn = copies[:, np.isin(FACTORS, (1.3, 3.7))].astype(float)
    correlation = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlation).max() < 5 / math.sqrt(len(copies))
    later = np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]
    assert abs(later) < 5 / math.sqrt(len(copies))
    assert (repeats.Rounding(4, FACTORS, IDS).copies(0) != copies[0]).any()


def test_an_images_copies_depend_on_no_other_image():
    whole = repeats.Rounding(0, FACTORS, IDS)
    part = repeats.Rounding(0, FACTORS[::3], IDS[::3])
    for epoch in range(20):
        np.testing.assert_array_equal(whole.copies(epoch)[::3], part.copies(epoch))


def flat(planned):
    return planned.bucket, planned.images.tolist(), planned.repeats.tolist()


@pytest.mark.parametrize("batch", [1, 3, 4, 16])
def test_every_image_comes_as_often_as_it_is_to(batch):
    steps = plan.TrainPlan(5, BUCKETS, batch, FACTORS, IDS)
    rounding = repeats.Rounding(5, FACTORS, IDS)
    step = 0
    for epoch in range(4):
        copies = rounding.copies(epoch)
        met = collections.Counter()
        for position in range(steps.length(epoch)):
            assert steps.place(step) == (epoch, position)
            found, planned = steps.batch_at(step)
            assert found == epoch and (BUCKETS[planned.images] == planned.bucket).all()
            pairs = list(zip(planned.images.tolist(), planned.repeats.tolist(), strict=True))
            met.update(pairs)
            step += 1
        assert set(met.values()) == {1}  # no twins in an epoch
        numbers = collections.defaultdict(set)
        for image, number in met:
            numbers[image].add(number)
        for image, found in numbers.items():
            assert found >= set(range(copies[image]))
        # What is more fills last batches up.
        assert sum(copies) <= sum(met.values()) < sum(copies) + 3 * batch


def test_a_plan_without_repeats_is_what_it_was():
    """The plan of earlier versions, in its own words."""
    rng = np.random.Generator(np.random.Philox(seed=[7, 2, 0x5348]))
    order = rng.permutation(len(BUCKETS))
    expected = []
    for bucket in np.unique(BUCKETS):
        members = order[BUCKETS[order] == bucket]
        slots = np.arange(-(-len(members) // 4) * 4)
        images, again = members[slots % len(members)], slots // len(members)
        rows = zip(images.reshape(-1, 4), again.reshape(-1, 4), strict=True)
        expected += [(int(bucket), i.tolist(), r.tolist()) for i, r in rows]
    expected = [expected[i] for i in rng.permutation(len(expected))]
    assert [flat(p) for p in plan.batch_plan(7, 2, BUCKETS, 4)] == expected
    ones = plan.TrainPlan(7, BUCKETS, 4, np.ones(len(BUCKETS)), IDS)
    found = [ones.batch_at(step) for step in range(2 * len(expected), 3 * len(expected))]
    assert [(epoch, flat(p)) for epoch, p in found] == [(2, p) for p in expected]


def test_any_step_is_found_at_once_and_in_any_order():
    steps = plan.TrainPlan(1, BUCKETS, 4, FACTORS, IDS)
    assert len({steps.length(epoch) for epoch in range(30)}) > 1
    whole = [steps.batch_at(step) for step in range(100)]
    for step in (99, 0, 57, 58, 12):
        for other in (steps, pickle.loads(pickle.dumps(steps))):
            epoch, planned = other.batch_at(step)
            assert (epoch, flat(planned)) == (whole[step][0], flat(whole[step][1]))
    assert steps.place(10**4)[0] > 200


def of_source(source):
    return repeats.of_source(source, range(len(source)), 1.0)


def make_folder(tmp_path, **changes):
    data = coco_folder.content(5)
    data["annotations"][1]["category_id"] = 90  # class 1: one of five images
    data["annotations"].append(coco_folder.annotation(9, 4, iscrowd=1, category=90))
    config = coco_folder.write(tmp_path, data)
    config.data.keep_empty = True
    config.data.update(changes)
    return config


def test_of_a_source_whatever_it_is(tmp_path):
    """Images 2 and 4 (a crowd) have the rarer class, images 1, 3 and 4 the other, 5 none."""
    source = sources.open_source(make_folder(tmp_path).data, "train")
    np.testing.assert_allclose(of_source(source), np.sqrt([5 / 3, 5 / 2, 5 / 3, 5 / 2, 1]))
    drawn = sources.open_source(coco_folder.shapes().data, "train")
    assert not hasattr(drawn, "image_classes")  # it knows nothing but its instances
    for known in (source, drawn):
        classes = [
            np.array([item.class_index for item in known.instances(i)]) for i in range(len(known))
        ]
        np.testing.assert_allclose(of_source(known), detectron2(classes, 1.0))


def batches(config, first=0, last=8, **host):
    source = sources.open_source(config.data, "train")
    with pipeline.train_batches(config, source, first_step=first, last_step=last, **host) as found:
        return list(found)


def test_batches_repeat_resume_and_do_not_depend_on_the_hosts(tmp_path):
    config = make_folder(tmp_path, repeat_threshold=1.0)  # epochs of 6 to 9 images
    whole = batches(config)
    ids = np.concatenate([b.image_ids for b in whole])
    seen = np.array([(ids == i).mean() for i in range(1, 6)])
    assert seen[1] + seen[3] > 2 * seen[4]
    for resumed, before in zip(batches(config, first=5), whole[5:], strict=True):
        np.testing.assert_array_equal(resumed.image_ids, before.image_ids)
        np.testing.assert_array_equal(resumed.batch.images, before.batch.images)
        np.testing.assert_array_equal(resumed.batch.targets.masks, before.batch.targets.masks)
    hosts = [batches(config, process_index=i, process_count=2) for i in range(2)]
    for one, two, both in zip(*hosts, whole, strict=True):
        joined = np.concatenate([one.batch.images, two.batch.images])
        np.testing.assert_array_equal(joined, both.batch.images)


def test_copies_are_augmented_apart_and_the_first_as_ever(tmp_path):
    """With a threshold of 0 image 2 comes once an epoch; with 1 its first copy is the same picture there."""

    def pictures(threshold):
        config = make_folder(tmp_path, repeat_threshold=threshold)
        config.data.resize.short = tuple(range(20, 41))
        config.train.batch_size = 1
        source = sources.open_source(config.data, "train")
        found = batches(config, last=40)
        factors = of_source(source) if threshold else None
        steps = plan.TrainPlan(config.seed, [0] * 5, 1, factors, [1, 2, 3, 4, 5])
        places = [steps.batch_at(step) for step in range(40)]
        return {
            (epoch, int(planned.repeats[0])): host.batch.images[0]
            for (epoch, planned), host in zip(places, found, strict=True)
            if planned.images[0] == 1
        }

    once, more = pictures(0.0), pictures(1.0)
    epochs = sorted({epoch for epoch, number in more if number})
    assert len(epochs) > 2 and all(number == 0 for _, number in once)
    for epoch in epochs:
        np.testing.assert_array_equal(once[epoch, 0], more[epoch, 0])
    assert any((more[epoch, 0] != more[epoch, 1]).any() for epoch in epochs)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.001"])
def test_a_threshold_without_sense_is_named(tmp_path, value):
    config = make_folder(tmp_path)
    with config.ignore_type():
        config.data.repeat_threshold = value
    with pytest.raises(ValueError, match=r"data\.repeat_threshold=.*0\.001 for LVIS"):
        batches(config, last=1)
