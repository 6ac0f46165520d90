"""The Predictor around a detector whose answers are known; files and folders of images."""

import json

import cv2
import numpy as np
import pytest

from configs import common
from jaxseg import predictor as predictor_lib
from jaxseg.data.source import Category
from jaxseg.evaluation import coco, folder, report
from jaxseg.structures import Detections, Views

CATEGORIES = (Category(3, "cat"), Category(8, "dog"))


def make_predictor(score_threshold=0.5, maps=(), **tta):
    """Finds a cat in the middle half of each image, a dog at its left edge, and something unsure.

    The maps of the n-th detection are n / 10 everywhere.
    """
    config = common.base()
    config.data.buckets = ((128, 256), (256, 128))
    config.data.eval_resize.update(short=128, max=256)
    config.eval.tta.update(tta)
    seen = []

    def detect(batch):
        seen.append(batch)
        h, w = batch.image_size[0]
        boxes = [
            [w / 4, h / 4, 3 * w / 4, 3 * h / 4],
            [-20, 0, w / 4, h],
            [0, 0, 9, 9],
            [w, 0, w + 9, 9],
        ]
        return Detections(
            boxes=np.array([[*boxes, [0, 0, 5, 5]]], np.float32),
            scores=np.array([[0.9, 0.8, 0.3, 0.7, 0.99]], np.float32),
            classes=np.array([[0, 1, 1, 0, 0]], np.int32),
            valid=np.array([[True, True, True, True, False]]),
            masks=np.ones((1, 5, 8, 8), np.float32),
            maps={name: np.full((1, 5, 8, 8), np.arange(5.0)[:, None, None] / 10) for name in maps},
        )

    predictor = predictor_lib.Predictor(detect, config, CATEGORIES, score_threshold=score_threshold)
    return predictor, seen


def picture(height=100, width=200):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_instances_come_in_pixels_of_the_image():
    predictor, seen = make_predictor()
    found = predictor(picture(64, 100))
    assert seen[0].images.shape == (1, 128, 256, 3)
    np.testing.assert_array_equal(seen[0].image_size, [[128, 200]])
    assert not seen[0].images[:, :, 200:].any() and seen[0].images[:, :128, :200].any()
    np.testing.assert_allclose(found.boxes, [[25, 16, 75, 48], [0, 0, 25, 64]], atol=1e-4)
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    assert found.class_names == ["cat", "dog"] and found.classes.tolist() == [0, 1]
    assert found.masks.shape == (2, 64, 100) and found.masks.dtype == bool
    assert found.masks[0, 20:44, 30:70].all() and not found.masks[0, :15].any()
    assert found.masks[1, 30, :25].all()  # the mask belongs to the box before it was cut off
    assert len(found) == 2 and "2 instances in 64 x 100: cat, dog" in repr(found)


def test_several_views_of_an_image():
    predictor, seen = make_predictor(scales=(64, 128), flip=True)
    found, alone = predictor(picture(64, 100)), make_predictor()[0](picture(64, 100))
    assert isinstance(seen[0], Views) and seen[0].flips == (False, True, False, True)
    sizes = [view.image_size[0].tolist() for view in seen[0].batches]
    assert sizes == [[64, 100]] * 2 + [[128, 200]] * 2
    assert [v.images.shape[1:3] for v in seen[0].batches] == [(64, 128)] * 2 + [(128, 256)] * 2
    np.testing.assert_array_equal(
        seen[0].batches[1].images[0, :, :100], seen[0].batches[0].images[0, :, :100][:, ::-1]
    )
    assert not seen[0].batches[1].images[0, :, 100:].any()
    # What is found is in pixels of the first view.
    np.testing.assert_allclose(found.boxes[0], alone.boxes[0], atol=1e-4)
    with pytest.raises(ValueError, match=r"config\.eval\.tta\.scales"):
        make_predictor(scales=(0,))


def test_the_threshold_and_lists():
    assert len(make_predictor(0.85)[0](picture())) == 1
    assert len(make_predictor(0.0)[0](picture())) == 3
    many = make_predictor()[0]([picture(), picture(200, 90)])
    assert [p.image.shape[:2] for p in many] == [(100, 200), (200, 90)]
    with pytest.raises(ValueError, match="score_threshold"):
        make_predictor(1.5)


def test_pictures(tmp_path):
    found = make_predictor()[0](picture())
    plot = found.plot()
    assert plot.shape == (320, 640, 3)
    np.testing.assert_array_equal(cv2.imread(str(found.save(tmp_path / "a.png")))[..., ::-1], plot)
    assert found._repr_png_()[:4] == b"\x89PNG"


def test_maps_of_what_is_kept():
    found = make_predictor(maps=("P", "T"))[0](picture())
    assert set(found.maps) == {"P", "T"} and found.maps["T"].shape == (2, 8, 8)
    assert found.maps["T"].dtype == np.float32
    np.testing.assert_allclose(found.maps["T"][1], 0.1)
    rows = found.plot_maps([1], side=64)
    assert found.plot_maps(side=64).shape[0] > rows.shape[0] + 32
    with pytest.raises(IndexError):
        found.plot_maps([2])
    with pytest.raises(ValueError, match=r"no maps.*from_workdir\(\.\.\., maps=True\)"):
        make_predictor()[0](picture()).plot_maps()


