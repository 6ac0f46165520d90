"""Where a run starts from is told, and a start that cannot be meant is refused before anything is compiled."""

import contextlib

import jax
import pytest
import standin

from jaxseg.data.sources import Category
from jaxseg.training import checkpoints, setup, sharding, starting, workdir

CATEGORIES = tuple(Category(i, f"class {i}") for i in range(3))
OTHERS = tuple(Category(i, f"thing {i}") for i in range(3))


class Headed(standin.Standin):
    """The stand-in with its last layer where models have their heads."""

    def setup(self):
        super().setup()
        self.roi_heads = Head(self.num_classes)

    def losses(self, batch, key, step, *, train=True):
        total, log = super().losses(batch, key, step, train=train)
        return total + self.roi_heads(self.features(batch, train)).mean(), log


class Head(standin.nn.Module):
    classes: int

    @standin.nn.compact
    def __call__(self, x):
        return standin.nn.Dense(self.classes, name="box_head")(x)


def make_config(**settings):
    config = standin.make_config()
    config.model.num_classes = len(CATEGORIES)
    config.update(settings)
    return config


def plan(folder, config, model=standin.Standin, categories=CATEGORIES):
    return setup.plan_state(config, folder, model(3), sharding.make_mesh(), categories)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run with heads and one without, each with a checkpoint."""
    found = {}
    for model in (Headed, standin.Standin):
        folder = found[model] = tmp_path_factory.mktemp(model.__name__)
        made = plan(folder, make_config(), model).like
        with checkpoints.Checkpoints(folder) as saved:
            saved.save(jax.tree.map(lambda x: jax.numpy.ones(x.shape, x.dtype), made))
        workdir.save_run(folder, make_config(), CATEGORIES)
    return found


def test_a_run_that_needs_heads_starts_from_heads(tmp_path, runs):
    config = make_config(needs_heads=True)
    with pytest.raises(
        ValueError, match=r"init_from is empty.*12 steps.*init_from=RUN.*end_to_end"
    ):
        plan(tmp_path, config)
    config.init_from = str(runs[standin.Standin])
    with pytest.raises(ValueError, match="which has no trained RoI heads"):
        plan(tmp_path, config)
    config.init_from = str(runs[Headed])
    assert "params/roi_heads/box_head/kernel" in plan(tmp_path, config, Headed).start.values


def test_a_run_that_goes_on_needs_nothing(runs):
    found = plan(runs[standin.Standin], make_config(needs_heads=True))
    assert found.start is None
    with pytest.raises(ValueError, match="init_from is empty"):
        found.read_start()  # as it does where all checkpoints turn out to be damaged


def test_a_config_of_an_earlier_version_needs_nothing(tmp_path):
    config = make_config()
    del config.needs_heads
    assert plan(tmp_path, config).start is None
    setup.checked(config, None)


def test_another_method_in_the_work_directory_is_named(runs):
    config = make_config(method="mask_rcnn")
    with pytest.raises(
        ValueError, match=r"method='standin', and this config has method='mask_rcnn'"
    ):
        plan(runs[standin.Standin], config)


def test_new_layers_are_not_frozen(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(setup.methods, "class_layers", lambda config: ("roi_heads/box_head",))
    config = make_config(init_from=str(runs[Headed]), freeze=("stem", "roi_heads"))
    assert not plan(tmp_path, config, Headed).start.fresh
    with pytest.raises(ValueError, match=r"would stay random: roi_heads/box_head\. Leave them out"):
        plan(tmp_path, config, Headed, OTHERS)
    config.freeze = ("stem", ".*/bias")
    assert len(plan(tmp_path, config, Headed, OTHERS).start.fresh) == 2


def test_a_start_is_told(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(setup.methods, "class_layers", lambda config: ("roi_heads/box_head",))
    config = make_config(init_from=str(runs[Headed]))
    config.model.pixel_std = (1.0, 1.0, 1.0)
    told = plan(tmp_path, config, Headed, OTHERS).start.told
    assert told[1] == "initial  2: the classes differ (roi_heads)"
    assert told[0].startswith("taken    ") and "model.pixel_std" in told[2]


@pytest.mark.parametrize(("deform", "frozen"), [("v1", True), ("v2", False)])
def test_offsets_that_deform_nothing_may_be_frozen(deform, frozen):
    config = make_config(init_from="file.pth", freeze=("stage4",))
    config.model.backbone.deform = deform
    path = "params/stage4/conv2/offset/kernel"
    start = starting.Start({}, initial={path: "the file has none"})
    with contextlib.nullcontext() if frozen else pytest.raises(ValueError, match="stay random"):
        setup._check_frozen(config, start)
