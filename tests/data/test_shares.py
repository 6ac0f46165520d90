"""The batches of an evaluation are divided over processes, and what was found comes together again."""

import itertools

import pytest

from jaxseg.data import pipeline, plan, sources
from tests.data import coco_folder


@pytest.mark.parametrize("processes", range(1, 6))
def test_every_batch_is_in_one_share_and_comes_back_in_order(processes):
    for count in range(21):
        batches = list(range(count))
        shares = [plan.share(batches, i, processes) for i in range(processes)]
        assert sorted(itertools.chain(*shares)) == batches
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert plan.joined(shares) == batches


@pytest.mark.parametrize("shares", [[[1], [2, 3]], [[1, 2, 3], [4]], [[], [1]], [[1], [], [2]]])
def test_a_share_with_too_much_or_too_little_is_told(shares):
    with pytest.raises(ValueError, match="batches give"):
        plan.joined(shares)


def test_processes_have_the_batches_of_one():
    config = coco_folder.shapes()
    config.data.workers = 0
    source = sources.open_source(config.data, "val")

    def batches(**share):
        with pipeline.eval_batches(config, source, batch_size=2, **share) as found:
            return [batch.image_ids.tolist() for batch in found]

    whole = batches()
    assert whole == [[1, 2], [3, 4], [5, -1]]
    shares = [batches(process_index=i, process_count=4) for i in range(4)]
    assert plan.joined(shares) == whole and shares[3] == []
