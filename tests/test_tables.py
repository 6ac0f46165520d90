"""The tables of configs/tables and of the guide, and what their configs become at each scale."""

import importlib
import pathlib
import re
import textwrap

import pytest

from configs import backbones, common, mask_rcnn, recipes
from configs.tables import mask_rcnn as mask_rcnn_table
from configs.tables import table, tiny
from jaxseg import methods
from jaxseg.data import settings
from jaxseg.reproduce import options, plan, statistics, tables
from jaxseg.training import optimizer, workdir

GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "reproduce.md"
FOLDER = pathlib.Path(table.__file__).parent
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "table")


ROWS = [
    pytest.param(row, id=f"{name}.{row.name}")
    for name in NAMES
    for row in importlib.import_module(f"configs.tables.{name}").get_table().rows
]


@pytest.mark.parametrize("name", NAMES)
def test_every_table_can_be_run(name):
    tables.check(importlib.import_module(f"configs.tables.{name}").get_table())


@pytest.mark.parametrize("name", NAMES)
def test_published_numbers_have_a_column_and_a_source(name):
    made = importlib.import_module(f"configs.tables.{name}").get_table()
    for row in made.rows:
        assert set(row.published) <= set(made.columns), row.name
        assert bool(row.published) == bool(row.source), row.name


METHODS = pathlib.Path(__file__).parents[1] / "docs" / "methods"


@pytest.mark.parametrize(
    "name", ["mr_rcnn", "maskplus", "cascade_mask_rcnn", "atmask_rcnn", "brefine"]
)
def test_a_methods_page_has_the_published_numbers_of_its_table(name):
    """Both were typed from the paper: a slip in one of them shows."""
    page = (METHODS / f"{name}.md").read_text()
    numbers = set(re.findall(r"\d+\.\d", page))
    for row in importlib.import_module(f"configs.tables.{name}").get_table().rows:
        both = [row.published.get(column) for column in ("box/AP", "mask/AP")]
        if None not in both and name in ("mr_rcnn", "cascade_mask_rcnn"):
            assert f"{both[0]} / {both[1]}" in page, row.name
        assert {f"{v}" for v in row.published.values()} <= numbers, row.name


@pytest.mark.parametrize(
    ("data", "scale"),
    [
        *(("coco,root=DIR", ""), ("root=DIR", ""), ("shapes", "")),
        *(("root=DIR", ",small"), ("shapes", ",small"), ("shapes", ",runlocal")),
    ],
)
@pytest.mark.parametrize("row", [p for p in ROWS if p.values[0].config])
def test_configs_of_rows_are_allowed_on_all_data_at_every_scale(row, data, scale):
    file, _, words = row.config.partition(":")
    module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    config = module.get_config(f"{words},{data}{scale}")
    config.update_from_flattened_dict(dict(row.overrides))
    workdir.check_keys(config, common.base())
    settings.check(config.data)
    optimizer.make_schedule(config)
    config.model.num_classes = 3
    methods.build(config)


def test_a_row_is_called_by_its_name_without_a_label():
    assert table.Row(name="plain").label == "plain"
    assert table.Row(name="plain", label="Plain").label == "Plain"


def test_what_a_row_is_compared_with():
    plain, other = table.Row(name="plain"), table.Row(name="other")
    third = table.Row(name="third", baseline="other")
    made = table.Table(title="", rows=(plain, other, third), baseline="plain")
    assert [made.baseline_of(row) for row in made.rows] == ["", "plain", "other"]
    assert made.row("third") is third
    assert table.Table(title="", rows=(plain,)).baseline_of(plain) == ""


def test_the_tiny_table_has_every_kind_of_row():
    made = tiny.get_table()
    assert any(row.start_from for row in made.rows) and any(row.evaluate for row in made.rows)
    assert all(made.baseline_of(row) == "plain" for row in made.rows[1:])
    assert (made.data, made.scale, made.seeds) == ("shapes", "tiny", 2)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("atmask_r50", {"mask/AP": 34.8, "box/AP": 38.1}),
        ("maskplus_r50", {"mask/AP": 35.1, "mask/APl": 48.3, "box/AP": 38.3, "box/AP75": 41.6}),
        ("mr_rcnn_x101_32x8d", {"mask/AP": 37.8, "mask/AP75": 40.2, "box/AP": 42.2}),
        ("brefine_r50_2x", {"mask/AP": 35.5, "mask/APs": 18.9, "box/AP": 38.8}),
    ],
)
def test_published_numbers(name, numbers):
    found = mask_rcnn_table.get_table().row(name).published
    assert numbers.items() <= found.items()


