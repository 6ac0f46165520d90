"""Charts: what is drawn stands in the SVG, in the colours of the page."""

import re
import warnings
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest

from jaxseg.report import charts, curves
from jaxseg.report.folder import RunFolder

LINE = [([0, 1, 2], [3.0, 1.0, 2.0])]
MINUS = charts.MINUS
WORDS = dict(title="Loss", xlabel="step", ylabel="loss")


def texts(markup):
    """What stands in the SVG, and that it is well-formed."""
    root = ET.fromstring(re.search(r"<svg viewBox.*?</svg>", markup, re.DOTALL).group(0))
    return [(e.text or "").strip() for e in root.iter() if e.tag.endswith("text")]


def test_axes_and_series_are_labelled():
    chart = charts.lines({"first": LINE, "second": LINE}, **WORDS)
    assert {"Loss", "step", "loss"} <= set(texts(chart))
    assert "<li>" in chart and "first" in chart and "second" in chart
    assert "var(--s0)" in chart and "var(--s1)" in chart and "var(--ink)" in chart
    assert not re.search(r"#0[0147]0[258]0[369]", chart)  # no colour of the drawing is left


def test_a_series_keeps_its_colour_where_others_are_missing():
    chart = charts.lines({"second": LINE}, order=["first", "second"], **WORDS)
    assert "var(--s1)" in chart and "var(--s0)" not in chart
    many = [f"run {i}" for i in range(20)]
    looks = [charts.style(i) for i in range(20)]
    assert len(set(map(str, looks))) == 20
    assert charts.key(many).count("<li>") == 20


def test_names_are_no_markup_and_no_mathematics():
    name = '<script>alert(1)</script> $x_{1}$ & "q" \n end'
    for chart in (
        charts.lines({name: LINE}, title=name, xlabel=name, ylabel=name),
        charts.bars({name: {name: 1.0}}, title=name, xlabel=name),
    ):
        assert "<script" not in chart
        assert any("$x_{1}$" in text or "…" in text for text in texts(chart))


def test_wide_characters_have_their_room_and_raise_no_warning():
    names = ["日本語の名前", "cat", "日本語の名前二"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = charts.bars({"run": dict.fromkeys(names, 1.0)}, title="AP", xlabel="%")
    assert [t for t in texts(chart) if t in names] == names
    assert charts.shortened("日" * 30, 11) == "日日…日日"
    assert charts.shortened("abcdefghijklmnop", 7) == "abc…nop"


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [([], [])]}, {"a": [([1], [np.nan])]}])
def test_nothing_to_draw_is_said(series):
    assert "Nothing to show" in charts.lines(series, **WORDS)
    assert "Nothing to show" in charts.bars({}, title="AP", xlabel="%")


def test_long_lines_become_short_and_keep_their_peaks():
    xs = np.arange(100_000)
    ys = np.sin(xs / 5000)
    ys[54_321] = 9
    short = charts._thinned(xs, ys)
    assert len(short[0]) <= charts.POINTS + 2 and short[1].max() == 9
    assert (short[0][0], short[0][-1]) == (0, 99_999)
    assert len(charts.lines({"a": [(xs, ys)]}, smooth=True, **WORDS)) < 40_000


def test_the_running_mean_is_a_mean():
    values = np.random.default_rng(0).normal(size=50)
    smooth = charts._running_mean(values, 3)
    assert smooth[10] == pytest.approx(values[7:14].mean())
    assert smooth[0] == pytest.approx(values[:4].mean())


def test_seeds_are_thin_lines_of_one_colour():
    chart = charts.lines({"a": LINE * 3}, legend=False, **WORDS)
    assert chart.count("stroke: var(--s0); stroke-width: 0.9") == 3


def test_a_stacked_histogram_tells_its_parts():
    parts = {"found": [1, 2, 3], "as <another>": [0, 1, 0], "missed": [4, 0, 0]}
    chart = charts.stacked((8, 16), parts, title="Sizes", xlabel="side", ylabel="objects")
    assert {"8", "16", "Sizes", "side"} <= set(texts(chart))
    assert "found (6)" in chart and "as &lt;another&gt; (1)" in chart and "missed (4)" in chart


def test_the_same_chart_is_the_same_text_and_settings_stay():
    before = dict(matplotlib.rcParams)
    one, two = (charts.lines({"a": LINE}, **WORDS) for _ in range(2))
    assert one == two
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.5, "0.5"),
        (-2, f"{MINUS}2"),
        (12345, "12,345"),
        (0.00002, f"2e{MINUS}5"),
        (0.0005, "0.0005"),
    ],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


def test_a_page_may_hold_many_charts():
    chart = charts.lines({"a": LINE}, **WORDS)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", chart)
    ids = re.findall(r' id="([^"]+)"', chart)
    assert all(f"#{i}" in chart for i in ids)  # only what is referred to is named


def test_the_stages_of_a_cascade_are_told_apart(tmp_path):
    names = ("step", "box_0", "box_1", "box_10", "roi_accuracy_1", "mask", "mine_2")
    lines = [dict.fromkeys(names, value) | {"step": step} for step, value in ((1, 2.0), (2, 1.0))]
    found = dict(curves.groups({"a": RunFolder(tmp_path, train=lines)}, ["a"]))
    titles = {
        heading: [
            re.search("Box head[^<:]*: box[^<:]*|Mask head|Accuracy[^<:]*|mine_2", str(c))[0]
            for c in made
        ]
        for heading, made in found.items()
    }
    boxes = [f"Box head: box, stage {stage}" for stage in (0, 1, 10)]
    assert titles["Losses and learning rate"] == [*boxes, "Mask head", "mine_2"]
    (accuracy,) = titles[curves.MORE]
    assert accuracy.endswith("classes, stage 1")
