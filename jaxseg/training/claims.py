"""Which run's checkpoints lie where: a place is for one run. How places are read and written is in `storage`.

A run that saves elsewhere than in its work directory keeps the same record twice, as `checkpoints.json`. In the work
directory it says where the checkpoints are; beside them it says whose they are, so that no other run writes there.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from jaxseg import atomic
from jaxseg.training import storage

RECORD = "checkpoints.json"
FOLDER = "checkpoints"  # in a work directory


def where(folder: str | os.PathLike) -> epath.Path:
    """Where the checkpoints of the run in the work directory `folder` lie.

    Raises:
      ValueError: the record in it is damaged.
      ImportError: they are at gs://, and what that needs is not installed.
    """
    record = _own_record(folder)
    return storage.path(storage.checked(record["place"]) if record else _default(folder))


def choose(folder: str | os.PathLike, wanted: str) -> epath.Path:
    """Where the run in a work directory is to save; nothing is written.

    Args:
      folder: the work directory.
      wanted: a checked `config.checkpoints`; with "" a run goes on where it has saved before.

    Raises:
      ValueError: another run saves there, or there are checkpoints of one; or this run has its checkpoints elsewhere.
      ImportError: as `storage.path` raises.
      OSError: it cannot be reached, or what this run has saved is not there any more.
    """
    folder = _absolute(folder)
    if wanted == str(folder):
        raise ValueError(
            f"config.checkpoints={wanted!r} is the work directory itself; {storage.ALLOWED}."
        )
    before = where(folder)
    place = storage.path(wanted) if wanted else before
    # First: a run that begins at this moment writes its own first.
    there = _record(place)
    own = _own_record(folder)
    mine = there is not None and own is not None and there["run"] == own["run"]
    if there is not None and not mine:
        raise ValueError(
            f"The checkpoints in {place} are those of the run in {there['workdir']}, and not of the one in {folder}. "
            "Choose another config.checkpoints, or delete that folder if nobody needs it. If it is this run, and its "
            f"work directory was lost: copy {place / RECORD} to {folder / RECORD} and start again."
        )
    if own is not None and not mine and (folder / "run.json").exists():
        _check_there(before, folder)
    if there is None and place != before:
        _check_free(place, folder)
        if found := storage.finished_steps(before):
            raise ValueError(
                f"config.checkpoints={wanted!r}, but this run has its checkpoints (the newest is {found[-1]}) in "
                f"{before}. Leave config.checkpoints empty to go on with them there, or choose another --workdir."
            )
    return place


def noted(folder: str | os.PathLike, place: epath.Path) -> str:
    """`config.checkpoints` for a place; "" for that in the work directory."""
    return "" if place == storage.path(_default(folder)) else str(place)


def claim(folder: str | os.PathLike, place: epath.Path) -> None:
    """Notes for a run that it saves to `place`, in the work directory and there, which shows that it can be written.

    Raises:
      ValueError: another run was faster.
      OSError: it cannot be written; the work directory is as it was.
    """
    folder = _absolute(folder)
    before, here = _own_record(folder), storage.path(folder) / RECORD
    if before is None and not noted(folder, place):
        _try(place)
        return
    run = before["run"] if before else uuid.uuid4().hex
    record = dict(place=str(place), run=run, workdir=str(folder))
    # The one here comes first: a kill in between must not leave a place that is nobody's.
    storage.replace(here, json.dumps(record, indent=1))
    try:
        _take(place, record)
    except BaseException:
        if before:
            storage.replace(here, json.dumps(before, indent=1))
        else:
            here.unlink()
        raise
    if before and before["place"] != record["place"]:
        _release(before)


def _try(place: epath.Path) -> None:
    """Raises OSError where a folder in the work directory is there and cannot be written."""
    if place.exists():
        try:
            atomic.try_to_write(place)
        except OSError as error:
            raise type(error)(
                f"The folder of the checkpoints {place} cannot be written: {error.strerror or error}. Mend its "
                "permissions and free space."
            ) from error


def _check_there(place: epath.Path, folder: pathlib.Path) -> None:
    """Raises FileNotFoundError if the record of a run is gone from its place, so that it does not begin anew."""
    if _record(place) is None:
        raise FileNotFoundError(
            f"The run in {folder} has its checkpoints in {place}, and there is no {RECORD} any more. Is the disk not "
            f"mounted, or the folder moved (give its place as config.checkpoints)? If only the file was lost, copy "
            f"{folder / RECORD} there; to begin anew choose another --workdir."
        )


def _check_free(place: epath.Path, folder: pathlib.Path) -> None:
    """Raises ValueError if there are checkpoints in a place that no run has noted as its own, or will be."""
    if found := storage.finished_steps(place):
        raise ValueError(
            f"There are checkpoints in {place} already (the newest is {found[-1]}), and no {RECORD} says that they are "
            f"those of the run in {folder}. Choose another config.checkpoints, or move them away."
        )
    # The folder of a run that has just been started.
    other = place.parent
    if not storage.is_bucket(place) and place.name == FOLDER and (other / "run.json").exists():
        raise ValueError(
            f"{place} belongs to the run in {other}. Choose another config.checkpoints."
        )


def _take(place: epath.Path, record: dict[str, str]) -> None:
    """Writes the record at the place, unless another run's is there."""
    text = json.dumps(record, indent=1)
    with storage.reaching(place), _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        there = _record(place)
        if there is None:
            storage.create(place / RECORD, text)
        elif there["run"] == record["run"]:
            storage.replace(place / RECORD, text)
    there = _record(place)
    if there is None or there["run"] != record["run"]:
        raise ValueError(
            f"Another run has just begun to save to {place}. Choose another config.checkpoints."
        )


def _release(before: dict[str, str]) -> None:
    """Takes the record from a place to which a run has saved nothing, if it can be reached."""
    with contextlib.suppress(OSError, ValueError, ImportError):
        place = storage.path(storage.checked(before["place"]))
        there = _record(place)
        if there and there["run"] == before["run"] and not storage.finished_steps(place):
            (place / RECORD).unlink()


@contextlib.contextmanager
def _writing(place: epath.Path) -> Iterator[None]:
    """Makes of the errors of a file system one that names the setting; those of a bucket say enough."""
    try:
        yield
    except OSError as error:
        if storage.is_bucket(place):
            raise
        raise type(error)(
            f"config.checkpoints: {place} cannot be written: {error.strerror or error}. Choose another folder or mend "
            "its permissions and free space."
        ) from error


def _own_record(folder: str | os.PathLike) -> dict[str, str] | None:
    return _record(storage.path(_absolute(folder)))


def _record(place: epath.Path) -> dict[str, Any] | None:
    """The record in a work directory or beside checkpoints; None if there is none."""
    with storage.reaching(place):
        try:
            text = (place / RECORD).read_text()
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        record = json.loads(text)
        if not all(isinstance(record[key], str) for key in ("place", "run", "workdir")):
            raise TypeError("it has values that are no strings")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{place / RECORD}, which says where the checkpoints of a run lie and whose they are, is damaged: "
            f"{error!r}. Copy it anew: the same file lies in the work directory and beside the checkpoints."
        ) from error
    return record


def _default(folder: str | os.PathLike) -> pathlib.Path:
    return _absolute(folder) / FOLDER


def _absolute(folder: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(folder).expanduser().absolute()
