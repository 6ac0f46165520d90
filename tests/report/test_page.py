"""The whole page, of runs in every state: what it shows, and what it says about what it cannot show."""

import copy
import html.parser
import json
import re
import shutil

import pytest
from made_runs import detections, rle, write_data, write_run

from jaxseg.report import __main__ as program
from jaxseg.report import build, folder, page
from jaxseg.training import workdir

VOID = {"meta", "link", "img", "br", "line", "path", "use"}
HOSTILE = [
    "<script>alert(1)</script>",
    "$x_{1}$ & \"q\" 'p'",
    "日本語 猫",
    "{{ 7 * 7 }}",
    "</title>",
]


class Page(html.parser.HTMLParser):
    """Checks that tags are closed and notes what a browser would fetch or run."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.addresses, self.ids, self.text = [], [], [], [], ""
        self.all_ids = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        self.addresses += [v for k, v in attributes.items() if k in ("href", "src", "xlink:href")]
        self.all_ids += [attributes["id"]] if "id" in attributes else []
        if attributes.get("id") and tag in ("section", "h2"):
            self.ids.append(attributes["id"])
        assert not any(name.startswith("on") for name in attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def report(*paths, **options):
    paths = list(paths)
    names = folder.labels(paths)
    text = build.build({n: folder.read(p) for n, p in zip(names, paths, strict=True)}, **options)
    found = Page(text)
    found.text = " ".join(found.text.split())
    assert "script" not in found.tags
    assert len(found.all_ids) == len(set(found.all_ids))
    referred = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    assert referred <= set(found.all_ids)
    assert all(a.startswith(("#", "data:")) for a in found.addresses), found.addresses
    assert {a[1:] for a in found.addresses if a.startswith("#") and a[1:] in found.ids} == set(
        found.ids
    )
    return found, text


def test_a_finished_run_has_every_section(finished, three_classes):
    found, text = report(finished)
    assert found.ids == ["ap", "curves", "pr", "classes", "found", "images", "run"]
    final = folder.read(finished).final
    for kind in ("mask", "box"):
        assert page.percent(final[kind]["summary"]["AP"]) in found.text
    for name in ("cat", "dog", "cow", "missed", "background", "Worst", "Best", "quality"):
        assert name in found.text
    assert 'class="note"' not in text
    assert found.tags.count("img") >= 4 and len(text) < 8e6


def test_a_run_in_progress_shows_its_curves_and_says_so(tmp_path, three_classes):
    root, dataset = three_classes
    path = write_run(tmp_path / "run", root, dataset, logged=12, torn=True)
    found, _ = report(path)
    assert found.ids == ["curves", "run"]
    assert (
        "run is not finished (not finished, step 12 of 20): the page shows its curves."
        in found.text
    )
    assert "30.0 mask AP" in found.text and "validation at step 10" in found.text
    (path / "log.jsonl").unlink()
    found, _ = report(path)
    assert found.ids == ["run"] and "nothing to show but its config" in found.text


def test_a_failed_run_says_why(tmp_path, three_classes):
    path = write_run(tmp_path / "run", *three_classes, logged=2)
    noted = dict(status="failed", error="train.py: the loss is <nan>", command=["python"])
    (path / "job.json").write_text(json.dumps(noted))
    found, _ = report(path)
    assert "run has failed: train.py: the loss is <nan>" in found.text
    assert "failed, step 2 of 20" in found.text


def test_damaged_files_are_named(tmp_path, finished):
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / "finished.json").write_text('{"split": "val"}')
    (path / "metrics.json").write_text("[3]")
    found, _ = report(path)
    assert "run: left out, since damaged: finished.json, metrics.json." in found.text


def test_a_run_without_detections(tmp_path, three_classes):
    root, dataset = three_classes
    found, _ = report(write_run(tmp_path / "run", root, dataset, []))
    assert "no detections at all: its AP is 0" in found.text
    assert "0.0 mask AP" in found.text and "missed" in found.text


def test_a_run_without_annotations(tmp_path, finished):
    root = tmp_path / "data"
    dataset = write_data(root, ["cat", "dog", "cow"], annotated=False)
    path = write_run(tmp_path / "run", root, dataset)
    shutil.copy(finished / "results.json", path)
    found, _ = report(path)
    assert found.ids == ["curves", "images", "run"]
    assert "has no annotations, so nothing is measured" in found.text
    assert "no annotations" in found.text and "ground truth" not in found.text
    assert found.tags.count("img") == 6


def test_data_that_is_gone_or_has_changed_is_said(tmp_path, finished, three_classes):
    _, dataset = three_classes
    results = detections(dataset)
    path = write_run(tmp_path / "gone", tmp_path / "nosuch", dataset, results)
    found, _ = report(path)
    assert found.ids == ["ap", "curves", "classes", "run"]
    assert (
        "no pictures, confusions and curves of precision, since its data cannot be opened"
        in found.text
    )
    root = tmp_path / "data"
    write_data(root, ["cat", "dog", "cow"], images=2)
    found, _ = report(write_run(tmp_path / "changed", root, dataset, results))
    assert "its results do not fit its data" in found.text and "ap" in found.ids


def test_one_class_needs_no_bars(tmp_path):
    root = tmp_path / "data"
    dataset = write_data(root, ["nucleus"])
    found, text = report(write_run(tmp_path / "run", root, dataset, detections(dataset)))
    assert "AP of each class" not in text and "nucleus" in found.text
    assert "confused" not in found.text and "missed" in found.text


@pytest.mark.parametrize("count", [150, pytest.param(1203, marks=pytest.mark.slow)])
def test_many_classes(tmp_path, count):
    root, names = tmp_path / "data", [f"class number {i}" for i in range(count)]
    dataset = write_data(root, names, images=60)
    found, text = report(write_run(tmp_path / "run", root, dataset, detections(dataset)))
    assert "The best 20 of" in text and "The worst 20 of" in text
    assert f"All {count} classes in numbers" in found.text
    assert all(name in found.text for name in names)
    assert f"The 20 of {count:,} classes that are confused most" in found.text
    assert found.text.count("other classes") >= 2
    assert len(text) < 8e6


def test_names_are_text_wherever_they_stand(tmp_path):
    root = tmp_path / "data"
    dataset = write_data(root, HOSTILE, images=9)
    path = write_run(tmp_path / "<b>run & $x$</b>", root, dataset, detections(dataset))
    found, text = report(path)
    assert "<script" not in text and "<b>run" not in text and "{{ 7 * 7 }}" in found.text
    assert all(name in found.text for name in HOSTILE)


def test_several_runs_stand_beside_each_other(tmp_path, finished, three_classes):
    root, dataset = three_classes
    changes = {"optim.lr": 0.123}
    other = write_run(tmp_path / "second", root, dataset, detections(dataset, kept=2), **changes)
    found, text = report(finished, other)
    assert "2 runs compared" in found.text and 'class="note"' not in text
    assert "optim.lr 0.02 0.123" in found.text
    assert "Share of objects found" in text and found.tags.count("h4") >= 2
    sheet = re.findall(r'<div class="sheet">(.*?)</div>\s*</div>', text, re.DOTALL)
    assert sheet and all(part.count("<img") == 3 for part in sheet)
    assert 'class="best"' in text


def test_runs_that_cannot_be_compared_are_told(tmp_path, finished):
    root = tmp_path / "data"
    dataset = write_data(root, ["cat", "horse"])
    other = write_run(
        tmp_path / "other", root, dataset, detections(dataset), **{"eval.max_detections": 200}
    )
    found, text = report(finished, other)
    assert "The runs have different classes (1 of 4 are common to all)" in found.text
    assert "different images or objects" in found.text and "100, 200" in found.text
    assert "Data of first" in found.text and "Data of other" in found.text
    assert 'class="best"' not in text


def test_an_evaluation_alone(tmp_path, finished):
    for name in ("results.json", "metrics.json"):
        shutil.copy(finished / name, tmp_path / name)
    found, _ = report(tmp_path)
    assert found.ids == ["ap", "classes", "run"]
    assert "the config of the run is not in this folder" in found.text


def test_an_evaluation_that_says_what_it_is_of_has_its_pictures(tmp_path, finished):
    for name in ("results.json", "metrics.json"):
        shutil.copy(finished / name, tmp_path / name)
    config, categories = workdir.load_run(finished)
    workdir.save_evaluation(tmp_path, config, categories, run="runs/of this", step=20)
    found, _ = report(tmp_path)
    assert found.ids == ["ap", "pr", "classes", "found", "images", "run"]
    assert "evaluation of step 20" in found.text and "evaluated run runs/of this" in found.text


def test_protocols_are_drawn_and_told_apart(tmp_path, finished, three_classes):
    """The same data with the fields of Cityscapes, and COCO's Boundary AP."""
    root, dataset = tmp_path / "data", copy.deepcopy(three_classes[1])
    write_data(root, ["cat", "dog", "cow"])
    for image in dataset["images"]:
        image["void"] = rle(0, 0, 0, 0)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(dataset))
    city = write_run(tmp_path / "city", root, dataset, detections(dataset))
    found, text = report(finished, city)
    assert "by different protocols, COCO and Cityscapes" in found.text
    assert "Mask (COCO)" in text and found.text.count("Mean over IoU 0.50") >= 3
    edges = write_run(
        tmp_path / "edges", *three_classes, detections(dataset), **{"eval.boundary": True}
    )
    found, text = report(edges)
    assert "boundary AP" in found.text and "Boundary" in text
    assert "different protocols" not in found.text


