"""Putting a trained run and the data that it is evaluated on together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxseg import config_keys


def with_settings(run: ConfigDict, given: ConfigDict | None) -> ConfigDict:
    """The run's config, with `data`, `eval` and `model.test` of another one where that is given.

    Raises:
      ValueError: the two describe different models; the first differing key is named.
    """
    config = run.copy_and_resolve_references()
    if given is None:
        return config
    ours, theirs = _model(run), _model(given)
    # A key that the run's version of jaxseg did not know yet says nothing about its model.
    for key in sorted(ours):
        if ours[key] != theirs.get(key):
            raise ValueError(
                f"The config's {key}={theirs.get(key)!r} is not the run's {ours[key]!r}: "
                "evaluate with the config of the run (or without --config), and change only data, "
                "eval and model.test."
            )
    config.data = given.data
    config.eval = given.eval
    config.model.test = given.model.test
    return config


def match_categories(trained: Sequence[Any], found: Sequence[Any]) -> list[Any | None]:
    """The category of a data set for each class index of a trained model, found by name.

    None for classes that only fill gaps between ids (`Category.unused`) and that the data set does not have.

    Raises:
      ValueError: the classes are not the same ones.
    """
    by_name = {category.name: category for category in found}
    missing = [c.name for c in trained if c.name not in by_name and not c.unused]
    new = sorted(set(by_name) - {c.name for c in trained})
    if [c.name for c in trained] == [c.name for c in found]:  # also where names occur twice
        return list(found)
    if missing or new:
        raise ValueError(
            f"The run was trained on {len(trained)} classes that are not those of this data set: "
            f"missing here: {_few(missing)}; unknown to the run: {_few(new)}."
        )
    return [by_name.get(c.name) for c in trained]


def _model(config: ConfigDict) -> dict[str, Any]:
    """`config.method` and `config.model` flat, without what may differ."""
    leaves = {"method": config.method, **dict(config_keys.leaves(config.model, "model."))}
    free = ("model.test.", "model.num_classes", "model.dtype", "model.roi_align")
    return {key: value for key, value in leaves.items() if not key.startswith(free)}


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none"
