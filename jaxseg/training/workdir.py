"""The work directory: what makes a run self-contained, and whether it can be written at all.

`run.json` holds the config and the categories of a run, which is all that evaluation and prediction need, and what it
was made with: versions, the commit of this code, the devices. `evaluation.json` says the same of an evaluation.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from jaxseg import atomic, config_keys
from jaxseg.data import sources
from jaxseg.training import provenance

try:
    import fcntl
except ImportError:  # not Unix
    fcntl = None

RUN_FILE = "run.json"
EVALUATION_FILE = "evaluation.json"
LOCK_FILE = ".lock"
FORMAT = 1


def prepare(folder: str | pathlib.Path) -> pathlib.Path:
    """Creates the work directory if need be and tries whether it can be written.

    Raises:
      OSError: it cannot; of the kind that the system reports (PermissionError, NotADirectoryError, ...).
    """
    folder = pathlib.Path(folder).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        atomic.try_to_write(folder)
    except OSError as error:
        raise type(error)(
            f"The work directory {folder} cannot be written: {error.strerror or error}. "
            "Choose another --workdir or mend its permissions and free space."
        ) from error
    return folder


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other runs out of the work directory; does nothing where the file system has no locks.

    Raises:
      BlockingIOError: another run is under way in it.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            # It stays there: who removes it may remove the one that another run has just locked.
            file = stack.enter_context(open(folder / LOCK_FILE, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(
                    f"Another run is under way in the work directory {folder}. Wait for its end or stop it, or "
                    "choose another --workdir."
                ) from None
            except OSError:
                logging.info("%s cannot be locked.", folder)
        yield


def write_json(path: pathlib.Path, value: Any) -> None:
    """Writes JSON so that the file is either the old one or the new one, whole, also after a kill."""
    with atomic.replacing(path) as file:
        json.dump(value, file, indent=1)


def save_run(
    folder: pathlib.Path, config: ConfigDict, categories: Sequence[sources.Category]
) -> None:
    """Writes `run.json`; what it says of code and devices is that of the latest start."""
    write_json(pathlib.Path(folder) / RUN_FILE, _settings(config, categories))


def save_evaluation(
    folder: str | os.PathLike,
    config: ConfigDict,
    categories: Sequence[sources.Category],
    *,
    run: str | os.PathLike,
    step: int,
    changed: Mapping[str, tuple[Any, Any]] = MappingProxyType({}),
) -> None:
    """Writes `evaluation.json`, which makes the results in a folder self-contained.

    Args:
      folder: where the results lie.
      config: that of the run with the data and the settings of this evaluation.
      categories: the classes of the run.
      run: the work directory of the run, as the user gave it.
      step: the step of the checkpoint.
      changed: which settings are not those of the run: key -> (its value, the one here).
    """
    found = dict(_settings(config, categories), workdir=os.fspath(run), step=step)
    write_json(pathlib.Path(folder) / EVALUATION_FILE, {**found, "changed": dict(changed)})


def check_evaluation(
    folder: str | os.PathLike, config: ConfigDict, base: ConfigDict | None = None
) -> None:
    """Sees to it that an evaluation does not replace one that was made with other settings.

    Args:
      folder: where its results are to lie.
      config: as `save_evaluation` takes it.
      base: as in `differences`.

    Raises:
      ValueError: there is such a one; the settings are named.
    """
    path = pathlib.Path(folder).expanduser() / EVALUATION_FILE
    if not path.exists():
        return
    elsewhere = tuple(
        f"data.{split}." for split in sources.splits(config.data) - {config.eval.split}
    )
    found = {
        key: values
        for key, values in differences(load_settings(path)[0], config, base).items()
        if key.startswith(("data.", "eval.", "model.test."))
        and not key.startswith(elsewhere)
        and key not in _SAME_RESULTS
    }
    if found:
        raise ValueError(
            f"{path.parent} holds an evaluation with other settings: {told(found)}. Give --out=DIR for this one, or "
            "delete that folder first."
        )


def load_run(folder: str | pathlib.Path) -> tuple[ConfigDict, tuple[sources.Category, ...]]:
    """Reads (config, categories) of a run.

    Raises:
      FileNotFoundError: no run was started there.
      ValueError: `run.json` is damaged.
    """
    path = pathlib.Path(folder).expanduser() / RUN_FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: {folder} is not the work directory of a training run."
        )
    return load_settings(path)


def load_settings(path: pathlib.Path) -> tuple[ConfigDict, tuple[sources.Category, ...]]:
    """Reads (config, categories) of a `run.json` or an `evaluation.json`.

    Raises:
      ValueError: the file is damaged.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        config = ConfigDict(_tuples(run["config"]))
        categories = tuple(sources.Category(**c) for c in run["categories"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}.") from error
    return config, categories


def check_keys(config: ConfigDict, base: ConfigDict) -> None:
    """Sees to it that `config` has no key that `base` lacks.

    Raises:
      ValueError: it has; every such key is named with those that it may have been meant to be.
    """
    known = config_keys.keys(base)
    unknown = [k for k in config_keys.keys(config) if k not in known and not _is_split(k, config)]
    # A whole unknown group is one mistake, not one for every key in it.
    unknown = [k for k in unknown if not any(k.startswith(f"{u}.") for u in unknown)]
    if unknown:
        words = "; ".join(config_keys.suggest(key, known) for key in unknown)
        raise ValueError(f"Unknown key{'s' if len(unknown) > 1 else ''} in config: {words}.")


def differences(
    old: ConfigDict, new: ConfigDict, base: ConfigDict | None = None
) -> dict[str, tuple[Any, Any]]:
    """What differs between two configs: key -> (old value, new value), "absent" where there is none.

    A key that only one of them has, because another version of jaxseg made the other, counts there with its value in
    `base`: what is not known is as it is by default.
    """
    default = dict(config_keys.leaves(base)) if base is not None else {}
    before, after = default | dict(config_keys.leaves(old)), default | dict(config_keys.leaves(new))
    return {
        key: (before.get(key, "absent"), after.get(key, "absent"))
        for key in dict.fromkeys([*before, *after])
        if before.get(key, _ABSENT) != after.get(key, _ABSENT)
    }


def told(found: Mapping[str, tuple[Any, Any]]) -> str:
    """`differences` in words: `config.optim.lr is 0.1 there and 0.2 here; ...`."""
    return "; ".join(
        f"config.{key} is {old!r} there and {new!r} here" for key, (old, new) in found.items()
    )


_ABSENT = object()
_SAME_RESULTS = (
    "data.repeat_threshold",
    "data.workers",
    "data.prefetch",
    "eval.batch_size",
    "eval.step",
    "eval.workers",
)


def _settings(config: ConfigDict, categories: Sequence[sources.Category]) -> dict[str, Any]:
    return dict(
        format=FORMAT,
        config=config.to_dict(),
        categories=[dict(id=c.id, name=c.name) for c in categories],
        versions=provenance.versions(),
        commit=provenance.commit(),
        command=provenance.command(),
        device=provenance.device(),
    )


def _is_split(key: str, config: ConfigDict) -> bool:
    """`data.test=dict(images=..., annotations=...)`: a further split of the user's, or a key of one."""
    parts = key.split(".")
    if parts[0] != "data" or len(parts) not in (2, 3):
        return False
    value = config.data[parts[1]]
    return isinstance(value, ConfigDict) and set(value) <= {"images", "annotations"} and bool(value)


def _tuples(value: Any) -> Any:
    """JSON has no tuples and configs have no lists."""
    if isinstance(value, Mapping):
        return {k: _tuples(v) for k, v in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    return value
