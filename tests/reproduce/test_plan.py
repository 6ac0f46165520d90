"""The jobs of a table: exact commands, in an order that works, checked before anything is run."""

import itertools

import pytest

from configs.tables.table import Row, Table
from jaxseg.reproduce import options as options_lib
from jaxseg.reproduce import plan, row_config
from jaxseg.reproduce.options import Options

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"
)  # ml_collections

DEMO = "configs/demo.py"
ROWS = (
    Row("late", DEMO, start_from="base", overrides={"model.rpn.pre_nms": (100, 50)}),
    Row("base", DEMO, overrides={"freeze": ("backbone/stem",), "deterministic": True}),
    Row("look", evaluate="late", overrides={"model.test.score": 0.1}),
    Row("alone", DEMO, overrides={"train.steps": 40}),
)
TABLE = Table("T", ROWS, data="", scale="tiny", seeds=2)


def jobs(table=TABLE, **fields):
    return plan.jobs(table, Options("out", **fields))


def test_the_commands_are_those_that_one_would_type():
    late, base, look, alone = (
        next(job for job in jobs() if (job.row, job.seed) == (row.name, 1)) for row in ROWS
    )
    assert base.command == (
        *("python", "train.py", "--config=configs/demo.py:runlocal"),
        *("--workdir=out/runs/base/seed1", "--config.seed=1"),
        *("--config.freeze=('backbone/stem',)", "--config.deterministic=True"),
    )
    assert late.command == (
        *("python", "train.py", "--config=configs/demo.py:runlocal"),
        *("--workdir=out/runs/late/seed1", "--config.seed=1"),
        *("--config.init_from=out/runs/base/seed1", "--config.model.rpn.pre_nms=(100, 50)"),
    )
    assert look.command == (
        *("python", "eval.py", "--workdir=out/runs/late/seed1"),
        *("--config=configs/demo.py:runlocal", "--config.model.rpn.pre_nms=(100, 50)"),
        *("--config.model.test.score=0.1", "--out=out/runs/look/seed1"),
    )
    assert (late.needs, base.needs, look.needs, alone.needs) == ("base", None, "late", None)
    assert (base.steps, look.steps, alone.steps) == (10, 0, 40)
    assert str(base.folder) == "out/runs/base/seed1"


def test_what_is_needed_comes_first_and_seeds_one_after_another():
    order = ["base", "late", "look", "alone"]
    assert [(job.seed, job.row) for job in jobs()] == list(itertools.product((0, 1), order))
    assert {job.seed for job in jobs(seeds=4)} == {0, 1, 2, 3}


def test_rows_are_chosen_with_those_that_they_start_from():
    assert {job.row for job in jobs(rows=("look",))} == {"base", "late", "look"}
    assert plan.added(TABLE, ("look",)) == ["late", "base"]
    assert [job.row for job in jobs(rows=("al*", "base"), seeds=1)] == ["base", "alone"]
    assert plan.added(TABLE, ("al*", "base")) == []
    with pytest.raises(
        ValueError, match=r"no row 'bse' \(did you mean 'base'\?\). Rows: late, base"
    ):
        jobs(rows=("bse",))


def test_runs_that_are_there_without_being_asked_for_have_todays_commands(tmp_path):
    for place in ("base/seed0", "base/seed5", "alone/seed0", "alone/seedling", "gone/seed0"):
        (tmp_path / "runs" / place).mkdir(parents=True)
    wanted = Options(str(tmp_path), rows=("base",), seeds=1, settings=("optim.lr=0.1",))
    chosen = plan.jobs(TABLE, wanted)
    found = plan.others(TABLE, wanted, chosen)
    assert [job.name for job in found] == ["base seed 5", "alone seed 0"]
    for job in found:
        assert f"--workdir={job.folder}" in job.command
        assert "--config.optim.lr=0.1" in job.command
    assert len(plan.others(TABLE, Options(str(tmp_path / "new")), ())) == 0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_shards_are_a_partition_that_keeps_chains_together(count):
    shards = [jobs(seeds=3, shard=(i + 1, count)) for i in range(count)]
    names = [job.name for shard in shards for job in shard]
    assert sorted(names) == sorted(job.name for job in jobs(seeds=3))
    for shard in shards:
        done = set()
        for job in shard:
            assert job.needs is None or (job.needs, job.seed) in done
            done.add((job.row, job.seed))
    steps = [sum(job.steps for job in shard) for shard in shards]
    assert max(steps) <= sum(steps) / count + 40  # the largest piece
    assert count == 1 or max(steps) < sum(steps)


def test_the_data_and_the_scale_become_arguments_of_the_config(tmp_path):
    table = Table(
        "T", (Row("a", "configs/mask_rcnn.py:r50"), Row("b", "configs/mask_rcnn.py")), seeds=1
    )
    one, two = jobs(table, data=f"coco,root={tmp_path}", scale="tiny")
    assert one.command[2] == f"--config=configs/mask_rcnn.py:r50,coco,root={tmp_path},runlocal"
    assert two.command[2] == f"--config=configs/mask_rcnn.py:coco,root={tmp_path},runlocal"
    assert [word for word in one.lacks if "val2017" in word]
    for part in ("annotations/instances_train2017.json", "train2017", "val2017"):
        assert f"{tmp_path}/{part} (data: --data=coco,root=DIR or root=DIR)" in one.lacks
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "annotations/instances_val2017.json").write_text("")
    assert jobs(table, data=f"coco,root={tmp_path}", scale="tiny")[0].lacks == ()
    prepared = jobs(table, data=f"coco,tfds,root={tmp_path}", scale="tiny")[0]
    assert all("/coco2017/" in word and ".index.json" in word for word in prepared.lacks)
    assert prepared.lacks


