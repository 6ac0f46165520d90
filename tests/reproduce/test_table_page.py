"""report.html of a table: all there is, in one file, and nothing breaks it."""

import base64
import html.parser
import json
import pathlib
import re
import shutil

import pytest

from configs.tables.table import Row, Table
from jaxseg.reproduce import forest, records, results, samples, table_page
from tests.reproduce import made_runs

ODD = '<script>alert("x")</script> & $a_b$ \N{SNOWMAN} | 日本'
ROWS = (
    Row("plain", "configs/demo.py", label="Plain", published={"mask/AP": 34.2}, source="Table 3"),
    Row("deep", "configs/demo.py", overrides={"model.mask_head.convs": 4}, published={"mask/AP": 35.3}),
    Row("odd", label=ODD, evaluate="plain", overrides={"model.test.score": 0.2}),
    Row("never", "configs/demo.py", label="Never run"),
)  # fmt: skip


def made_table(**fields) -> Table:
    return Table(**(dict(title=f"Title {ODD}", rows=ROWS, baseline="plain", notes=ODD) | fields))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    for row, seed, ap in (
        ("plain", 0, 0.3),
        ("plain", 1, 0.32),
        ("deep", 0, 0.33),
        ("deep", 1, 0.34),
    ):
        convs = 4 if row == "deep" else 2
        made_runs.trained(folder, row, seed, ap, ap + 0.05, model__mask_head__convs=convs)
    made_runs.evaluated(folder, "odd", 0, 0.28, 0.35)
    made_runs.job(folder, "odd", 1, status="failed", error=f"ValueError: {ODD}")
    table_page.write(folder, made_table())
    return folder


@pytest.fixture(scope="module")
def text(made):
    return (made / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


class Checker(html.parser.HTMLParser):
    """Sees to it that elements are closed in order, and gathers words and attributes."""

    VOID = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self):
        super().__init__()
        self.open, self.words, self.addresses, self.ids, self.sections = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[k] for k in ("src", "href", "xlink:href") if given.get(k)]
        self.ids += [given["id"]] if "id" in given else []
        self.sections += [given["id"]] if tag == "section" else []
        if tag not in self.VOID:
            self.open.append(tag)
        assert tag != "script"

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        self.words.append(data)


def parsed(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    assert not checker.open
    return checker


def words_of(text: str) -> str:
    return " ".join(" ".join(parsed(text).words).split())  # no-break spaces are spaces, too


def test_the_page_is_well_formed_and_needs_nothing_else(text):
    checker = parsed(text)
    assert all(a.startswith(("data:", "#")) for a in checker.addresses)
    assert not re.findall(r'(?:@import|url\((?!"?#))', text)
    assert {a[1:] for a in checker.addresses if a.startswith("#")} <= set(checker.ids)


def test_everything_asked_for_is_there(text):
    words = words_of(text)
    for expected in (
        "31.00 ± 1.41",
        "+2.50",
        "34.2",
        "+1.1",
        "95 % interval",
        "smallest detectable",
        "Training loss",
        "mask AP in validation",
        "2.5 GiB",
        "model.mask_head.convs",
        "python train.py --config=configs/demo.py:runlocal --workdir=",
        "Never run",
        "not run",
        "1 of 2",
        "jaxlib",
        "Table 3",
        "5 of 6 runs finished, 1 failed, 1 row not run.",
    ):
        assert expected in words, expected


def test_names_are_shown_as_they_are(text):
    words = " ".join(parsed(text).words)
    assert words.count(ODD) >= 5  # title, note, table, error, facts, ...
    assert "<script" not in text


def test_every_row_has_its_picture_of_the_same_images(text):
    alt = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(alt) == samples.IMAGES * 4  # the truth and three rows
    assert base64.b64decode(alt[0])[:3] == b"\xff\xd8\xff"


def test_a_single_seed_has_no_spread_and_the_page_says_so(tmp_path):
    made_runs.trained(tmp_path, "plain", 0, 0.3, 0.35)
    made_runs.trained(tmp_path, "deep", 0, 0.31, 0.35)
    words = page_words(tmp_path, made_table())
    assert "One seed has no spread" in words and "A single pair has no interval" in words
    assert "±" not in words


def page_words(folder, table, jobs=()) -> str:
    return words_of(table_page.write(folder, table, jobs).read_text(encoding="utf-8"))


def test_nothing_has_run(tmp_path):
    words = page_words(tmp_path, made_table())
    assert "Nothing has been run yet." in words and "No row is finished yet." in words


def test_everything_failed(tmp_path):
    for row in ("plain", "deep"):
        made_runs.job(tmp_path, row, 0, status="failed", error="killed by signal 9")
    assert "2 failed" in page_words(tmp_path, made_table())


def test_a_run_under_way_shows_its_curve(tmp_path):
    place = made_runs.job(tmp_path, "plain", 0, status="running")
    made_runs.write_log(place, 0.2, 0.2, steps=6)
    words = page_words(tmp_path, made_table())
    assert "Training loss" in words and "1 running" in words


def test_data_that_is_gone_leaves_the_rest(folder):
    for path in folder.glob("runs/*/seed*/run.json"):
        run = json.loads(path.read_text())
        run["config"]["data"] |= {"source": "coco_json", "root": "/not/there"}
        path.write_text(json.dumps(run))
    words = page_words(folder, made_table())
    assert "The images are not there any more" in words and "31.00 ± 1.41" in words


def test_runs_without_any_config_leave_the_rest(folder):
    for path in folder.glob("runs/*/seed*/run.json"):
        path.unlink()
    assert "do not say which data" in page_words(folder, made_table())


def notes_on_pictures(folder) -> list[str]:
    runs = records.find(folder, made_table())
    found = samples.collect(made_table(), runs, {name: name for name in runs}, count=1)
    assert found.sheet
    return found.notes


def test_several_environments_are_pointed_out(folder, text):
    assert "not all made with the same code" not in text
    path = folder / "runs" / "deep" / "seed1" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"commit": "0123abc"}))
    words = page_words(folder, made_table())
    assert "not all made with the same code" in words and "0123abc" in words