@pytest.mark.parametrize(
    ("arguments", "batch", "rate", "steps", "milestones"),
    [
        ("atmask,r50,1x", 12, 0.02, 90_000, (60_000, 80_000)),
        ("maskplus,r50,2x", 8, 0.01, 360_000, (240_000, 320_000)),
        ("mr_rcnn,r101,1x", 16, 0.02, 90_000, (60_000, 80_000)),
        ("mr_rcnn,x101_32x8d,1x", 8, 0.01, 180_000, (120_000, 160_000)),
        ("brefine,r50,1x", 6, 0.0075, 234_528, (156_352, 214_984)),  # 12 epochs; 8, 11
        ("brefine,r50,2x", 6, 0.0075, 469_056, (312_704, 429_968)),  # 24 epochs; 16, 22
        ("mr_rcnn,r50,3x", 16, 0.02, 270_000, (210_000, 250_000)),
    ],
)
def test_recipes(arguments, batch, rate, steps, milestones):
    config = mask_rcnn.get_config(f"{arguments},coco,root=DIR")
    assert config.train.batch_size == batch
    assert optimizer.peak_rate(config) == pytest.approx(rate)
    assert (config.train.steps, tuple(config.optim.milestones)) == (steps, milestones)
    config.train.batch_size *= 2
    assert optimizer.peak_rate(config) == pytest.approx(2 * rate)


def test_the_style_of_weights_belongs_to_the_recipe():
    def strides_in_1x1(argument):
        return mask_rcnn.get_config(argument).model.backbone.stride_in_1x1

    assert strides_in_1x1("atmask,r50") and strides_in_1x1("mr_rcnn,r101")
    assert not strides_in_1x1("mr_rcnn,x101_32x8d") and not strides_in_1x1("brefine,r50")
    assert not strides_in_1x1("mr_rcnn,r50,style=pytorch")
    caffe = [row for row in mask_rcnn_table.get_table().rows if row.weights.endswith("_caffe")]
    for row in mask_rcnn_table.get_table().rows:
        assert strides_in_1x1(row.config.partition(":")[2]) == (row in caffe)


def test_recipes_and_conventions_exclude_each_other():
    with pytest.raises(ValueError, match="detectron2 and atmask: a recipe has conventions"):
        mask_rcnn.get_config("detectron2,atmask")


def test_drawn_scenes_have_no_folder():
    with pytest.raises(ValueError, match="root='DIR': `shapes` are drawn"):
        mask_rcnn.get_config("shapes,root=DIR")


@pytest.mark.parametrize("data", ["shapes", "root=DIR", "coco,root=DIR"])
def test_small_models_are_small_and_keep_their_data(data):
    for backbone in backbones.NAMES:
        config = mask_rcnn.get_config(f"{backbone},{data},small")
        full = mask_rcnn.get_config(f"{backbone},{data}")
        assert (config.data.source, config.data.root) == (full.data.source, full.data.root)
        assert config.model.num_classes == full.model.num_classes
        assert not config.freeze and not config.init_from
        assert config.model.backbone.width == 32 and config.model.backbone.depth <= 34


def test_the_largest_small_model():
    config = mask_rcnn.get_config("x101_32x8d,coco,small")
    assert methods.count_parameters(config) < 8_000_000


def test_small_keeps_what_rows_differ_in():
    def small(words):
        return mask_rcnn.get_config(f"shapes,small,{words}")

    assert small("r101").model.backbone.depth > small("r50").model.backbone.depth
    assert small("2x").train.steps == 2 * small("1x").train.steps
    assert small("brefine").model.criterion.rpn.low_quality == "reassign"
    assert small("brefine").train.batch_size == small("atmask").train.batch_size


@pytest.mark.parametrize("recipe", [*recipes.TABLE, "r50"])
def test_runlocal_outweighs_small(recipe):
    both = mask_rcnn.get_config(f"{recipe},shapes,small,runlocal")
    assert both.train.steps == 10 and both.model.backbone.width == 16
    assert both.data.shapes.train == 16


def test_the_table_of_the_guide_can_be_run(tmp_path):
    code = re.search(r"    # my_table.py\n((?:    .*\n|\n)+)", GUIDE.read_text())[1]
    (tmp_path / "my_table.py").write_text(textwrap.dedent(code))
    made = tables.load(str(tmp_path / "my_table.py"))
    jobs = plan.jobs(made, options.Options(workdir="runs/mine"))
    assert len(jobs) == 4 * 3
    assert {job.needs for job in jobs} == {None, "two"}
    assert all(":r50,root=/data/mine,small" in " ".join(job.command) for job in jobs)


def test_the_numbers_of_the_guide():
    rows = re.findall(r"^\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", GUIDE.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for count, half, smallest in ((int(a), float(b), float(c)) for a, b, c in rows):
        assert half == pytest.approx(statistics.critical(count) / count**0.5, abs=0.005)
        assert smallest == pytest.approx(statistics.detectable(count, 1.0), abs=0.005)


def test_the_guide_counts_the_images_of_the_baselines():
    configs = [
        mask_rcnn.get_config(row.config.partition(":")[2])
        for row in mask_rcnn_table.get_table().rows
    ]
    runs, seeds = len(configs), mask_rcnn_table.get_table().seeds
    images = seeds * sum(config.train.steps * config.train.batch_size for config in configs)
    assert f"{runs * seeds} runs over {images / 1e6:.0f} million images" in GUIDE.read_text()
