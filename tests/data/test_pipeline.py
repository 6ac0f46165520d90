from __future__ import annotations

import copy

import numpy as np
import pytest

from jaxseg import structures
from jaxseg.data import pipeline, sources
from tests.data import coco_folder


def _arrays(host: pipeline.HostBatch) -> list[np.ndarray]:
    batch, targets = host.batch, host.batch.targets
    fields = [batch.images, batch.image_size, batch.valid, host.image_ids, host.original_size]
    if targets is not None:
        fields += [targets.boxes, targets.classes, targets.valid, targets.masks]
        fields += [targets.crowd_boxes, targets.crowd_valid]
    return fields


def _train(config, first=0, last=5, **host):
    source = sources.open_source(config.data, "train")
    with pipeline.train_batches(
        config, source, first_step=first, last_step=last, **host
    ) as batches:
        assert len(batches) == last - first
        return list(batches)


def _assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        for x, y in zip(_arrays(a), _arrays(b), strict=True):
            np.testing.assert_array_equal(x, y)


def test_shapes_and_types():
    (host,) = _train(coco_folder.shapes(), last=1)
    batch = host.batch
    assert isinstance(batch, structures.Batch) and isinstance(batch.targets, structures.Targets)
    expected = [
        ((4, 64, 64, 3), np.uint8),
        ((4, 2), np.float32),
        ((4,), bool),
        ((4,), np.int64),
        ((4, 2), np.int32),
        ((4, 5, 4), np.float32),
        ((4, 5), np.int32),
        ((4, 5), bool),
        ((4, 5, 32, 4), np.uint8),
        ((4, 10, 4), np.float32),
        ((4, 10), bool),
    ]
    assert [(a.shape, a.dtype) for a in _arrays(host)] == expected
    for slot, (height, width) in enumerate(batch.image_size.astype(int)):
        assert min(height, width) == 40
        assert not batch.images[slot, height:].any() and not batch.images[slot, :, width:].any()
        boxes = batch.targets.boxes[slot][batch.targets.valid[slot]]
        assert (boxes >= 0).all() and (boxes[:, 2:] <= (width, height)).all()


def test_eroded_masks_are_shipped_where_they_are_asked_for():
    config = coco_folder.shapes()
    (plain,) = _train(config, last=1)
    assert plain.batch.targets.eroded is None
    config.data.eroded_masks = 0.05
    (host,) = _train(config, last=1)
    _assert_same([plain], [host])
    masks, eroded = host.batch.targets.masks, host.batch.targets.eroded
    assert eroded.shape == masks.shape and eroded.dtype == masks.dtype
    assert eroded.any() and not (eroded & ~masks).any() and (eroded != masks).any()


def test_a_resumed_run_sees_the_same_batches():
    config = coco_folder.shapes()
    config.data.keep_empty = True
    whole = _train(config, 0, 7)  # more than two epochs
    _assert_same(whole[4:], _train(config, 4, 7))
    seen = np.concatenate([host.image_ids for host in whole[:3]])
    assert sorted(seen) == list(range(1, 13))
    config.seed = 1
    assert _train(config, 0, 1)[0].image_ids.tolist() != whole[0].image_ids.tolist()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_same_batches(hosts):
    config = coco_folder.shapes()
    whole = _train(config, 2, 5)
    parts = [_train(config, 2, 5, process_index=i, process_count=hosts) for i in range(hosts)]
    for host, *shares in zip(whole, *parts, strict=True):
        joined = [np.concatenate(a) for a in zip(*map(_arrays, shares), strict=True)]
        for x, y in zip(_arrays(host), joined, strict=True):
            np.testing.assert_array_equal(x, y)


def test_buckets(tmp_path):
    data = coco_folder.content(6)
    config = coco_folder.write(tmp_path, data)
    config.data.keep_empty = True
    config.data.buckets = ((96, 32), (64, 96))
    host = _train(config, last=1)[0]
    assert host.batch.images.shape == (4, 64, 96, 3)
    np.testing.assert_array_equal(host.batch.image_size, [[40, 60]] * 4)


def test_images_without_objects(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content(4))
    assert {int(i) for host in _train(config) for i in host.image_ids} == {1, 2, 3}
    config.data.keep_empty = True
    hosts = _train(config)
    assert {int(i) for host in hosts for i in host.image_ids} == {1, 2, 3, 4}
    for host in hosts:
        np.testing.assert_array_equal(host.batch.targets.valid.any(1), host.image_ids != 4)
        assert host.batch.valid.all()


def test_flips_move_image_and_targets(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content(2))
    for flip, left in ((0.0, 10), (1.0, 30)):
        config.data.flip = flip
        host = _train(config, last=1)[0]
        np.testing.assert_allclose(host.batch.targets.boxes[0, 0], [left, 10, left + 20, 30])
        image = sources.open_source(config.data, "train").image(0)
        image = image[:, ::-1] if flip else image
        np.testing.assert_array_equal(host.batch.images[0, :40, :60], image)
        assert (host.batch.targets.masks[0, 0] == 255).all()


def test_crowds_are_shipped_apart(tmp_path):
    data = coco_folder.content(2)
    data["annotations"].append(coco_folder.annotation(9, iscrowd=1, bbox=[0, 0, 60, 20]))
    config = coco_folder.write(tmp_path, data)
    config.data.flip = 0.0
    targets = _train(config, last=1)[0].batch.targets
    assert targets.valid[0].tolist() == [True] + [False] * 4
    assert targets.crowd_valid[0].tolist() == [True] + [False] * 9
    np.testing.assert_array_equal(targets.crowd_boxes[0, 0], [0, 0, 60, 20])


