"""Where checkpoints may lie: in a folder, or in a bucket of Google Cloud Storage; how they are listed and written."""

from __future__ import annotations

import contextlib
import importlib
import os
import pathlib
import re
import uuid
from collections.abc import Iterator

import fsspec
import jax
from etils import epath
from jax.experimental import multihost_utils

from jaxseg import atomic

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


def create(file: epath.Path, text: str) -> None:
    """Writes a file, if it is not there; of two that do so at a time, the one that comes later does nothing."""
    with contextlib.suppress(FileExistsError):
        if is_bucket(file):
            _gcs().pipe_file(str(file), text.encode(), mode="create")
        else:
            _create_whole(pathlib.Path(file), text)


def replace(file: epath.Path, text: str) -> None:
    """Writes a file that is whole at every moment; what was there before is gone."""
    if is_bucket(file):
        file.write_text(text)
        return
    with atomic.replacing(pathlib.Path(file)) as stream:
        stream.write(text)


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
