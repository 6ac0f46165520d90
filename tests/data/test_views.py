"""Test-time augmentation on the host: which views there are, and that they show the same image."""

import pathlib

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import common
from jaxseg.data import geometry, pipeline, sources, views
from jaxseg.structures import Batch, Views
from tests.data import coco_folder


def config_with(scales=(), flip=False):
    config = common.base()
    config.eval.tta.scales, config.eval.tta.flip = scales, flip
    return config


def test_without_augmentation_an_image_is_shown_once():
    config = common.base()
    assert config.eval.tta.to_dict() == {"scales": (), "flip": False}
    (view,) = views.of(config)
    assert view.buckets == ((800, 1344), (1344, 800)) and not view.flip
    assert view.place((480, 640), 0) == geometry.fixed(
        config.data.eval_resize, (480, 640), (800, 1344)
    )
    del config.eval.tta  # a run of an earlier version
    assert views.of(config) == (view,)


def test_buckets_and_longest_sides_grow_with_the_size():
    every = views.of(config_with((600, 800, 1000), True))
    assert [(v.resize.short, v.flip) for v in every] == [
        (short, flip) for short in (600, 800, 1000) for flip in (False, True)
    ]
    assert every[0].buckets == ((608, 1024), (1024, 608))
    assert every[2].buckets == ((800, 1344), (1344, 800))
    assert every[5].buckets == ((1024, 1696), (1696, 1024))
    places = [view.place((480, 640), 0) for view in every]
    assert [p.size for p in places[::2]] == [(600, 800), (800, 1067), (1000, 1333)]
    assert [p.flip for p in places] == [False, True] * 3
    # The longer side is what bounds this one, in every view alike.
    assert [v.place((300, 900), 0).size for v in every[::2]] == [
        (333, 1000),
        (444, 1333),
        (555, 1666),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_no_view_is_shrunk_to_fit_where_the_ordinary_one_is_not(seed):
    rng = np.random.default_rng(seed)
    config = config_with((333, 800, 1111.5))
    for size in rng.integers(100, 2000, (100, 2)).tolist():
        bucket = views.bucket_of(config, tuple(size))
        _, plain, _ = every = [v.place(tuple(size), bucket).size for v in views.of(config)]
        if plain != geometry.largest(config.data.eval_resize, tuple(size)):
            continue
        for view, shown in zip(views.of(config), every, strict=True):
            assert shown == geometry.largest(view.resize, tuple(size))


@pytest.mark.parametrize(
    ("scales", "flip", "message"),
    [
        (600, False, r"config\.eval\.tta\.scales=600: a tuple"),
        ("600", False, r"config\.eval\.tta\.scales='600'"),
        ((600, 0), False, "each at least 1"),
        ((600, float("nan")), False, "each at least 1"),
        ((True,), False, "each at least 1"),
        ((600, 800, 600), False, "twice"),
        ((), 1, r"config\.eval\.tta\.flip=1: allowed are True and False"),
    ],
)
def test_a_mistake_is_named(scales, flip, message):
    config = common.base()
    config.eval.tta = ConfigDict({"scales": scales, "flip": flip})
    with pytest.raises(ValueError, match=message):
        views.check(config)


def test_flags():
    assert views.scales_of(None) is None
    assert views.scales_of(["600, 800", "1000", ""]) == (600, 800, 1000)
    with pytest.raises(ValueError, match="--tta_scale=big"):
        views.scales_of(["600,big"])
    config = config_with((600,), True)
    assert views.with_asked(config).eval.tta == config.eval.tta
    assert views.with_asked(config, (), False).eval.tta.to_dict() == {"scales": (), "flip": False}
    assert config.eval.tta.scales == (600,)
    with pytest.raises(ValueError, match="twice"):
        views.with_asked(config, (600, 600))
    del config.eval.tta
    assert views.with_asked(config, None, True).eval.tta.to_dict() == {"scales": (), "flip": True}


@pytest.fixture
def folder(tmp_path):
    config = coco_folder.write(tmp_path, coco_folder.content(4))
    return config, sources.open_source(config.data, "val")


def batches_of(config, source):
    with pipeline.eval_batches(config, source, batch_size=3) as batches:
        return list(batches)


def test_views_show_the_same_images(folder, monkeypatch):
    config, source = folder
    plain = batches_of(config, source)
    assert all(isinstance(host.batch, Batch) for host in plain)
    short = config.data.eval_resize.short
    config.eval.tta.scales, config.eval.tta.flip = (short, 2 * short), True
    reads, read = [], type(source).image
    monkeypatch.setattr(type(source), "image", lambda s, i: reads.append(i) or read(s, i))
    several = batches_of(config, source)
    assert sorted(reads) == list(range(len(source)))  # each decoded once
    for host, alone in zip(several, plain, strict=True):
        assert isinstance(host.batch, Views) and host.batch.flips == (False, True, False, True)
        first, flipped, large, large_flipped = host.batch.batches
        np.testing.assert_array_equal(first.images, alone.batch.images)
        np.testing.assert_array_equal(host.batch.image_size, alone.batch.image_size)
        np.testing.assert_array_equal(host.batch.valid, alone.batch.valid)
        np.testing.assert_array_equal(host.image_ids, alone.image_ids)
        np.testing.assert_array_equal(host.original_size, alone.original_size)
        assert all(view.targets is None for view in host.batch.batches)
        assert large.images.shape[1] == 2 * first.images.shape[1]
        for slot in np.flatnonzero(host.batch.valid):
            info = source.infos[[i.id for i in source.infos].index(host.image_ids[slot])]
            for one, mirror in ((first, flipped), (large, large_flipped)):
                np.testing.assert_array_equal(one.image_size, mirror.image_size)
                height, width = map(int, one.image_size[slot])
                shown = one.images[slot, :height, :width]
                np.testing.assert_array_equal(mirror.images[slot, :height, :width], shown[:, ::-1])
                assert not mirror.images[slot, height:].any()
                assert not mirror.images[slot, :, width:].any()
            expected = geometry.shortest_edge(
                (info.height, info.width), 2 * short, 2 * config.data.eval_resize.max
            )
            assert tuple(large.image_size[slot]) == expected


def test_one_view_of_another_size_is_an_ordinary_batch(folder):
    config, source = folder
    plain = batches_of(config, source)
    short = config.data.eval_resize.short
    config.eval.tta.scales = (short,)
    for host, alone in zip(batches_of(config, source), plain, strict=True):
        assert isinstance(host.batch, Batch)
        np.testing.assert_array_equal(host.batch.images, alone.batch.images)
    config.eval.tta.scales = (short / 2,)
    half = batches_of(config, source)[0].batch
    assert isinstance(half, Batch) and half.image_size.min() == short / 2


def test_a_mistake_is_told_before_there_are_batches(folder):
    config, source = folder
    config.eval.tta.scales = (40, 40)
    with pytest.raises(ValueError, match="twice"):
        pipeline.eval_batches(config, source, batch_size=1)


def test_an_unreadable_image_is_absent_from_every_view(folder):
    config, source = folder
    config.eval.tta.flip = True
    path = pathlib.Path(config.data.root) / "images" / "1.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    host = batches_of(config, source)[0]
    assert host.batch.valid.tolist() == [False, True, True]
    assert [view.valid.tolist() for view in host.batch.batches] == [[False, True, True]] * 2
    assert [file for _, file in host.problems] == [str(path)]  # told once, not for every view
