"""The folder for Cityscapes' test server, and what its official script says of it."""

import importlib
import importlib.util
import json
import os
import pathlib
import resource
import sys
import types

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils

from configs import mask_rcnn
from jaxseg.data.cityscapes_classes import CLASSES
from jaxseg.data.source import Category, ImageInfo
from jaxseg.evaluation.submission import cityscapes, coco, listing, servers

SIZE = (128, 256)
FRAMES = ("bad-honnef_000000_000019", "ulm_000001_000019", "ulm_000001_000020")
FOLDER = "cityscapes_mine_results"
CAR, PERSON = 3, 1  # category ids that are no label ids


def encode(mask):
    found = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": found["counts"].decode()}


def box_mask(x0=10, y0=20, x1=60, y1=70, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def result(image=1, score=0.5, category=CAR, mask=None):
    mask = box_mask() if mask is None else mask
    return dict(image_id=image, category_id=category, score=score, segmentation=encode(mask))


def categories():
    """Category ids in another order than that of the label ids."""
    return {n: name for n, (_, name) in enumerate(sorted(CLASSES, key=lambda c: c[0] % 7), 1)}


@pytest.fixture
def images():
    files = {n: f"{f.split('_')[0]}/{f}_leftImg8bit.png" for n, f in enumerate(FRAMES, 1)}
    return listing.Listing(dict.fromkeys(files, SIZE), files, {PERSON: "person", CAR: "car"})


def write(results, images, folder, name="mine"):
    return cityscapes.write(results, images, folder, name=name)


def test_the_table_of_classes_is_that_of_the_official_scripts():
    labels = pytest.importorskip("cityscapesscripts.helpers.labels", reason="cityscapesscripts")
    found = [(x.id, x.name) for x in labels.labels if x.hasInstances and not x.ignoreInEval]
    assert tuple(found) == CLASSES


def test_what_is_written_is_what_was_found(tmp_path, images):
    results = [
        result(2, 0.25, PERSON, box_mask(x1=200)),
        result(1, 1),
        result(2, 1e-7, CAR, box_mask(y0=0, y1=128)),
    ]
    summary = write(results, images, tmp_path)
    folder = tmp_path / FOLDER
    texts = [(folder / f"{frame}.txt").read_text() for frame in FRAMES]
    assert texts == [
        f"masks/{FRAMES[0]}_0000.png 26 1.0\n",
        f"masks/{FRAMES[1]}_0000.png 24 0.25\nmasks/{FRAMES[1]}_0001.png 26 1e-07\n",
        "",
    ]
    for path, entry in zip(
        (f"{FRAMES[1]}_0000", f"{FRAMES[0]}_0000", f"{FRAMES[1]}_0001"), results, strict=True
    ):
        mask = cv2.imread(str(folder / "masks" / f"{path}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(mask, 255 * mask_utils.decode(entry["segmentation"]))
    assert os.listdir(tmp_path) == [FOLDER]
    assert (summary.detections, summary.images, summary.listed) == (3, 2, 3)
    assert cityscapes.check(folder, images).detections == 3


def test_empty_masks_are_left_out_and_told(tmp_path, images):
    empty = np.zeros(SIZE, bool)
    summary = write([result(), result(2, mask=empty)], images, tmp_path)
    assert (summary.detections, summary.images) == (1, 1)
    assert "1 detections left out: their masks are empty" in str(summary)
    assert len(os.listdir(tmp_path / FOLDER / "masks")) == 1


def test_no_detections_at_all_are_empty_files(tmp_path, images):
    summary = write([], images, tmp_path)
    assert "there is no detection at all" in str(summary)
    found = sorted((tmp_path / FOLDER).glob("*.txt"))
    assert [path.stem for path in found] == sorted(FRAMES)
    assert not any(path.read_text() for path in found)


# The official script.


def ground_truth(rng, index):
    """An image of instanceIds: objects with holes and of several parts, a group, void, one under the least size."""
    ids = np.full((256, 512), 7, np.int32)
    ids[:20] = 1  # ego vehicle: void
    for n, (label, _) in enumerate(CLASSES):
        if (n + index) % 3 == 0:
            continue
        for k in range(2):
            x, y = 60 * n + 2, 30 + 110 * k
            height, width = rng.integers(30, 100), rng.integers(20, 56)
            ids[y : y + height, x : x + width] = label * 1000 + k
            ids[y + 8 : y + 14, x + 8 : x + 12] = 7  # a hole
            ids[y + height // 2, x : x + width] = 21  # two parts
    ids[242:250, 5:14] = 26 * 1000 + 9  # 72 pixels
    ids[240:256, 300:360] = 26  # a group of cars
    ids[240:256, 400:430] = 29 * 1000  # a caravan: void
    return ids


def write_json(value, path):
    """As the script's own function, which cannot write the integers that NumPy counts in since version 2."""
    pathlib.Path(path).write_text(json.dumps(value, default=int))


@pytest.fixture
def official(tmp_path, monkeypatch):
    """evaluate(frames of ground truth, folder) -> what the main function of the official script writes."""
    if (
        importlib.util.find_spec("pyquaternion") is None
    ):  # of boxes in space, which this is not about
        monkeypatch.setitem(sys.modules, "pyquaternion", types.SimpleNamespace(Quaternion=None))
    name = "cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling"
    script = pytest.importorskip(name, reason="cityscapesscripts is not installed")
    # It walks the ground truth and the results itself, and keeps both in its arguments.
    script = importlib.reload(script)
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # NumPy 2.4 has it no more
    monkeypatch.setattr(script, "writeDict2JSON", write_json)
    monkeypatch.chdir(tmp_path)  # it writes matches.json

    def evaluate(truth, folder):
        for frame, ids in truth.items():
            path = tmp_path / "gtFine" / frame.split("_")[0] / f"{frame}_gtFine_instanceIds.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), ids.astype(np.uint16))
        monkeypatch.setenv("CITYSCAPES_RESULTS", str(folder))
        monkeypatch.setattr(sys, "argv", ["script"])
        script.args.groundTruthSearch = str(tmp_path / "gtFine" / "*" / "*_instanceIds.png")
        script.args.gtInstancesFile = str(tmp_path / "gtInstances.json")
        script.args.exportFile = str(tmp_path / "scores" / "result.json")
        script.args.quiet = True
        script.main()
        return json.loads(pathlib.Path(script.args.exportFile).read_text())["averages"]

    return evaluate


@pytest.fixture
def scenes():
    """Ground truth by frame, its listing, and the results that equal it."""
    rng = np.random.default_rng(3)
    truth = {frame: ground_truth(rng, index) for index, frame in enumerate(FRAMES)}
    files = {n: f"{frame}_leftImg8bit.png" for n, frame in enumerate(FRAMES, 100)}
    images = listing.Listing(dict.fromkeys(files, (256, 512)), files, categories())
    numbers = {name: number for number, name in categories().items()}
    results = [
        result(image, float(rng.uniform(0.3, 1)), numbers[name], truth[frame] == instance)
        for image, frame in zip(files, FRAMES, strict=True)
        for label, name in CLASSES
        for instance in np.unique(truth[frame])
        if instance >= 1000 and instance // 1000 == label
    ]
    assert len(results) > 30
    return truth, images, results


def test_the_ground_truth_as_detections_scores_1_in_the_official_script(tmp_path, scenes, official):
    truth, images, results = scenes
    write(results, images, tmp_path / "out")
    scores = official(truth, tmp_path / "out" / FOLDER)
    assert scores["allAp"] == pytest.approx(1.0, abs=1e-12)
    assert scores["allAp50%"] == pytest.approx(1.0, abs=1e-12)
    assert {v["ap"] for v in scores["classes"].values()} == {1.0}


def test_the_official_script_sees_a_missing_a_false_and_a_wrong_detection(
    tmp_path, scenes, official
):
    """Of the class car: one object not found (recall) and one false detection that scores best (precision)."""
    truth, images, results = scenes
    number = {name: n for n, name in images.categories.items()}["car"]
    cars = [r for r in results if r["category_id"] == number]
    small = min(cars, key=lambda r: mask_utils.area(r["segmentation"]))
    cars = [r for r in cars if mask_utils.area(r["segmentation"]) >= 100]
    assert mask_utils.area(small["segmentation"]) < 100 and len(cars) > 2
    false = result(cars[0]["image_id"], 1.0, number, box_mask(100, 21, 500, 28, (256, 512)))
    kept = [r for r in results if r is not cars[0]] + [false]
    write(kept, images, tmp_path / "out")
    scores = official(truth, tmp_path / "out" / FOLDER)
    n = len(cars)
    # After the false one, detection k of n - 1 has the precision k / (k + 1), at recall k / n; the script weighs it by
    # half the distance of the recalls beside it.
    precision = np.array([1, 0] + [k / (k + 1) for k in range(1, n)])
    recall = np.array([0, 0] + [k / n for k in range(1, n)])
    padded = np.concatenate(([0], recall, [recall[-1]]))
    expected = (precision * (padded[2:] - padded[:-2]) / 2).sum()
    assert scores["classes"]["car"]["ap"] == pytest.approx(expected, abs=1e-9)
    assert {v["ap"] for name, v in scores["classes"].items() if name != "car"} == {1.0}


# Folders of others.


LINE = f"masks/{FRAMES[0]}_0000.png 26 0.5"
BAD_LINES = {
    "two fields": ("masks/a.png 26", "line 1: 'masks/a.png 26' must be relative/mask.png labelID"),
    "two spaces": (LINE.replace(" ", "  "), "line 1: .* with single spaces"),
    "an empty line": (f"{LINE}\n\n{LINE}", "line 2: '' must be"),
    "an absolute path": (f"/{LINE}", "must be a path relative to the text file"),
    "a path outside": (f"../{LINE}", "must be a path relative to the text file, within"),
    "a mask that is not there": (LINE.replace("0000", "0007"), "there is no mask 'masks/.*0007"),
    "a train id": (LINE.replace("26", "13"), r"label id '13' must be one of 24 \(person\), 25"),
    "a caravan": (LINE.replace("26", "29"), "label id '29' must be one of"),
    "half a label": (LINE.replace("26", "24.5"), "label id '24.5' must be"),
    "a high confidence": (LINE.replace("0.5", "1.5"), "confidence '1.5' must be a number from 0"),
    "no number": (LINE.replace("0.5", "nan"), "confidence 'nan' must be a number from 0"),
    "a mask twice": (f"{LINE}\n{LINE}", "line 2: the mask .* is that of .*line 1"),
}


@pytest.mark.parametrize(("text", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_breaks_a_rule_is_named(tmp_path, images, text, message):
    write([result()], images, tmp_path)
    folder = tmp_path / FOLDER
    (folder / f"{FRAMES[0]}.txt").write_text(text)
    with pytest.raises(ValueError, match=f"{FRAMES[0]}.txt, {message}|{message}"):
        cityscapes.check(folder, images)


def gray(path):
    cv2.imwrite(str(path), np.tile(np.arange(SIZE[1], dtype=np.uint8), (SIZE[0], 1)))


BAD_MASKS = {
    "no PNG": (lambda path: path.write_bytes(b"GIF89a.."), "is no PNG file"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:40]), "is a damaged PNG file"),
    "another size": (
        lambda path: cv2.imwrite(str(path), np.ones((256, 128), np.uint8)),
        r"is 256 x 128 pixels \(height x width\), its image 128 x 256",
    ),
    "colours": (
        lambda path: cv2.imwrite(str(path), np.ones((*SIZE, 3), np.uint8)),
        "has 3 channels; one is needed",
    ),
    "several values": (gray, "has several values besides 0"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_MASKS.values(), ids=BAD_MASKS)
def test_a_mask_that_breaks_a_rule_is_named(tmp_path, images, spoil, message):
    write([result()], images, tmp_path)
    spoil(tmp_path / FOLDER / "masks" / f"{FRAMES[0]}_0000.png")
    with pytest.raises(ValueError, match=f"{FRAMES[0]}.txt, line 1: the mask .*0000.png {message}"):
        cityscapes.check(tmp_path / FOLDER, images)


def test_masks_of_others_may_be_empty_or_of_any_value(tmp_path, images):
    write([result()], images, tmp_path)
    path = tmp_path / FOLDER / "masks" / f"{FRAMES[0]}_0000.png"
    cv2.imwrite(str(path), box_mask().astype(np.uint8))
    assert "empty" not in str(cityscapes.check(tmp_path / FOLDER, images))
    cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    told = str(cityscapes.check(tmp_path / FOLDER, images))
    assert "1 of these masks are empty, and skipped by the server" in told


def test_every_image_has_exactly_one_text_file(tmp_path, images):
    write([], images, tmp_path)
    folder = tmp_path / FOLDER
    (folder / f"{FRAMES[1]}.txt").rename(folder / "masks" / f"{FRAMES[1]}_pred.txt")
    assert (
        cityscapes.check(folder, images).listed == 3
    )  # the server's script finds it there as well
    (folder / f"{FRAMES[1]}_2.txt").touch()
    with pytest.raises(ValueError, match=f"are both of {FRAMES[1]}; the server wants one"):
        cityscapes.check(folder, images)
    (folder / f"{FRAMES[1]}_2.txt").rename(folder / "notes.txt")
    with pytest.raises(ValueError, match=r"notes.txt is of none of the split's 3 images"):
        cityscapes.check(folder, images)
    (folder / "notes.txt").unlink()
    (folder / f"{FRAMES[2]}.txt").unlink()
    with pytest.raises(ValueError, match=f"no text file for 1 of 3 images, e.g. {FRAMES[2]}.txt"):
        cityscapes.check(folder, images)
    with pytest.raises(NotADirectoryError, match=r"There is no folder .*nothing"):
        cityscapes.check(tmp_path / "nothing", images)


# Inputs.


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({1: "ulm.png"}, "Image 1, 'ulm.png': Cityscapes' files are named <city>_123456_123456_"),
        ({1: "ulm_1_19_leftImg8bit.png"}, "Image 1, 'ulm_1_19"),
        (
            {1: "a/ulm_000001_000019_leftImg8bit.png", 4: "b/ulm_000001_000019_leftImg8bit.png"},
            "Images 1 and 4 are both of the frame ulm_000001_000019",
        ),
    ],
)
def test_images_that_the_server_could_not_find(tmp_path, images, files, message):
    images = listing.Listing(dict.fromkeys(files, SIZE), files, images.categories)
    with pytest.raises(ValueError, match=message):
        write([], images, tmp_path)


def test_classes_that_are_not_evaluated(tmp_path, images):
    images = listing.Listing(images.sizes, images.files, {1: "person", 2: "dog"})
    with pytest.raises(ValueError, match=r"'dog' \(id 2\) is none of the 8 that Cityscapes"):
        write([], images, tmp_path)


def test_a_bad_result_is_named_before_anything_is_written(tmp_path, images):
    results = [result(), result() | {"score": 7}]
    with pytest.raises(ValueError, match=r"Entry 1 \(image 1\): score 7 must be"):
        write(results, images, tmp_path)
    assert not os.listdir(tmp_path)


# Faults.


def test_an_earlier_submission_of_the_name_is_replaced_whole(tmp_path, images):
    write([result(1), result(1)], images, tmp_path)
    write([result(2)], images, tmp_path, name="other")
    write([result(2)], images, tmp_path)
    assert sorted(os.listdir(tmp_path)) == [FOLDER, "cityscapes_other_results"]
    assert os.listdir(tmp_path / FOLDER / "masks") == [f"{FRAMES[1]}_0000.png"]


@pytest.mark.parametrize("place", ["thesis.tex", "masks/a.tif", "more/b.txt"])
def test_a_folder_with_other_things_is_not_replaced(tmp_path, images, place):
    path = tmp_path / FOLDER / place
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ValueError, match="which is not of a submission, and would be lost"):
        write([result()], images, tmp_path)
    assert path.exists() and os.listdir(tmp_path) == [FOLDER]


@pytest.fixture
def file_limit():
    """Sets the size at which files cannot grow any more, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_earlier_submission(tmp_path, images, file_limit):
    write([result()], images, tmp_path)
    noise = np.random.default_rng(0).random(SIZE) < 0.5
    file_limit(2000)
    with pytest.raises(OSError, match=f"Could not write .*{FOLDER}: File too large"):
        write([result(2), result(3, mask=noise)], images, tmp_path)
    assert os.listdir(tmp_path) == [FOLDER]
    assert os.listdir(tmp_path / FOLDER / "masks") == [f"{FRAMES[0]}_0000.png"]


def test_what_is_on_the_disk_is_checked(tmp_path, images, monkeypatch):
    encode = cv2.imencode
    monkeypatch.setattr(cv2, "imencode", lambda end, mask, options: encode(end, mask[:, :-1]))
    with pytest.raises(ValueError, match="is 128 x 255 pixels"):
        write([result()], images, tmp_path)
    assert not os.listdir(tmp_path)


# Splits.


class Split:
    """A source as far as `servers` looks at it."""

    def __init__(self, images, objects=0):
        self.infos = [ImageInfo(i, f, *SIZE, objects) for i, f in images.files.items()]
        self.categories = tuple(Category(i, n) for i, n in images.categories.items())


def test_the_test_split_of_cityscapes_is_known_by_its_classes_and_names(tmp_path, images):
    assert servers.of_split("test", Split(images)) == "cityscapes"
    assert servers.of_split("val", Split(images)) is None
    assert servers.of_split("test", Split(images, objects=2)) is None
    own = listing.Listing(images.sizes, dict.fromkeys(images.files, "a.png"), images.categories)
    assert servers.of_split("test", Split(own)) is None
    dogs = listing.Listing(images.sizes, images.files, {1: "dog"})
    assert servers.of_split("test", Split(dogs)) is None
    data = mask_rcnn.get_config("cityscapes").data
    assert data.test.images == "leftImg8bit/test"
    given = dict(name=None, workdir="runs/mine", method="mask_rcnn")
    submission = servers.plan("test", Split(images), tmp_path, **given)
    assert submission.write([result()]).paths == (tmp_path / FOLDER,)


def test_the_two_servers_do_not_take_each_others_files(tmp_path, images):
    write([result()], images, tmp_path)
    with pytest.raises(ValueError, match="wants the name detections_"):
        coco.check(tmp_path / FOLDER, images)
