"""Where the checkpoints of a run lie: in its work directory, in another folder, or in a bucket of Google Cloud Storage.

A run that saves elsewhere keeps the same record twice, as `checkpoints.json`. In the work directory it says where the
checkpoints are; beside them it says whose they are, so that no other run writes there.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pathlib
import re
import uuid
from collections.abc import Iterator
from typing import Any

import fsspec
import jax
from etils import epath
from jax.experimental import multihost_utils

from jaxseg import atomic

RECORD = "checkpoints.json"
FOLDER = "checkpoints"  # in a work directory
ALLOWED = (
    'allowed are "" (the work directory), a folder, and gs://BUCKET/PATH of Google Cloud Storage'
)
_NEEDED = ("gcsfs", "google.cloud.storage")  # by etils and by orbax
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_OF_ETILS = re.compile(r"/(gs|s3|az|hf)(/|$)")  # what it takes for gs:// and the like


def checked(place: str) -> str:
    """`config.checkpoints` as one may write it, in its full form; "" stays.

    Raises:
      ValueError: it names nothing that checkpoints can be saved to.
      ImportError: what gs:// needs is not installed.
    """
    if not isinstance(place, str):
        raise ValueError(f"config.checkpoints={place!r}: must be a string; {ALLOWED}.")
    if not place:
        return ""
    if place != place.strip():
        raise ValueError(f"config.checkpoints={place!r}: has spaces around it; {ALLOWED}.")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", place):
        return _checked_bucket(place)
    folder = pathlib.Path(os.path.abspath(pathlib.Path(place).expanduser()))
    if found := _OF_ETILS.match(str(folder)):
        raise ValueError(
            f"config.checkpoints={place!r}: folders below /{found[1]} are not supported; {ALLOWED}."
        )
    return str(folder)


def path(place: str | os.PathLike) -> epath.Path:
    """The path of a checked place, with which it is read and written.

    Raises:
      ImportError: what gs:// needs is not installed.
    """
    if is_bucket(place):
        _prepare_for_buckets(os.fspath(place))
    return epath.Path(place)


def is_bucket(place: str | os.PathLike) -> bool:
    """Whether it is in a bucket, which has objects and neither folders nor locks."""
    return os.fspath(place).startswith("gs://")


def where(folder: str | os.PathLike) -> epath.Path:
    """Where the checkpoints of the run in the work directory `folder` lie.

    Raises:
      ValueError: the record in it is damaged.
      ImportError: they are at gs://, and what that needs is not installed.
    """
    record = _own_record(folder)
    return path(checked(record["place"]) if record else _default(folder))


def choose(folder: str | os.PathLike, wanted: str) -> epath.Path:
    """Where the run in a work directory is to save; nothing is written.

    Args:
      folder: the work directory.
      wanted: a checked `config.checkpoints`; with "" a run goes on where it has saved before.

    Raises:
      ValueError: another run saves there, or there are checkpoints of one; or this run has its checkpoints elsewhere.
      ImportError: as `path` raises.
      OSError: it cannot be reached, or what this run has saved is not there any more.
    """
    folder = _absolute(folder)
    if wanted == str(folder):
        raise ValueError(f"config.checkpoints={wanted!r} is the work directory itself; {ALLOWED}.")
    before = where(folder)
    place = path(wanted) if wanted else before
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
        if found := finished_steps(before):
            raise ValueError(
                f"config.checkpoints={wanted!r}, but this run has its checkpoints (the newest is {found[-1]}) in "
                f"{before}. Leave config.checkpoints empty to go on with them there, or choose another --workdir."
            )
    return place


def noted(folder: str | os.PathLike, place: epath.Path) -> str:
    """`config.checkpoints` for a place; "" for that in the work directory."""
    return "" if place == path(_default(folder)) else str(place)


def claim(folder: str | os.PathLike, place: epath.Path) -> None:
    """Notes for a run that it saves to `place`, in the work directory and there, which shows that it can be written.

    Raises:
      ValueError: another run was faster.
      OSError: it cannot be written; the work directory is as it was.
    """
    folder = _absolute(folder)
    before, here = _own_record(folder), path(folder) / RECORD
    if before is None and not noted(folder, place):
        _try(place)
        return
    run = before["run"] if before else uuid.uuid4().hex
    record = dict(place=str(place), run=run, workdir=str(folder))
    # The one here comes first: a kill in between must not leave a place that is nobody's.
    _replace(here, json.dumps(record, indent=1))
    try:
        _take(place, record)
    except BaseException:
        if before:
            _replace(here, json.dumps(before, indent=1))
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


def finished_steps(place: epath.Path) -> list[int]:
    """Steps of the checkpoints that were saved to the end, ascending.

    A folder gets its number for a name when it is complete; in a bucket a last object says so.

    Raises:
      OSError: the bucket cannot be reached.
    """
    with reaching(place):
        names = [x.name for x in children(place) if x.name.isdigit()]
        done = [n for n in names if _is_finished(place / n)]
    return sorted(map(int, done))


def cut_short(place: epath.Path) -> list[int]:
    """Steps whose save a kill left half written, ascending; orbax removes what is there of them."""
    names = [x.name for x in children(place)]
    if is_bucket(place):
        found = {int(n) for n in names if n.isdigit() and not _is_finished(place / n)}
    else:
        found = {
            int(n.partition(".")[0]) for n in names if re.match(r"\d+\.orbax-checkpoint-tmp", n)
        }
    return sorted(found)


def children(place: epath.Path) -> list[epath.Path]:
    """What lies in a folder; nothing if there is none."""
    try:
        return list(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def in_step(what: str) -> None:
    """Waits until every process is here, so that all see the same files."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def rename(folder: epath.Path, target: epath.Path) -> None:
    """Gives a folder another name, or each object of what stands for one in a bucket."""
    if not is_bucket(folder):
        folder.rename(target)
        return
    gcs = _gcs()
    for name in gcs.find(str(folder)):
        gcs.copy(name, f"{target}{name.removeprefix(str(folder).removeprefix('gs://'))}")
    folder.rmtree()