def test_an_evaluation_with_other_settings_tells_them(tmp_path, three_classes, finished):
    path = write_run(tmp_path / "run", *three_classes)
    out = path / "eval" / "val-20"
    out.mkdir(parents=True)
    for name in ("results.json", "metrics.json"):
        shutil.copy(finished / name, out / name)
    config, categories = workdir.load_run(path)
    config.eval.max_detections = 50
    workdir.save_evaluation(out, config, categories, run=path, step=20)
    found, _ = report(path)
    assert "evaluated with eval.max_detections=50 (the run: 100)" in found.text


def test_the_score_may_be_given(finished):
    found, _ = report(finished, score=0.9)
    assert "0.90" in found.text


def test_templates_escape_and_miss_nothing():
    with pytest.raises(Exception, match="'notes' is undefined"):
        page.render("run.html", "jaxseg.report", title="x", several=False)


@pytest.mark.parametrize(
    "value, text",
    [(None, "–"), (-1, "–"), (float("nan"), "–"), (0.3456, "34.6"), (-0.012, "−1.2")],  # noqa: RUF001
)
def test_percent(value, text):
    assert page.percent(value) == text


def test_the_program_writes_where_it_is_told(tmp_path, finished, monkeypatch, capsys):
    class Flag:
        def __init__(self, value):
            self.value = value

    monkeypatch.setattr(program, "_OUT", Flag(str(tmp_path / "new" / "page.html")))
    monkeypatch.setattr(program, "_SPLIT", Flag(None))
    monkeypatch.setattr(program, "_SCORE", Flag(0.5))
    program.main(["program", str(finished), str(finished)])  # the same run twice is one
    text = (tmp_path / "new" / "page.html").read_text()
    assert text.startswith("<!DOCTYPE html>") and "first" in text
    assert "page.html (" in capsys.readouterr().out
    monkeypatch.setattr(program, "_OUT", Flag(str(tmp_path)))
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file"):
        program.main(["program", str(finished)])
