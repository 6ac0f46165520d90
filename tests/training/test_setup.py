"""Where a run starts from is told, and a start that cannot be meant is refused before anything is compiled."""

import jax
import pytest
import standin
from rich.console import Console

from configs import common
from jaxseg.data.sources import Category
from jaxseg.training import checkpoints, init_from, setup, sharding, workdir

CATEGORIES = tuple(Category(i, f"class {i}") for i in range(3))
OTHERS = tuple(Category(i, f"thing {i}") for i in range(3))


class Headed(standin.Standin):
    """The stand-in with layers where models have their RPN and their heads."""

    def setup(self):
        super().setup()
        self.rpn = standin.nn.Dense(1)
        self.roi_heads = Heads(self.num_classes)

    def losses(self, batch, key, step, *, train=True):
        total, log = super().losses(batch, key, step, train=train)
        x = self.features(batch, train)
        return total + self.rpn(x).mean() + self.roi_heads(x).mean(), log


class Heads(standin.nn.Module):
    classes: int

    @standin.nn.compact
    def __call__(self, x):
        box_head = standin.nn.Dense(self.classes, name="box_head")
        return box_head(standin.nn.Dense(8, name="mask_head")(x))


def make_config(**settings):
    config = standin.make_config()
    config.model.num_classes = len(CATEGORIES)
    config.update(settings)
    return config


def plan(folder, config, model=standin.Standin, categories=CATEGORIES):
    mesh, base = sharding.make_mesh(), standin.common.base()
    return setup.plan_state(config, folder, model(3), mesh, categories, base)


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
    config = make_config(needs_heads=common.HEADS)
    with pytest.raises(
        ValueError, match=r"init_from is empty.*12 steps.*init_from=RUN.*end_to_end"
    ):
        plan(tmp_path, config)
    config.init_from = str(runs[standin.Standin])
    with pytest.raises(
        ValueError, match="no trained rpn, roi_heads/box_head, roi_heads/mask_head,"
    ):
        plan(tmp_path, config)
    config.init_from = str(runs[Headed])
    assert "params/roi_heads/box_head/kernel" in plan(tmp_path, config, Headed).start.values


def test_a_config_of_an_earlier_version_says_yes_or_no(tmp_path):
    for needed in (True, False):
        config = make_config()
        with config.ignore_type():
            config.needs_heads = needed
        if needed:
            with pytest.raises(ValueError, match="init_from is empty"):
                plan(tmp_path, config)
        else:
            assert plan(tmp_path, config).start is None


def test_a_run_that_goes_on_needs_nothing(runs):
    found = plan(runs[standin.Standin], make_config(needs_heads=common.HEADS))
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


@pytest.mark.parametrize("model", [standin.Standin, Headed])
def test_starting_from_it_is_advised_where_it_is_possible(runs, model):
    """Weights with heads do not fit a model without."""
    with pytest.raises(ValueError, match=r"or choose another --workdir") as raised:
        plan(runs[Headed], make_config(method="mask_rcnn"), model)
    advised = f"start from its weights with --config.init_from={runs[Headed]}." in str(raised.value)
    assert advised == (model is Headed)


def changed(key, value):
    config = make_config()
    config.update_from_flattened_dict({key: value})
    return config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.refine.align", "roi", "is 'shape' there and 'roi' here"),
        ("model.criterion.weights.mask", 2.0, "is 1.0 there and 2.0 here"),
        ("model.roi_sampling.ratio", 0, "is 2 there and 0 here"),
    ],
)
def test_a_run_does_not_go_on_as_another_model(runs, key, value, words):
    message = (
        rf"config.{key} {words}\. It cannot go on with these: put them back, .*--config.init_from"
    )
    with pytest.raises(ValueError, match=message):
        plan(runs[standin.Standin], changed(key, value))


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.test.score", 0.5), ("model.roi_align", "xla"), ("model.dtype", "bfloat16")],
)
def test_what_is_evaluated_and_how_it_is_computed_may_change(runs, key, value):
    found = plan(runs[standin.Standin], changed(key, value)).changed
    assert list(found) == [key] and found[key][1] == value


def test_a_run_of_an_earlier_version_goes_on_with_the_defaults(tmp_path):
    earlier = make_config()
    del earlier.model.maskplus, earlier.model.refine.flow_relu, earlier.data.keep_empty
    earlier.model.gone = 1  # a key that no longer exists
    workdir.save_run(tmp_path, earlier, CATEGORIES)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert list(plan(tmp_path, make_config()).changed) == ["model.gone"]
    with pytest.raises(ValueError, match=r"model.maskplus.alpha is 1.0 there and 1.5 here\. It"):
        plan(tmp_path, changed("model.maskplus.alpha", 1.5))


def test_a_checkpoint_that_does_not_fit_is_told_with_what_was_frozen_since(runs):
    found = plan(runs[standin.Standin], make_config(freeze=("stem",)))
    console = Console(quiet=True)
    with (
        checkpoints.Checkpoints(runs[standin.Standin]) as saved,
        pytest.raises(ValueError, match=r"Changed: config.freeze is \(\) there and \('stem',\)"),
    ):
        arguments = (runs[standin.Standin], found, sharding.make_mesh(), saved, console)
        setup.first_state(make_config(freeze=("stem",)), *arguments)


def test_new_layers_are_not_frozen(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(init_from.methods, "class_layers", lambda config: ("roi_heads/box_head",))
    config = make_config(init_from=str(runs[Headed]), freeze=("stem", "roi_heads"))
    assert not plan(tmp_path, config, Headed).start.fresh
    with pytest.raises(ValueError, match=r"would stay random: roi_heads/box_head\. Leave them out"):
        plan(tmp_path, config, Headed, OTHERS)
    config.freeze = ("stem", ".*/bias")
    assert len(plan(tmp_path, config, Headed, OTHERS).start.fresh) == 2


def test_a_start_is_told(tmp_path, runs, monkeypatch):
    monkeypatch.setattr(init_from.methods, "class_layers", lambda config: ("roi_heads/box_head",))
    config = make_config(init_from=str(runs[Headed]))
    config.model.pixel_std = (1.0, 1.0, 1.0)
    told = plan(tmp_path, config, Headed, OTHERS).start.told
    assert told[1] == "initial  2: the classes differ (roi_heads/box_head)"
    assert told[0].startswith("taken    ") and "model.pixel_std" in told[2]