@contextlib.contextmanager
def reaching(place: epath.Path) -> Iterator[None]:
    """Makes of whatever the libraries of a bucket raise within it an OSError that says what to look after."""
    try:
        yield
    except Exception as error:
        if not is_bucket(place):
            raise
        text = str(error).strip().splitlines() or [""]
        raise OSError(
            f"{place} cannot be reached: {type(error).__name__}: {text[0][:300].rstrip('.')}. Look whether the bucket "
            "exists, whether this machine has credentials (gcloud auth application-default login, or "
            "GOOGLE_APPLICATION_CREDENTIALS), and whether they may read, write, delete and list objects and see the "
            "bucket itself (roles/storage.objectUser and roles/storage.bucketViewer)."
        ) from error


def _checked_bucket(place: str) -> str:
    scheme, _, rest = place.partition("://")
    if scheme != "gs" or not rest:
        raise ValueError(f"config.checkpoints={place!r}: {ALLOWED}.")
    bucket, _, inner = rest.rstrip("/").partition("/")
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ValueError(
            f"config.checkpoints={place!r}: {bucket!r} is no name of a bucket: 3 to 222 lower-case letters, digits, "
            "dots, dashes and underscores, of which the first and the last are letters or digits."
        )
    if not inner:
        raise ValueError(
            f"config.checkpoints={place!r}: a path in the bucket is needed, e.g. gs://{bucket}/runs/r50."
        )
    parts = inner.split("/")
    if {"", ".", ".."} & set(parts) or re.search(r"[\x00-\x1f\x7f*?\[\]#\\]", inner):
        raise ValueError(
            f"config.checkpoints={place!r}: the path in the bucket has an empty part, a part of dots, or one of the "
            r"characters * ? [ ] # \ . Choose another."
        )
    _prepare_for_buckets(place)
    return f"gs://{bucket}/{inner}"


