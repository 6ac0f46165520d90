"""Where weights come from. huggingface_hub is imitated: there is no network here."""

from __future__ import annotations

import pathlib
import sys
import types

import pytest

from jaxseg.weights.hub import resolve

SOURCE = "hf://org/name/folder/model.safetensors"


class Hub:
    """Stands in for huggingface_hub: `remote` and `cached` are a file or the error that there is instead."""

    def __init__(self, monkeypatch):
        errors = types.ModuleType("huggingface_hub.errors")
        errors.HFValidationError = type("HFValidationError", (ValueError,), {})
        errors.EntryNotFoundError = type("EntryNotFoundError", (Exception,), {})
        local = (FileNotFoundError, errors.EntryNotFoundError)
        errors.LocalEntryNotFoundError = type("LocalEntryNotFoundError", local, {})
        errors.RepositoryNotFoundError = type("RepositoryNotFoundError", (OSError,), {})
        errors.RevisionNotFoundError = type("RevisionNotFoundError", (OSError,), {})
        errors.GatedRepoError = type("GatedRepoError", (errors.RepositoryNotFoundError,), {})
        module = types.ModuleType("huggingface_hub")
        module.hf_hub_download, module.errors = self.download, errors
        monkeypatch.setitem(sys.modules, "huggingface_hub", module)
        monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
        self.errors, self.asked = errors, []
        self.remote = self.cached = errors.LocalEntryNotFoundError("Cannot find the file.")

    def download(self, repo_id, filename, *, revision=None, local_files_only=False):
        self.asked.append((repo_id, filename, revision, local_files_only))
        answer = self.cached if local_files_only else self.remote
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def hub(monkeypatch):
    return Hub(monkeypatch)


def test_a_local_path(tmp_path, monkeypatch):
    file = tmp_path / "model.pth"
    file.touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve(file) == resolve(str(file)) == resolve("~/model.pth") == file
    with pytest.raises(FileNotFoundError, match=r"There is no file .*missing\.pth"):
        resolve(tmp_path / "missing.pth")


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_file_of_the_hub(hub, revision):
    hub.remote = "/cache/model.safetensors"
    source = SOURCE.replace("name", f"name@{revision}") if revision else SOURCE
    assert resolve(source) == pathlib.Path(hub.remote)
    assert hub.asked == [("org/name", "folder/model.safetensors", revision, False)]


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("timed out")])
def test_the_cached_file_serves_without_a_network(hub, error):
    hub.remote, hub.cached = error, "/cache/model.safetensors"
    assert resolve(SOURCE) == pathlib.Path(hub.cached)
    assert [local for *_, local in hub.asked] == [False, True]


def test_neither_network_nor_cache(hub):
    with pytest.raises(OSError, match=f"{SOURCE} is not in the cache .*the hub cannot be reached"):
        resolve(SOURCE)
    hub.remote = RuntimeError("the proxy is\non fire")
    with pytest.raises(OSError, match=r"cannot be fetched: the proxy is$"):
        resolve(SOURCE)


def test_what_the_hub_does_not_have(hub):
    hub.cached = "/cache/of/yesterday"
    for name in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"):
        hub.remote = getattr(hub.errors, name)("404: it is not there")
        with pytest.raises(OSError, match="404: it is not there"):
            resolve(SOURCE)
    hub.remote = hub.errors.GatedRepoError("403")
    with pytest.raises(OSError, match="asks for an agreement"):
        resolve(SOURCE)
    hub.remote = hub.errors.HFValidationError("Repo id must not end by .git")
    with pytest.raises(ValueError, match=r"cannot be on the hub: .*\.git"):
        resolve(SOURCE)


@pytest.mark.parametrize(
    "source",
    [
        "hf://org/name",
        "hf://org",
        "hf://",
        "hf://org/name/",
        "hf://org//model.pth",
        "hf://org/name/../../model.pth",
        "hf://org/name@/model.pth",
        "hf://org/@v1/model.pth",
    ],
)
def test_incomplete_sources(hub, source):
    with pytest.raises(ValueError, match="is not of the form"):
        resolve(source)
    assert not hub.asked


@pytest.mark.parametrize("source", ["https://host/model.pth", "detectron2://R-50.pkl", "s3://a/b"])
def test_other_addresses(source):
    with pytest.raises(ValueError, match=r"neither a path nor .* Download the file"):
        resolve(source)


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxseg\[hub\]'"):
        resolve(SOURCE)
