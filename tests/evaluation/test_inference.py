"""The whole way from a source over batches and detections to COCO's numbers, with a detector that
knows the answers."""

import json

import cv2
import numpy as np
import pytest

from configs import common
from jaxseg.data import pipeline, sources
from jaxseg.evaluation import coco, inference, pictures, results
from jaxseg.training import validation


def shapes_config(**values):
    config = common.base()
    config.data.source = "shapes"
    config.data.shapes.update(train=4, val=7, size=(96, 140), objects=(1, 6))
    config.data.update(buckets=((128, 192), (192, 128)), workers=0)
    config.data.eval_resize.update(short=112, max=192)
    config.eval.batch_size, config.eval.workers = 3, 0
    config.update_from_flattened_dict(values)
    return config


def coco_config(folder, **values):
    config = shapes_config()
    config.data.source = "coco_json"
    config.data.root = str(folder)
    config.data.val = dict(images="images", annotations="val.json")
    config.update_from_flattened_dict(values)
    return config


@pytest.fixture
def folder(tmp_path):
    """A small COCO-format data set with two classes, and one image that is no image."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(1, 6):
        height, width = 90 + 10 * i, 150 - 5 * i
        cv2.imwrite(
            str(tmp_path / f"images/{i}.png"),
            rng.integers(0, 255, (height, width, 3), dtype=np.uint8),
        )
        images.append(dict(id=10 * i, file_name=f"{i}.png", height=height, width=width))
        for k in range(3):
            x, y, w, h = 8.0 + 30 * k, 10.0 + 9 * k, 24.0, 30.0
            polygon = [x, y, x + w, y, x + w, y + h / 2, x + w / 2, y + h, x, y + h]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=10 * i, category_id=(4, 2)[k % 2], iscrowd=0)
                | dict(bbox=[x, y, w, h], segmentation=[polygon], area=w * h * 0.875)
            )
    categories = [dict(id=4, name="kite"), dict(id=2, name="boat")]
    truth = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / "val.json").write_text(json.dumps(truth))
    return tmp_path


def test_ground_truth_as_detections_scores_one_on_drawn_scenes(make_detect):
    config = shapes_config()
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.images == 7 and report.skipped == {}
    assert report.box.summary["AP"] > 0.97  # the resized image has boxes at whole pixels
    assert report.mask.summary["AP75"] > 0.97 and report.mask.summary["AP"] > 0.85
    assert sum(report.objects.values()) == len(report.results) > 7


def test_ground_truth_as_detections_scores_one_on_a_coco_folder(make_detect, folder):
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.box.summary["AP"] == pytest.approx(1.0)
    assert report.mask.summary["AP75"] == pytest.approx(1.0)
    assert report.mask.summary["AP"] > 0.95
    assert report.objects == {"kite": 10, "boat": 5}
    assert {r["image_id"] for r in report.results} == {10, 20, 30, 40, 50}
    first = next(r for r in report.results if r["image_id"] == 10 and r["category_id"] == 4)
    np.testing.assert_allclose(first["bbox"], [8, 10, 24, 30], atol=0.01)


def add_fields(folder, name):
    """Makes the folder one of LVIS or of Cityscapes."""
    truth = json.loads((folder / "val.json").read_text())
    for k, category in enumerate(truth["categories"] if name == "lvis" else ()):
        category["frequency"] = "rf"[k]
    for image in truth["images"]:
        if name == "lvis":
            image |= dict(neg_category_ids=[], not_exhaustive_category_ids=[])
        else:
            size = (image["height"], image["width"])
            image["void"] = results.region_rle(0, 0, np.zeros((0, size[0]), bool), size)
    (folder / "val.json").write_text(json.dumps(truth))


@pytest.mark.parametrize("name", ["lvis", "cityscapes"])
def test_the_protocol_is_that_of_the_annotations(make_detect, folder, name):
    add_fields(folder, name)
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.protocol == name
    assert report.mask.summary["AP50"] == pytest.approx(1.0)
    logged = validation.scalars(report)
    assert logged["mask/AP"] == report.mask.summary["AP"] > 0.9
    more = {"lvis": {"mask/APr", "mask/APf", "box/AR100"}, "cityscapes": {"mask_coco/AP75"}}[name]
    assert more <= set(logged) and "mask/APc" not in logged


@pytest.mark.parametrize(
    ("fields", "settings", "message"),
    [
        ("", {"eval.protocol": "lvis"}, "lacks `frequency`"),
        ("", {"eval.protocol": "cityscapes"}, "lacks `void`"),
        ("cityscapes", {"eval.boundary": True}, "not for the protocol of Cityscapes"),
        ("lvis", {"eval.evaluator": "pycocotools"}, "does not know the protocol of LVIS"),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_detected(
    folder, fields, settings, message
):
    if fields:
        add_fields(folder, fields)
    config = coco_config(folder, **settings)
    source = sources.open_source(config.data, "val")
    with pytest.raises(ValueError, match=message):
        inference.evaluate_source(pytest.fail, source, config, progress=False)
    with pytest.raises(ValueError, match=message):  # a training run finds it out before it starts
        validation.make_evaluate(None, config, source)


def test_real_images_with_crowds_and_gaps_in_the_ids(make_detect, test_data):
    config = shapes_config(**{"eval.max_images": 12, "model.test.max_detections": 60})
    config.data.source, config.data.root = "coco_json", str(test_data / "coco_cc")
    config.data.val = dict(images="train", annotations="annotations/instances_train.json")
    config.data.buckets = ((384, 512), (512, 384))
    config.data.eval_resize.update(short=384, max=512)
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.images == 12
    assert report.box.summary["AP"] > 0.97
    assert report.mask.summary["AP50"] > 0.97 and report.mask.summary["AP"] > 0.8


def test_images_that_cannot_be_read_are_counted_and_their_objects_are_missed(make_detect, folder):
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")
    detect = make_detect(source, config)
    (folder / "images/3.png").write_bytes(b"no image")
    report = inference.evaluate_source(detect, source, config, progress=False)
    assert sum(report.skipped.values()) == 1
    assert not any(r["image_id"] == 30 for r in report.results)
    assert report.box.summary["AR100"] == pytest.approx(0.8)
    assert "skipped: 1 image file" in report.markdown()


def test_only_the_first_images_count(make_detect, folder):
    config = coco_config(folder, **{"eval.max_images": 2})
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.images == 2 and report.box.summary["AR100"] == pytest.approx(1.0)
    assert sum(report.objects.values()) == 6


def test_what_is_found_of_classes_that_the_data_set_lacks_is_left_out(make_detect, folder):
    config = coco_config(folder, **{"eval.workers": 1})
    source = sources.open_source(config.data, "val")
    boats = [None, source.categories[1]]
    report = inference.evaluate_source(
        make_detect(source, config), source, config, categories=boats, progress=False
    )
    assert {result["category_id"] for result in report.results} == {source.categories[1].id}


def test_a_split_without_annotations_only_gives_results(make_detect, folder, tmp_path):
    config = coco_config(folder)
    detect = make_detect(sources.open_source(config.data, "val"), config)
    truth = json.loads((folder / "val.json").read_text())
    del truth["annotations"]
    (folder / "val.json").write_text(json.dumps(truth))
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(detect, source, config, split="test", progress=False)
    assert report.box is None and report.mask is None and len(report.results) == 15
    files = report.save(tmp_path / "out")
    assert list(files) == ["results"]
    assert json.loads(files["results"].read_text()) == report.results
    report.print()
    assert pictures.compare(source, report.results, tmp_path / "out/predictions.png") is None


def test_the_written_files_give_the_numbers_again(make_detect, folder, tmp_path):
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    files = report.save(tmp_path / "deep" / "out")
    for iou_type, metrics in (("bbox", report.box), ("segm", report.mask)):
        assert (
            coco.evaluate_files(folder / "val.json", files["results"], iou_type) == metrics.summary
        )
    saved = json.loads(files["metrics"].read_text())
    assert saved["mask"]["summary"] == report.mask.summary
    assert saved["box"]["per_class"]["boat"] == report.box.per_class["boat"]
    table = files["table"].read_text()
    assert "| AP | 1.000 |" in table and "| kite | 10 | 1.000 |" in table
    picture = pictures.compare(
        source, report.results, tmp_path / "out" / "predictions.png", count=2
    )
    assert cv2.imread(str(picture)).shape[1] > 2 * 400


def test_bad_options_are_told_before_anything_runs(folder):
    for key, value, message in (
        ("eval.evaluator", "mine", "'mine'"),
        ("eval.workers", -2, "config.eval.workers=-2"),
    ):
        config = coco_config(folder, **{key: value})
        source = sources.open_source(config.data, "val")
        with pytest.raises(ValueError, match=message):
            inference.evaluate_source(None, source, config, progress=False)


def test_a_fault_of_the_detector_comes_through(folder):
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")

    def detect(batch):
        raise RuntimeError("out of memory")

    with (
        pipeline.eval_batches(config, source, batch_size=2) as batches,
        pytest.raises(RuntimeError, match="out of memory"),
    ):
        inference.run(detect, batches, source.categories)


def test_a_crowd_that_is_only_a_box_is_left_out_of_the_picture(make_detect, folder, tmp_path):
    truth = json.loads((folder / "val.json").read_text())
    crowd = dict(id=99, image_id=10, category_id=4, iscrowd=1, bbox=[5, 5, 40, 40], area=1600)
    truth["annotations"] += [crowd, crowd | dict(id=100, segmentation=[])]
    (folder / "val.json").write_text(json.dumps(truth))
    config = coco_config(folder)
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    assert report.mask.summary["AP75"] == pytest.approx(1.0)
    assert pictures.compare(source, report.results, tmp_path / "predictions.png").exists()
    crowds = [a for a in source.coco()["annotations"] if a["iscrowd"]]
    assert len(crowds) == 2
    drawn = pictures.instances(crowds, [4, 2], 100, 145)
    assert len(drawn.boxes) == len(drawn.masks) == 0


def test_only_evaluated_images_are_in_the_picture(make_detect, folder, tmp_path):
    config = coco_config(folder, **{"eval.max_images": 2})
    source = sources.open_source(config.data, "val")
    report = inference.evaluate_source(make_detect(source, config), source, config, progress=False)
    shown, read = [], source.image
    source.image = lambda i: shown.append(i) or read(i)
    assert pictures.compare(source, report.results, tmp_path / "some.png")
    assert shown == [0, 1]
    shown.clear()
    assert pictures.compare(source, [], tmp_path / "none.png")
    assert shown == [0]