def _prepare_for_buckets(place: str) -> None:
    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(
                f"Checkpoints at {place} need the Python module {name}, which cannot be imported ({error}). Install "
                'it: pip install "jaxseg[gcs]".'
            ) from error
    os.environ.setdefault("EPATH_USE_TF", "false")  # gcsfs, whatever else is installed
    # TensorStore writes past gcsfs, which must not remember what was there before.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)


def _is_finished(step: epath.Path) -> bool:
    if is_bucket(step):
        return (step / "commit_success.txt").exists()
    return step.is_dir()


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
    if found := finished_steps(place):
        raise ValueError(
            f"There are checkpoints in {place} already (the newest is {found[-1]}), and no {RECORD} says that they are "
            f"those of the run in {folder}. Choose another config.checkpoints, or move them away."
        )
    # The folder of a run that has just been started.
    other = place.parent
    if not is_bucket(place) and place.name == FOLDER and (other / "run.json").exists():
        raise ValueError(
            f"{place} belongs to the run in {other}. Choose another config.checkpoints."
        )


def _take(place: epath.Path, record: dict[str, str]) -> None:
    """Writes the record at the place, unless another run's is there."""
    text = json.dumps(record, indent=1)
    with reaching(place), _writing(place):
        place.mkdir(parents=True, exist_ok=True)
        there = _record(place)
        if there is None:
            _create(place / RECORD, text)
        elif there["run"] == record["run"]:
            _replace(place / RECORD, text)
    there = _record(place)
    if there is None or there["run"] != record["run"]:
        raise ValueError(
            f"Another run has just begun to save to {place}. Choose another config.checkpoints."
        )


def _create(file: epath.Path, text: str) -> None:
    """Writes a file, if it is not there; of two that do so at a time, the one that comes later does nothing."""
    with contextlib.suppress(FileExistsError):
        if is_bucket(file):
            _gcs().pipe_file(str(file), text.encode(), mode="create")
        else:
            _create_whole(pathlib.Path(file), text)


def _create_whole(file: pathlib.Path, text: str) -> None:
    """Raises FileExistsError if the file is there; nobody sees a half of it."""
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        try:
            os.link(temporary, file)
        except FileExistsError:
            raise
        except OSError:  # a file system without links, such as a mounted bucket
            if not file.exists():
                os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _gcs() -> fsspec.AbstractFileSystem:
    """The file system that etils uses, for what its paths cannot do."""
    return fsspec.filesystem("gcs", finalize_on_close=True)


def _replace(file: epath.Path, text: str) -> None:
    """Writes a file that is whole at every moment."""
    if is_bucket(file):
        file.write_text(text)
        return
    with atomic.replacing(pathlib.Path(file)) as stream:
        stream.write(text)


def _release(before: dict[str, str]) -> None:
    """Takes the record from a place to which a run has saved nothing, if it can be reached."""
    with contextlib.suppress(OSError, ValueError, ImportError):
        place = path(checked(before["place"]))
        there = _record(place)
        if there and there["run"] == before["run"] and not finished_steps(place):
            (place / RECORD).unlink()


@contextlib.contextmanager
def _writing(place: epath.Path) -> Iterator[None]:
    """Makes of the errors of a file system one that names the setting; those of a bucket say enough."""
    try:
        yield
    except OSError as error:
        if is_bucket(place):
            raise
        raise type(error)(
            f"config.checkpoints: {place} cannot be written: {error.strerror or error}. Choose another folder or mend "
            "its permissions and free space."
        ) from error


def _own_record(folder: str | os.PathLike) -> dict[str, str] | None:
    return _record(path(_absolute(folder)))


def _record(place: epath.Path) -> dict[str, Any] | None:
    """The record in a work directory or beside checkpoints; None if there is none."""
    with reaching(place):
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
