"""Where a file of weights is: on this machine, or on the Hugging Face hub."""

from __future__ import annotations

import os
import pathlib

HUB = "hf://"


def resolve(source: str | os.PathLike[str]) -> pathlib.Path:
    """The local path of `source`; a file of the hub is fetched into huggingface_hub's cache if need be.

    Args:
      source: a path, or `hf://organisation/name/path/in/repository`, where `name@revision` names a branch, tag or
        commit. Without a network the cached file serves if there is one.

    Raises:
      ValueError: a source of another form.
      ImportError: the source is on the hub and huggingface_hub is not installed.
      OSError: there is no such file, or it can neither be fetched nor is it in the cache.
    """
    source = os.fspath(source)
    if source.startswith(HUB):
        return _from_hub(source)
    if "://" in source:
        raise ValueError(
            f"{source} is neither a path nor of the form {HUB}organisation/name/path/in/repository. Download the "
            "file and give its path."
        )
    path = pathlib.Path(source).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    return path


def _from_hub(source: str) -> pathlib.Path:
    repository, revision, name = _parts(source)
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(
            f"{source} is fetched by huggingface_hub, which is not installed: pip install 'jaxseg[hub]', or download "
            "the file and give its path."
        ) from error

    def fetched(local_files_only: bool) -> pathlib.Path:
        return pathlib.Path(
            huggingface_hub.hf_hub_download(
                repository, name, revision=revision, local_files_only=local_files_only
            )
        )

    try:
        return fetched(local_files_only=False)
    except errors.HFValidationError as error:
        raise ValueError(f"{source} cannot be on the hub: {error}") from error
    except Exception as error:  # of the hub or of whichever network library is below it
        try:
            # Some errors of the network do not make huggingface_hub look into its cache.
            cached = None if _is_final(error, errors) else fetched(local_files_only=True)
        except errors.LocalEntryNotFoundError:
            cached = None
        if cached is not None:
            return cached
        raise OSError(
            f"{source} is not in the cache and cannot be fetched: {_reason(error, errors)}"
        ) from error


def _is_final(error: Exception, errors) -> bool:
    """Whether the hub has answered that there is no such file for this user."""
    answers = (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    )
    return isinstance(error, answers) and not isinstance(error, errors.LocalEntryNotFoundError)


def _reason(error: Exception, errors) -> str:
    if isinstance(error, errors.GatedRepoError):
        return "its repository asks for an agreement on its page and for a login (hf auth login)."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the hub cannot be reached from here, or HF_HUB_OFFLINE is set."
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def _parts(source: str) -> tuple[str, str | None, str]:
    """(organisation/name, revision, path in the repository)."""
    parts = source.removeprefix(HUB).split("/")
    if len(parts) < 3 or any(p in ("", ".", "..") for p in parts):
        raise ValueError(
            f"{source} is not of the form {HUB}organisation/name/path/in/repository: the file's path within the "
            "repository belongs to it."
        )
    name, _, revision = parts[1].partition("@")
    if not name or ("@" in parts[1] and not revision):
        raise ValueError(f"{source}: {parts[1]!r} is not of the form name or name@revision.")
    return f"{parts[0]}/{name}", revision or None, "/".join(parts[2:])