def test_weights_that_a_row_cannot_do_without(tmp_path):
    rows = (
        Row(
            "coco", "configs/mask_rcnn.py:coco", weights="r50", overrides={"data.source": "shapes"}
        ),
        Row("small", "configs/demo.py:runlocal", weights="r50"),
    )
    table = Table("T", rows, data="", seeds=1)
    lacking = {job.row: job.lacks for job in jobs(table)}
    assert lacking["coco"] == ("weights r50 (--weights=r50=FILE; frozen layers need them)",)
    assert not lacking["small"]  # nothing of it is frozen
    file = tmp_path / "r50.pth"
    coco = jobs(table, weights={"r50": str(file)})[0]
    assert coco.lacks == (f"{file} (--weights=r50={file})",)
    file.write_text("")
    coco = jobs(table, weights={"r50": str(file)})[0]
    assert not coco.lacks and f"--config.init_from={file}" in coco.command
    with pytest.raises(ValueError, match="no row starts from 'r51'; known are r50"):
        jobs(table, weights={"r51": "x"})
    with pytest.raises(ValueError, match="at --scale=tiny all rows train small models"):
        jobs(table, scale="tiny", weights={"r50": "x"})


MISTAKES = {
    "a config": (
        Row("x", "configs/none.py:r50"),
        r"Row 'x': there is no config file configs/none\.py in /.*\. Run this from the top folder",
    ),
    "an absolute config": (Row("x", "/n/x.py:a"), r"Row 'x': there is no config file /n/x\.py\.$"),
    "an argument": (Row("x", f"{DEMO}:tiny"), "Row 'x': Unknown config argument 'tiny'. Allowed"),
    "a key": (
        Row("x", DEMO, overrides={"optim.lrr": 1.0}),
        r"Row 'x': unknown key optim\.lrr \(did you mean optim\.lr",
    ),
    "a key with a value": (
        Row("x", DEMO, overrides={"data.root=a": "b"}),
        "Row 'x': 'data.root=a' is no key",
    ),
    "a kind": (Row("x", DEMO, overrides={"train.steps": 1.5}), "Row 'x': .*train.steps=1.5"),
    "a word": (Row("x", DEMO, overrides={"optim.lr": "high"}), "Row 'x': .*optim.lr=high"),
    "a flag": (Row("x", DEMO, overrides={"train.steps": True}), "Row 'x': .*train.steps=True"),
    "a group": (
        Row("x", DEMO, overrides={"optim": {"lr": 1}}),
        r"Row 'x': .*set each .*optim\.NAME",
    ),
    "a group by a value": (Row("x", DEMO, overrides={"optim": 1}), "Row 'x': .*optim=1"),
    "training": (Row("x", DEMO, overrides={"train.steps": 0}), "Row 'x': config.train.steps=0"),
    "the model": (Row("x", DEMO, overrides={"model.rpn.convs": -1}), "Row 'x': .*model.rpn.convs"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_row_is_told_also_if_it_is_not_asked_for(mistake):
    wrong, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        jobs(Table("T", (*ROWS, wrong), data="", scale="tiny"), rows=("base",))


def test_settings_for_all_rows():
    wanted = ("--config.model.dtype=bfloat16", "--config.optim.lr=0.1")
    for job in jobs(settings=("model.dtype=bfloat16", "config.optim.lr=0.1")):
        assert [word for word in job.command if word in wanted] == list(wanted)
    with pytest.raises(
        ValueError, match=r"--set=train.steps=3: row 'alone' sets train.steps itself \(40\)"
    ):
        jobs(settings=("train.steps=3",))
    with pytest.raises(ValueError, match=r"Row 'late': unknown key optim\.x"):
        jobs(settings=("optim.x=3",))


def test_every_kind_of_value_comes_through_the_command_line():
    values = {
        "data.buckets": ((128, 128), (128, 160)),
        "model.rpn.aspect_ratios": (1.0,),
        "freeze": (),
        "optim.lr": 1,
        "optim.clip_norm": 1e-7,
        "deterministic": False,
        "data.root": "a folder, with = and 'quotes'",
    }
    arguments = [row_config.assignment(key, value) for key, value in values.items()]
    row_config.check_values(row_config.load([f"--config={DEMO}", *arguments]), values)


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "1/0", "a/b", "1/2/3", "-1/2"])
def test_shards_that_are_none(text):
    with pytest.raises(ValueError, match=f"--shard={text}: i/n is needed"):
        options_lib.parse_shard(text)


def test_a_work_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert options_lib.parse_workdir("~/runs") == "/home/me/runs"
    for text in ("", " "):
        with pytest.raises(ValueError, match=f"--workdir={text}: a folder is needed"):
            options_lib.parse_workdir(text)


def test_programs_are_looked_for_where_the_runner_was_started(tmp_path, monkeypatch):
    options_lib.check_programs(Options("out"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no train\.py in .*top folder of a checkout"):
        options_lib.check_programs(Options("out"))


def test_words_of_the_command_line():
    assert options_lib.parse_shard("2/4") == (2, 4)
    assert options_lib.parse_weights(["r50=a=b", "r101=c"]) == {"r50": "a=b", "r101": "c"}
    for words, message in ((["r50"], "NAME=FILE"), (["a=1", "a=2"], "a is given twice, 1 and 2")):
        with pytest.raises(ValueError, match=message):
            options_lib.parse_weights(words)
    for words, message in (
        (["optim.lr"], "KEY=VALUE"),
        (["a=1", "a=2"], "a is given twice"),
        (["seed=3"], "see --seeds"),
        (["config.init_from=x"], "see --weights"),
    ):
        with pytest.raises(ValueError, match=message):
            options_lib.parse_settings(words)
