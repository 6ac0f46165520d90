"""What a report says."""

import io
import json

import numpy as np
from PIL import Image
from rich.console import Console
from scenes import entry, rle

from jaxseg.evaluation import measure, report
from jaxseg.evaluation.coco import Metrics


def test_what_was_changed_is_told():
    changed = {"model.test.score_alpha": (1.0, 2.0), "data.root": ("", "/there/[x]")}
    found = report.Report(split="val", images=1, seconds=1.0, changed=changed)
    console = Console(file=io.StringIO(), width=40)
    found.print(console)
    for text in (console.file.getvalue(), found.markdown()):
        assert "Changed from the run: model.test.score_alpha 1.0 -> 2.0\n" in text
        assert "Changed from the run: data.root '' -> '/there/[x]'\n" in text


def test_names_are_printed_as_they_are():
    names = ("cat [wild]", "[/x]", ":smile:", "back\\")
    numbers = {"AP": 0.5, "AP50": 0.75}
    metrics = Metrics("bbox", summary=numbers, per_class=dict.fromkeys(names, numbers))
    found = report.Report(
        split="[b]val",
        images=1,
        seconds=1.0,
        skipped={"[/y]": 2},
        metrics={"box": metrics, "mask": metrics},
    )
    console = Console(file=io.StringIO(), width=120)
    found.print(console)
    text = console.file.getvalue()
    assert all(part in text for part in (*names, "[b]val: 0 det", "metrics on [b]val", "2 [/y]"))


def lvis_report(classes):
    """A report on LVIS with so many classes, one object each of the first ones; the rare ones are found best."""
    categories = [dict(id=i, name=f"c{i}", frequency="rcf"[i % 3]) for i in range(1, classes + 1)]
    image = dict(id=1, height=40, width=50, neg_category_ids=[], not_exhaustive_category_ids=[])
    masks = [np.roll(np.eye(40, 50, dtype=bool), k, 1) for k in range(10)]
    truth = {
        "images": [image],
        "categories": categories,
        "annotations": [
            entry(mask, 1, k, id=k, area=int(mask.sum())) for k, mask in enumerate(masks, 1)
        ],
    }
    results = [r | {"score": 0.9} for r in truth["annotations"] if r["category_id"] % 3 == 0]
    found = report.Report(split="val", images=1, seconds=1.0, results=results)
    found.measure(truth, measure.chosen(measure.Settings(), truth))
    return found


def test_very_many_classes_are_summed_up_on_the_console_and_in_full_in_the_files(tmp_path):
    found = lvis_report(120)
    console = Console(file=io.StringIO(), width=160)
    found.print(console)
    text = console.file.getvalue()
    assert "LVIS metrics on val" in text and "c117" not in text
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert lines["rare"] == ["40", "3", "3", *["1.000"] * 4]
    assert lines["frequent"] == ["40", "3", "3", *["0.000"] * 4]
    assert lines["APr"] == ["1.000", "1.000"] and lines["APc"] == ["0.000", "0.000"]
    files = found.save(tmp_path)
    assert "| c117 | 0 | - | - | - | - |" in files["table"].read_text()
    saved = json.loads(files["metrics"].read_text())
    assert len(saved["mask"]["per_class"]) == 120 and saved["protocol"] == "lvis"
    assert saved["mask"]["summary"]["APr"] == 1.0
    with Image.open(files["curves"]) as picture:
        assert picture.width > 500
    again = report.Report.from_dict(saved, found.results)
    assert again.to_dict() == saved and again.markdown() == found.markdown()


def test_no_numbers_stand_beside_other_results(tmp_path):
    lvis_report(12).save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        *("results.json", "metrics.json", "metrics.md", "precision_recall.png")
    }
    report.Report(split="test", images=1, seconds=1.0).save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_few_classes_stand_on_the_console_one_by_one():
    found = lvis_report(12)
    console = Console(file=io.StringIO(), width=160)
    found.print(console)
    assert "c12" in console.file.getvalue() and not found.groups


def test_a_number_that_a_protocol_does_not_have_is_left_empty():
    """Cityscapes has no sizes; COCO's stand beside it."""
    mask = np.eye(40, 50, dtype=bool)
    truth = {
        "images": [dict(id=1, height=40, width=50, void=rle(np.zeros((40, 50))))],
        "categories": [dict(id=26, name="car")],
        "annotations": [entry(mask, 1, 26, id=1, iscrowd=0, area=40)],
    }
    found = report.Report(split="val", images=1, seconds=1.0)
    found.measure(truth, measure.chosen(measure.Settings(), truth))
    text = found.markdown()
    assert "**Cityscapes metrics on val**" in text and "|  | box | mask | mask (COCO) |" in text
    assert "| APs | 0.000 |  | 0.000 |" in text
    assert "box AP 0.000, mask AP -, mask (COCO) AP 0.000" in found.headline  # 40 pixels: too small