def test_rows_on_other_images_are_not_drawn_beside_them(folder):
    path = folder / "runs" / "deep" / "seed0" / "run.json"
    run = json.loads(path.read_text())
    run["config"]["data"]["shapes"]["train"] = 99  # another training set is no reason
    path.write_text(json.dumps(run))
    assert notes_on_pictures(folder) == []
    run["config"]["data"]["shapes"]["seed"] = 5
    path.write_text(json.dumps(run))
    assert notes_on_pictures(folder) == ["deep was evaluated on other images and is not shown."]


def test_detections_that_are_gone_are_told(folder):
    (folder / "runs" / "deep" / "seed0" / "results.json").unlink()
    assert notes_on_pictures(folder) == ["The detections of deep are not there any more."]


def test_as_many_detections_as_objects_are_drawn():
    scores = [{"score": s} for s in (0.1, 0.9, 0.4, 0.2)]
    assert samples.score_for(scores, {"disc": 1, "square": 1}) == 0.4
    assert samples.score_for(scores, {"disc": 99}) == 0.1
    assert samples.score_for([], {"disc": 1}) == 0.5
    assert samples.score_for(scores, None) == 0.5


def test_the_chart_of_differences_has_the_pairs(made):
    runs = records.find(made, made_table())
    found = results.collect(made, made_table(), runs)
    rows = {row["name"]: row for row in found["rows"]}
    assert forest.pairs(found, rows["deep"], "mask/AP") == pytest.approx([0.03, 0.02])
    assert forest.pairs(found, rows["odd"], "mask/AP") == pytest.approx([-0.02])
    order = [row["label"] for row in found["rows"]]
    assert "hollow diamond" in forest.chart(found, "mask/AP", order)
    assert "hollow diamond" not in forest.chart(found, "box/AP", order)
    assert forest.chart(found, "mask/APl", order) is None


def test_rows_tell_what_they_are_and_what_they_share_with_their_baseline():
    rows = (
        Row("plain", "c", overrides={"seed": 1, "optim.lr": 0.1}),
        Row(
            "deep",
            "c",
            overrides={"seed": 1, "optim.lr": 0.2, "model.x": (1, 2)},
            start_from="plain",
        ),
    )
    table = made_table(rows=rows)
    found = results.collect(pathlib.Path("x"), table, {})
    told = [dict(row["facts"]) for row in table_page.about_rows(found["rows"])]
    assert told[0] == {"config": "c", "overrides": "seed=1, optim.lr=0.1"}
    assert told[1]["overrides"] == "optim.lr=0.2, model.x=[1, 2], and 1 as in plain"
    assert told[1]["starts from"] == "the last checkpoint of plain"


def test_many_rows(tmp_path):
    rows = tuple(Row(f"row{i}", "configs/demo.py", label=f"Row number {i}") for i in range(20))
    for row in rows:
        made_runs.trained(tmp_path, row.name, 0, 0.3, 0.3)
    path = table_page.write(tmp_path, made_table(rows=rows, baseline="row0"))
    assert path.stat().st_size < 8_000_000
    parsed(path.read_text(encoding="utf-8"))
