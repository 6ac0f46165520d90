"""Where checkpoints may lie, and what differs in a bucket."""

import importlib

import pytest

from jaxseg.training import integrity, storage

WRONG = {
    "s3://bucket/run": "allowed are .* a folder, and gs://BUCKET/PATH",
    "file:///runs": "allowed are",
    "gs:/bucket/run": "allowed are",
    "gs://": "allowed are",
    "GS://bucket/run": "allowed are",
    "/gs/bucket/run": "folders below /gs are not supported",
    " runs": "has spaces around it",
    "gs://bucket": "a path in the bucket is needed, e.g. gs://bucket/runs/r50",
    "gs://bucket/": "a path in the bucket is needed",
    "gs://Bucket/run": "'Bucket' is no name of a bucket",
    "gs://b/run": "'b' is no name of a bucket",
    "gs:///run": "'' is no name of a bucket",
    "gs://my..bucket/run": "is no name of a bucket",
    "gs://bucket//run": "an empty part",
    "gs://bucket/../run": "a part of dots",
    "gs://bucket/r*": "one of the characters",
}


@pytest.mark.parametrize("place", WRONG)
def test_what_is_no_place_is_told_with_what_is_one(place):
    with pytest.raises(ValueError, match=WRONG[place]):
        storage.checked(place)
    with pytest.raises(ValueError, match="must be a string"):
        storage.checked(3)


def test_a_place_is_named_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert storage.checked("big/../r50/") == str(tmp_path / "r50")
    assert storage.checked("~/r50") == "/home/me/r50"
    assert storage.checked("") == ""


@pytest.mark.parametrize("lacking", ["gcsfs", "google.cloud.storage"])
def test_what_gs_needs_is_named_if_it_is_missing(monkeypatch, lacking):
    def without(name):
        if name == lacking:
            raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(storage, "importlib", type("", (), {"import_module": without}))
    with pytest.raises(ImportError, match=rf'module {lacking}, .* pip install "jaxseg\[gcs\]"'):
        storage.checked("gs://bucket/run")


class Bucket:
    """The part of gcsfs that is used past etils, over a dictionary of objects by name."""

    def __init__(self, *names):
        self.objects = {name: name.encode() for name in names}

    def find(self, prefix):
        prefix = f"{prefix.removeprefix('gs://')}/"
        return sorted(name for name in self.objects if name.startswith(prefix))

    def copy(self, name, target):
        self.objects[target.removeprefix("gs://")] = self.objects[name]

    def pipe_file(self, name, value, mode):
        name = name.removeprefix("gs://")
        if mode == "create" and name in self.objects:
            raise FileExistsError(name)
        self.objects[name] = value

    # What etils calls of it.
    def exists(self, name):
        name = str(name).removeprefix("gs://")
        return name in self.objects or bool(self.find(name))

    def isdir(self, name):
        return bool(self.find(str(name)))

    def listdir(self, name, detail=False):
        prefix = f"{str(name).removeprefix('gs://')}/"
        found = {prefix + n.removeprefix(prefix).partition("/")[0] for n in self.find(str(name))}
        if not found:
            raise FileNotFoundError(name)
        return sorted(found)

    def rm(self, name, recursive):
        for inner in self.find(str(name)):
            del self.objects[inner]


@pytest.fixture
def bucket(monkeypatch):
    """Puts a dictionary of objects where etils and `storage` expect gcsfs."""
    found = Bucket()
    backend = importlib.import_module("etils.epath.backend").fsspec_backend
    monkeypatch.setattr(backend, "_get_filesystem", lambda name: found)
    monkeypatch.setattr(storage, "_gcs", lambda: found)
    monkeypatch.setattr(storage, "_NEEDED", ())
    return found


def test_in_a_bucket_the_last_object_makes_a_checkpoint_finished(bucket):
    place = storage.path("gs://bucket/run")
    assert storage.finished_steps(place) == []
    bucket.objects = dict.fromkeys(
        ("bucket/run/3/commit_success.txt", "bucket/run/3/x/y", "bucket/run/6/x/y"), b""
    )
    assert storage.finished_steps(place) == [3] and storage.cut_short(place) == [6]


def test_in_a_bucket_a_damaged_checkpoint_is_set_aside_object_by_object(bucket):
    names = [f"bucket/run/3/{n}" for n in ("commit_success.txt", "variables/d/x")]
    bucket.objects = {name: name.encode() for name in [*names, "bucket/run/30/x"]}
    integrity.set_aside(storage.path("gs://bucket/run"), "3")
    moved = {name.replace("/3/", "/3.damaged/"): name.encode() for name in names}
    assert bucket.objects == {**moved, "bucket/run/30/x": b"bucket/run/30/x"}


def test_what_a_bucket_refuses_is_told_with_what_to_look_after(bucket, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Forbidden: bucket/run\ndetails")  # of a library: any kind

    monkeypatch.setattr(bucket, "listdir", refuse)
    with pytest.raises(
        OSError, match=r"gs://bucket/run cannot be reached: RuntimeError: Forbidden: .*credentials"
    ):
        storage.finished_steps(storage.path("gs://bucket/run"))