def test_more_objects_than_places(tmp_path, caplog):
    data = coco_folder.content(2)
    data["annotations"] = [
        coco_folder.annotation(i, bbox=[10, 10, 10 + i, 20], area=20 * (10 + i))
        for i in range(1, 9)
    ]
    config = coco_folder.write(tmp_path, data)
    config.data.flip = 0.0
    hosts = _train(config)
    widths = hosts[0].batch.targets.boxes[0, :, 2] - 10
    np.testing.assert_allclose(widths, [14, 15, 16, 17, 18])
    (warning,) = [record.message for record in caplog.records]
    assert "1 images have more than data.max_instances=5" in warning and "the 3 smallest" in warning


def _break(folder):
    (folder / "images" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def test_an_unreadable_image_does_not_end_training(tmp_path, caplog):
    config = coco_folder.write(tmp_path, coco_folder.content(4))
    source = sources.open_source(config.data, "train")
    _break(tmp_path)
    with pipeline.train_batches(config, source, first_step=0, last_step=6) as batches:
        for host in batches:
            np.testing.assert_array_equal(host.batch.valid, host.image_ids != 1)
            assert not host.batch.targets.valid[host.image_ids == 1].any()
            assert len(host.problems) == (host.image_ids == 1).sum()
        assert batches.problems.counts["image file is truncated"] >= 6
    told = [record.message for record in caplog.records if "truncated" in record.message]
    assert len(told) == 2 and "1.png" in told[0]  # at the first, and in all when closed


def test_an_unreadable_image_does_not_end_evaluation(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content(4))
    source = sources.open_source(config.data, "val")
    _break(tmp_path)
    with pipeline.eval_batches(config, source, batch_size=4) as batches:
        (host,) = batches
    assert host.image_ids.tolist() == [1, 2, 3, 4]
    assert host.batch.valid.tolist() == [False, True, True, True]
    assert host.problems[0][1].endswith("1.png")


def test_a_missing_image_is_not_trained_on_and_counts_in_evaluation(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content(4))
    (tmp_path / "images" / "2.png").unlink()
    source = sources.open_source(config.data, "val")
    assert pipeline.training_images(config.data, source) == [0, 2]
    with pipeline.eval_batches(config, source, batch_size=4) as batches:
        (host,) = batches
    assert host.image_ids.tolist() == [1, 2, 3, 4]
    assert host.batch.valid.tolist() == [True, False, True, True]
    assert [reason for reason, _ in host.problems] == ["image file is missing"]


def test_evaluation_meets_every_image_once():
    config = coco_folder.shapes()
    source = sources.open_source(config.data, "val")
    with pipeline.eval_batches(config, source, batch_size=4) as batches:
        hosts = list(batches)
    assert [host.image_ids.tolist() for host in hosts] == [[1, 2, 3, 4], [5, -1, -1, -1]]
    assert hosts[1].batch.valid.tolist() == [True, False, False, False]
    info = source.infos[0]
    assert hosts[0].original_size[0].tolist() == [info.height, info.width]
    assert hosts[0].batch.targets is None
    config.eval.max_images = 3
    with pipeline.eval_batches(config, source, batch_size=4) as batches:
        assert [host.image_ids.tolist() for host in batches] == [[1, 2, 3, -1]]


def test_closed():
    config = coco_folder.shapes()
    source = sources.open_source(config.data, "train")
    batches = pipeline.train_batches(config, source, first_step=0, last_step=3)
    next(batches)
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


def test_nothing_to_train_on(tmp_path):
    data = coco_folder.content(3)
    data["annotations"] = [coco_folder.annotation(1, bbox=[0, 0, 0, 0])]
    config = coco_folder.write(tmp_path, data)
    with pytest.raises(
        ValueError,
        match=r"split train of .*instances.json.* is empty: of 3 images .*no area.*keep_empty",
    ):
        _train(config)
    del data["annotations"]
    with pytest.raises(ValueError, match="no annotations"):
        _train(coco_folder.write(tmp_path, data))


def test_batches_that_hosts_cannot_share():
    config = coco_folder.shapes()
    with pytest.raises(ValueError, match=r"train.batch_size=4: .* 3 hosts"):
        _train(config, process_index=0, process_count=3)
    source = sources.open_source(config.data, "val")
    with pytest.raises(ValueError, match=r"eval.batch_size=0"):
        pipeline.eval_batches(config, source, batch_size=0)
    config = copy.deepcopy(config)
    config.data.flip = 2.0
    with pytest.raises(ValueError, match="flip"):
        pipeline.eval_batches(config, source, batch_size=1)


def test_large_scale_jitter():
    config = coco_folder.shapes()
    config.data.resize.mode = "lsj"
    hosts = _train(config, last=6)
    sizes = np.concatenate([host.batch.image_size for host in hosts])
    assert sizes.min() < 30 and sizes.max() == 64
    for host in hosts:
        targets = host.batch.targets
        for slot, size in enumerate(host.batch.image_size):
            boxes = targets.boxes[slot][targets.valid[slot]]
            assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= size[::-1]).all()
        assert targets.masks[targets.valid].any((1, 2)).all()
