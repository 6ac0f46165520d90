"""A mistake in a table is told in one message that names the row."""

import dataclasses

import pytest

from configs.tables.table import Row, Table
from jaxseg.reproduce import tables

BASE = Row(name="base", config="configs/demo.py")
LOOK = Row(name="look", evaluate="base", overrides={"model.test.score": 0.1})


def table(*rows, **fields):
    return Table(title="T", rows=(BASE, LOOK, *rows), **fields)


def row(name="new", **fields):
    return Row(name=name, **{"config": "configs/demo.py", **fields})


def test_a_right_table_passes():
    every = {f"{kind}/{m}": 1.0 for kind in ("mask", "box", "boundary") for m in ("AP", "APs")}
    tables.check(table(row(start_from="base", published=every, baseline="base"), baseline="base"))


def forced(**fields):
    """A row with a field that its own code would not let through."""
    new = row()
    for key, value in fields.items():
        object.__setattr__(new, key, value)
    return table(new)


MISTAKES = {
    "no comma": (
        Table("T", BASE),
        r"^rows must be a tuple of Rows: is a comma missing, rows=\(Row",
    ),
    "no rows at all": (Table("T", None), "^rows=None: must be a tuple"),
    "a dict for a row": (table({"name": "a"}), r"rows\[2\] is {'name': 'a'}: must be a Row, Row\("),
    "a class for a row": (table(Row), r"rows\[2\] is <class .*>: must be a Row"),
    "a title": (Table(3, (BASE,)), "^title=3: must be a string"),
    "data": (table(data=None), "^data=None: must be a string"),
    "a scale": (table(scale=["full"]), r"^scale=\['full'\]: must be a string"),
    "a word for columns": (
        table(columns="mask/AP"),
        r"^columns='mask/AP': .* needs a comma, \(x,\)",
    ),
    "no overrides": (table(row(overrides=None)), "row 'new': overrides=None: must be a dictionary"),
    "overrides": (table(row(overrides=["a=1"])), r"row 'new': overrides=\['a=1'\]: must be a dict"),
    "a key": (table(row(overrides={3: 1})), "row 'new': a key of overrides=3: must be a string"),
    "a config": (table(row(config=5)), "row 'new': config=5: must be a string"),
    "a label": (table(row(label=5)), "row 'new': label=5: must be a string"),
    "a label that is none": (forced(label=None), "row 'new': label=None: must be a string"),
    "a source": (table(row(source=["a"])), r"row 'new': source=\['a'\]: must be a string"),
    "a row for a name": (
        table(row(start_from=BASE)),
        r"row 'new': start_from=Row\(name=.* \.\.\.:",
    ),
    "published": (table(row(published=34.2)), r"row 'new': published=34\.2: must be a dictionary"),
    "a flag published": (
        table(row(published={"mask/AP": True})),
        "published mask/AP=True: a number",
    ),
    "nothing published": (table(row(published={"mask/AP": None})), "published mask/AP=None: a num"),
    "seeds, a half": (table(seeds=1.5), "^seeds=1.5: must be a whole number"),
    "no rows": (Table("T", ()), "the table has no rows"),
    "a name": (table(row("a/b")), "called 'a/b': a name"),
    "a hidden name": (table(row("..")), r"called '\.\.'"),
    "an option": (table(row("-x")), "called '-x'"),
    "a long name": (table(row("x" * 101)), "1 to 100"),
    "a name twice": (table(row("Base")), "several rows are called Base, base"),
    "scale": (table(scale="large"), "scale='large': allowed are full, small, tiny"),
    "seeds": (table(seeds=0), "seeds=0: must be"),
    "seeds, a flag": (table(seeds=True), "seeds=True: must be"),
    "the baseline": (
        table(baseline="bas"),
        r"baseline: there is no row 'bas' \(did you mean 'base'",
    ),
    "a baseline": (table(row(baseline="x")), "row 'new': baseline: there is no row 'x'"),
    "columns": (table(columns=("mask/ap",)), "columns has 'mask/ap': known are mask, box"),
    "start_from": (table(row(start_from="bse")), "row 'new': start_from: .*did you mean 'base'"),
    "itself": (table(row(start_from="new")), "row 'new': start_from is the row itself"),
    "evaluate": (table(row(config="", evaluate="x")), "row 'new': evaluate: there is no row 'x'"),
    "nothing": (table(row(config="")), "row 'new': it has neither a config"),
    "both": (table(row(evaluate="base")), "row 'new': it only evaluates 'base', .*; config has no"),
    "weights too": (
        table(row(start_from="base", weights="r50")),
        r"row 'new': it starts from a row \(start_from\) and from weights",
    ),
    "weights of an evaluation": (
        table(row(config="", evaluate="base", weights="r50")),
        "row 'new': it only evaluates .* weights has no meaning",
    ),
    "no checkpoint": (table(row(start_from="look")), "'look' is only evaluated and has no"),
    "no checkpoint to evaluate": (
        table(row(config="", evaluate="look")),
        "row 'new': evaluate='look' is itself only evaluated; name 'base'",
    ),
    "a key of the model": (
        table(row(config="", evaluate="base", overrides={"model.rpn.convs": 2})),
        r"row 'new': .*model\.rpn\.convs is a key of the training or the model. .*model\.test",
    ),
    "the seed": (table(row(overrides={"seed": 3})), "row 'new': overrides has 'seed', .* --seeds"),
    "init_from": (table(row(overrides={"init_from": "x"})), "overrides has 'init_from'"),
    "a metric": (table(row(published={"mask/mAP": 1})), "row 'new': published has 'mask/mAP'"),
    "a kind": (table(row(published={"AP": 1})), "row 'new': published has 'AP': known are mask"),
    "a number": (table(row(published={"mask/AP": "34"})), "published mask/AP='34': a number"),
    "a circle": (
        table(row("a", start_from="b"), row("b", start_from="c"), row("c", start_from="b")),
        "row 'b': .* in a circle: 'b' from 'c' from 'b'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake):
    wrong, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        tables.check(wrong)


def test_a_table_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "tables"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text(
        "from configs.tables.table import Row, Table\n"
        "def get_table():\n    return Table('Mine', (Row('a', 'configs/demo.py'),))\n"
    )
    (folder / "table.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert tables.load("mine").title == "Mine"
    assert tables.load(str(folder / "mine.py")).rows[0].label == "a"
    with pytest.raises(
        FileNotFoundError, match=r"no table 'mien' \(did you mean 'mine'\?\). Tables: mine\."
    ):
        tables.load("mien")
    with pytest.raises(FileNotFoundError, match="no table 'table'"):
        tables.load("table")
    with pytest.raises(FileNotFoundError, match=r"no table folder/x\.py"):
        tables.load("folder/x.py")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="top folder of a checkout"):
        tables.load("mine")


BROKEN = {
    "def get_table(:": r"line 1: SyntaxError",
    "import sys\ndef get_table():\n    sys.exit(0)": "line 3: SystemExit: 0",
    "def get_table(x):\n    return x": r"read: TypeError: get_table\(\) missing 1",
    "import configs.nothing_like_this": "No module named .*Run this from the top folder of a checkout",
    "import nothing_like_this": "line 1: ModuleNotFoundError: No module named",
    "def get_table():\n    return 1 / 0": "line 2: ZeroDivisionError",
    "x = 1": r"is no table: it needs a function get_table\(\)",
    "def get_table():\n    return [1]": r"is no table: it needs",
    "from configs.tables.table import Row, Table\n"
    "def get_table():\n    return Table('T', (Row('a'),))": r"t\.py: row 'a': it has neither",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_table(tmp_path, text):
    path = tmp_path / "t.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=BROKEN[text]):
        tables.load(str(path))


def test_what_a_row_needs():
    assert tables.need(BASE) is None
    assert tables.need(LOOK) == "base"
    assert tables.need(dataclasses.replace(BASE, start_from="x")) == "x"
