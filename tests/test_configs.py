"""The argument part of `--config=FILE:argument`, and that every config file makes a config."""

import importlib
import pathlib

import ml_collections
import pytest

from configs import arguments, common

SPEC = dict(
    backbone=("r50", "r101"), schedule=("1x", "3x"), root="", steps=10, lr=0.5, runlocal=False
)
CONFIGS = sorted(
    path.stem
    for path in pathlib.Path(common.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "arguments", "common", "backbones", "recipes")
)


@pytest.mark.parametrize("arg", [None, "", ","])
def test_without_argument_the_defaults(arg):
    parsed = arguments.parse_arg(arg, **SPEC).to_dict()
    assert parsed == {**SPEC, "backbone": "r50", "schedule": "1x"}


def test_bare_words_equal_assignments():
    bare = arguments.parse_arg("r101,runlocal,3x", **SPEC)
    assert bare == arguments.parse_arg("runlocal=True,schedule=3x,backbone=r101", **SPEC)
    assert (bare.backbone, bare.schedule, bare.runlocal) == ("r101", "3x", True)


@pytest.mark.parametrize(
    "arg, key, value",
    [
        ("steps=7", "steps", 7),
        ("lr=1e-3", "lr", 1e-3),
        ("root=/data/a=b c", "root", "/data/a=b c"),
        ("root=", "root", ""),
        ("runlocal=1", "runlocal", True),
        ("runlocal=false", "runlocal", False),
        ("r101,steps=3,backbone=r101", "backbone", "r101"),
    ],
)
def test_values_get_the_type_of_the_default(arg, key, value):
    parsed = arguments.parse_arg(arg, **SPEC)[key]
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize(
    "arg, words",
    [
        ("r18", ["'r18'", "r50|r101"]),
        ("bakcbone=r50", ["'bakcbone=r50'", "backbone=r50|r101"]),
        ("backbone=r18", ["backbone='r18'", "r50, r101"]),
        ("runlocal=yes", ["runlocal='yes'", "True and False"]),
        ("root", ["'root'", "root=..."]),
        ("steps=many", ["steps", "many"]),
        ("=3", ["'=3'"]),
    ],
)
def test_errors_name_what_was_got_and_what_is_allowed(arg, words):
    with pytest.raises(ValueError) as error:
        arguments.parse_arg(arg, **SPEC)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["mr_rcnn", "maskplus", "atmask_rcnn", "brefine"])
def test_a_config_on_another_one_names_its_own_arguments_where_one_is_unknown(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    with pytest.raises(arguments.UnknownArgumentError, match=f"'bakcbone=r50'.*And of {name}: "):
        get_config("bakcbone=r50")
    with pytest.raises(ValueError, match=r"both say what backbone is; give one of them\.$"):
        get_config("r50,r101")


def test_two_values_for_one_argument_are_refused():
    with pytest.raises(ValueError, match="r50 and backbone=r101: both say what backbone is"):
        arguments.parse_arg("r50,3x,backbone=r101", **SPEC)


def test_a_word_that_two_arguments_allow_is_refused():
    with pytest.raises(ValueError, match="'same'"):
        arguments.parse_arg("same", a=("x", "same"), b=("y", "same"))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("arg", [None, "runlocal"])
def test_configs_have_exactly_the_keys_of_the_base(name, arg):
    """A typo in a config file would add a key that nothing reads."""
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    assert isinstance(config, ml_collections.ConfigDict)
    assert keys(config) <= keys(common.base())


def keys(config, prefix=""):
    found = set()
    for key, value in config.items():
        found.add(prefix + key)
        if isinstance(value, ml_collections.ConfigDict):
            found |= keys(value, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_share_nothing_between_calls(name):
    get_config = importlib.import_module(f"configs.{name}").get_config
    first = get_config(None)
    first.optim.lr = -1.0
    first.data.train.images = "elsewhere"
    second = get_config(None)
    assert second.optim.lr > 0 and second.data.train.images != "elsewhere"
