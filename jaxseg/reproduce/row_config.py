"""The config of a row: loaded and checked as train.py would, before anything is trained."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from jaxseg import config_keys, methods
from jaxseg.data.prepare import layout
from jaxseg.training import setup

FROZEN_NORMS = ("frozen_bn", "batch_norm_eval")


def assignment(key: str, value: Any) -> str:
    """The argument that sets a key: `--config.optim.lr=0.1`.

    Raises:
      ValueError: a group of keys, which an argument cannot set, or no key.
    """
    if "=" in key:
        raise ValueError(f"{key!r} is no key: overrides are {{'NAME.NAME': VALUE}}.")
    if isinstance(value, Mapping):
        raise ValueError(f"{key}={dict(value)!r}: set each of its keys, {key}.NAME.")
    text = str(tuple(value)) if isinstance(value, list | tuple) else str(value)
    return f"--config.{key}={text}"


def load(arguments: Sequence[str]) -> ConfigDict:
    """The config that `arguments` (`--config=FILE:...`, `--config.key=value`, ...) give a program.

    Raises:
      ValueError: no such file, or an unknown argument, key or value; the message is that of the cause.
    """
    file, *settings = arguments
    _check_file(file.removeprefix("--config=").partition(":")[0])
    known = config_keys.keys(_parse([file]))
    for setting in settings:
        key = setting.removeprefix("--config.").partition("=")[0]
        if key not in known:
            raise ValueError(f"unknown key {config_keys.suggest(key, known)}.")
    return _parse(arguments)


def _check_file(path: str) -> None:
    if os.path.isfile(path):
        return
    advice = " Run this from the top folder of a checkout of jaxseg, or mend the path in the table."
    raise ValueError(
        f"there is no config file {path}."
        if os.path.isabs(path)
        else f"there is no config file {path} in {os.getcwd()}.{advice}"
    )


def _parse(arguments: Sequence[str]) -> ConfigDict:
    """What the flag of train.py makes of its arguments, without touching the flags of this program."""
    values = flags.FlagValues()
    argv = ["train.py", *arguments]
    holder = config_flags.DEFINE_config_file(
        "config", None, "", lock_config=True, flag_values=values, sys_argv=argv
    )
    try:
        values(argv)
        holder.value.keys()  # of a file that is not there, this is the first that raises
        return holder.value
    except Exception as error:  # whatever a config file raises; ml_collections lets it through
        raise ValueError(_message(error)) from error


def check(config: ConfigDict) -> None:
    """Checks everything that needs neither the data nor the weights.

    Raises:
      ValueError: a value without meaning.
    """
    config = setup.checked(config, None)
    if not config.model.num_classes:
        config.model.num_classes = 1  # it will be taken from the data
    methods.build(config)


def check_values(config: ConfigDict, wanted: Mapping[str, Any]) -> None:
    """Sees to it that the values came through the command line unchanged.

    Raises:
      ValueError: one did not, for example 1.5 where the config has whole numbers.
    """
    for key, value in wanted.items():
        found = functools.reduce(lambda group, part: group[part], key.split("."), config)
        value = tuple(value) if isinstance(value, list) else value
        if found != value or isinstance(found, bool) != isinstance(value, bool):
            raise ValueError(
                f"{key}={value!r} is of another kind than the config's value: {found!r}."
            )


def needs_weights(config: ConfigDict) -> bool:
    """Whether a model of these settings hardly learns from random weights."""
    return config.model.backbone.norm in FROZEN_NORMS or bool(config.freeze)


def missing_data(config: ConfigDict, splits: Sequence[str]) -> list[str]:
    """The annotation files and image folders of the splits that are not there; of prepared data, their indices."""
    paths, root = [], os.path.expanduser(config.data.root)
    if config.data.source == "tfds":
        folder = layout.folder(root, config.data.tfds.name)
        paths = [layout.index(folder, split.replace("-", "_")) for split in splits]
        return [path for path in paths if not os.path.exists(path)]
    if config.data.source != "coco_json":
        return []
    for split in splits:
        files = config.data.get(split) or {}
        names = [files.get("annotations"), files.get("images")]
        paths += [os.path.join(root, name) for name in names if name]
    return [path for path in paths if not os.path.exists(path)]


def _message(error: Exception) -> str:
    """What of an error is for the user: ml_collections passes tracebacks on within its messages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OSError):
        return lines[-1] if lines else repr(error)
    raised = [line for line in lines if line.partition(":")[0].endswith("Error")]
    return raised[-1].partition(": ")[2] if raised else " ".join(lines) or repr(error)
