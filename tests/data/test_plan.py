from __future__ import annotations

import collections
import itertools
import pickle

import numpy as np
import pytest

from jaxseg.data import plan

BUCKETS = np.array([0] * 13 + [1] * 6 + [2])


def _flat(planned: plan.Planned) -> list[tuple[int, int, int]]:
    pairs = zip(planned.images.tolist(), planned.repeats.tolist(), strict=True)
    return [(planned.bucket, *pair) for pair in pairs]


def test_is_pure():
    first = [_flat(p) for p in plan.batch_plan(3, 2, BUCKETS, 4)]
    np.random.default_rng(0).random(10)
    assert first == [_flat(p) for p in plan.batch_plan(3, 2, BUCKETS, 4)]
    assert first != [_flat(p) for p in plan.batch_plan(3, 1, BUCKETS, 4)]
    assert first != [_flat(p) for p in plan.batch_plan(4, 2, BUCKETS, 4)]


@pytest.mark.parametrize("batch", [1, 3, 4, 8, 40])
def test_one_bucket_a_batch_and_every_image_each_epoch(batch):
    for epoch in range(3):
        batches = plan.batch_plan(0, epoch, BUCKETS, batch)
        first = collections.Counter()
        for planned in batches:
            assert len(planned.images) == batch
            assert (BUCKETS[planned.images] == planned.bucket).all()
            first.update(planned.images[planned.repeats == 0].tolist())
        assert first == dict.fromkeys(range(len(BUCKETS)), 1)
        assert len(batches) == plan.TrainPlan(0, BUCKETS, batch).length(epoch)


def test_a_filled_batch_has_no_twins():
    for planned in plan.batch_plan(0, 0, BUCKETS, 16):
        pairs = _flat(planned)
        assert len(set(pairs)) == len(pairs)


def test_hosts_share_a_batch():
    for planned in plan.batch_plan(0, 5, BUCKETS, 4):
        for hosts in (1, 2, 4):
            parts = [_flat(planned.slice(i, hosts)) for i in range(hosts)]
            assert list(itertools.chain(*parts)) == _flat(planned)


def test_steps_run_through_the_epochs():
    steps = plan.TrainPlan(7, BUCKETS, 4)
    flat = [
        (epoch, _flat(planned))
        for epoch in range(3)
        for planned in plan.batch_plan(7, epoch, BUCKETS, 4)
    ]
    found = [steps.batch_at(step) for step in range(len(flat))]
    assert [(epoch, _flat(planned)) for epoch, planned in found] == flat
    epoch, planned = pickle.loads(pickle.dumps(steps)).batch_at(9)
    assert (epoch, _flat(planned)) == flat[9]


def test_evaluation_meets_every_image_once():
    batches = plan.eval_plan(BUCKETS, 4)
    seen = np.concatenate([planned.images for planned in batches])
    assert sorted(seen[seen >= 0].tolist()) == list(range(len(BUCKETS)))
    for planned in batches:
        assert (BUCKETS[planned.images[planned.images >= 0]] == planned.bucket).all()
        assert (np.diff((planned.images < 0).astype(int)) >= 0).all()  # only the tail is filled
    assert plan.eval_plan([], 4) == []


def test_randomness_of_an_image():
    draws = {
        tuple(plan.image_rng(*key).random(2))
        for key in [(0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6), (0, 0, 5, 1), (0, 0, -5)]
    }
    assert len(draws) == 6
    assert plan.image_rng(0, 0, 5).random() == plan.image_rng(0, 0, 5, 0).random()