def test_coco_results_fit_the_evaluation():
    found = make_predictor()[0](picture())
    results = json.loads(json.dumps(found.to_coco(17)))
    assert [r["category_id"] for r in results] == [3, 8] and results[0]["image_id"] == 17
    truth = {
        "images": [dict(id=17, height=100, width=200)],
        "categories": [dict(id=c.id, name=c.name) for c in CATEGORIES],
        "annotations": [{**r, "id": i, "area": 5000} for i, r in enumerate(results, 1)],
    }
    assert coco.evaluate(truth, results, "segm").summary["AP"] == pytest.approx(1.0)


def test_files(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), picture()[..., 0])
    found = make_predictor()[0](tmp_path / "grey.png")
    np.testing.assert_array_equal(found.image, np.repeat(picture()[..., :1], 3, axis=2))
    with pytest.raises(ValueError, match=r"none\.png.*missing"):
        make_predictor()[0](str(tmp_path / "none.png"))


@pytest.mark.parametrize(
    "image, message",
    [
        (picture() / 255.0, "float64.*astype"),
        (picture()[..., 0], r"\(100, 200\).*repeat"),
        (np.zeros((5, 5, 4), np.uint8), r"\(5, 5, 4\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(ValueError, match=message):
        make_predictor()[0](image)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="not the work directory of a training run"):
        predictor_lib.Predictor.from_workdir(tmp_path)


@pytest.fixture
def images(tmp_path):
    for name in ("a/x.png", "a/b/x.jpg", "a/b/y.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), picture())
    (tmp_path / "a/broken.jpg").write_bytes(b"no image")
    (tmp_path / "a/notes.txt").write_text("no image either")
    return tmp_path


def test_images_are_found_in_files_folders_and_globs(images):
    names = lambda *patterns: [str(p.relative_to(images)) for p in folder.find_images(patterns)]  # noqa: E731
    assert names(images / "a") == ["a/b/x.jpg", "a/b/y.jpg", "a/broken.jpg", "a/x.png"]
    assert names(f"{images}/a/*") == ["a/broken.jpg", "a/x.png"]
    assert names(f"{images}/a/**/y.*", images / "a/x.png", images / "a/x.png") == [
        "a/b/y.jpg",
        "a/x.png",
    ]
    for pattern in (images / "none.jpg", f"{images}/*.png"):
        with pytest.raises(FileNotFoundError, match="No image matches"):
            folder.find_images([pattern])
    with pytest.raises(FileNotFoundError, match="No images were named"):
        folder.find_images([])


def test_predicting_a_folder(images):
    predictor, _ = make_predictor()
    out = images / "out"
    files = folder.find_images([images / "a"])
    count, problems = folder.predict_files(predictor, files, out, CATEGORIES, progress=False)
    assert count == 6 and problems.total() == 1 and "broken.jpg" in problems.summary()
    listing = json.loads((out / "images.json").read_text())
    results = json.loads((out / "results.json").read_text())
    assert [image["file_name"] for image in listing["images"]] == [
        str(images / name) for name in ("a/b/x.jpg", "a/b/y.jpg", "a/x.png")
    ]
    assert {r["image_id"] for r in results} == {image["id"] for image in listing["images"]}
    assert listing["categories"][1] == {"id": 8, "name": "dog"}
    assert sorted(p.name for p in (out / "overlays").iterdir()) == ["x-4.jpg", "x.jpg", "y.jpg"]
    assert coco.evaluate(listing, results, "segm").summary["AP"] == -1.0


def test_maps_of_chosen_detections_are_drawn(images):
    predictor, _ = make_predictor(maps=("P",))
    files = folder.find_images([images / "a/x.png"])
    folder.predict_files(predictor, files, images / "out", CATEGORIES, maps=(1, 7), progress=False)
    drawn = cv2.imread(str(images / "out/maps/x.png"))[..., ::-1]
    np.testing.assert_array_equal(drawn, predictor(str(images / "a/x.png")).plot_maps([1]))
    folder.predict_files(predictor, files, images / "none", CATEGORIES, maps=(7,), progress=False)
    assert not (images / "none/maps").exists()  # an image has less detections


def test_a_fault_that_is_not_the_images_ends_the_run_and_keeps_what_is_done(images):
    predictor, _ = make_predictor()

    def predict(path):
        if path.endswith("x.png"):
            raise RuntimeError("out of memory")
        return predictor(path)

    files = [images / "a/b/x.jpg", images / "a/x.png"]
    with pytest.raises(RuntimeError, match="out of memory"):
        folder.predict_files(predict, files, images / "out", CATEGORIES, progress=False)
    assert len(json.loads((images / "out/results.json").read_text())) == 2


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_predicted(images):
    (images / "out").write_text("a file is in the way")
    with pytest.raises(OSError, match=r"out cannot be written.*--out"):
        folder.predict_files(None, [images / "a/x.png"], images / "out", CATEGORIES)


def test_nothing_that_could_be_read_is_an_error(images):
    files = folder.find_images([images / "a/broken.jpg"])
    predictor, _ = make_predictor()
    with pytest.raises(ValueError, match=r"None of the 1 images.*broken\.jpg"):
        folder.predict_files(predictor, files, images / "out", CATEGORIES, progress=False)


def test_the_home_folder_may_be_written_as_a_tilde(images, monkeypatch):
    monkeypatch.setenv("HOME", str(images))
    monkeypatch.chdir(images)
    assert report.make_folder("~/out") == images / "out"
    assert not (images / "~").exists()
    assert folder.find_images(["~/a/x.png", "~/a/*.png"]) == [images / "a/x.png"]
