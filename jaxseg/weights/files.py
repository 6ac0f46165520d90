"""Files of weights as dictionaries of arrays, whoever wrote them, without running anything that is in them.

| format | files | told by |
|---|---|---|
| safetensors | `.safetensors` | its suffix, or its header |
| torch's archives | `.pth`, `.pt`, `.bin` since torch 1.6 | a zip archive with a `data.pkl` |
| torch's streams | the same before, or saved so on request | a pickle of torch's magic number |
| pickles of arrays | `.pkl` of Detectron2 and Detectron | any other pickle |
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxseg.weights import arrays, pickled_arrays, pickles, safetensors_file, torch_file

# Training scripts save the weights beside other things, under one of these names.
WRAPPERS = ("state_dict", "model", "model_state_dict", "blobs")
_MAX_WRAPPERS = 3  # within each other
_FOREIGN = {
    b"version https://git-lfs": "it is a Git LFS pointer, not the file itself: fetch that by `git lfs pull`",
    b"<": "it is a web page or XML, not weights: look at what was downloaded",
    b"\x89HDF": "it is an HDF5 file",
    b"\x1f\x8b": "it is compressed by gzip: decompress it",
    b"\x93NUMPY": "it is a single NumPy array without a name",
}
_KNOWN = "Known are .safetensors, torch's .pth and .pt, and Detectron2's .pkl"


class StateDict(dict[str, np.ndarray]):
    """Arrays by the names that the file gives them.

    Attributes:
      metadata: what the file says in text and numbers beside the arrays: safetensors' `__metadata__`; Detectron2's
        `__author__` and `matching_heuristics`; text, numbers and sequences of them beside the weights (`epoch`);
        MMDetection's `meta`, of which text, numbers, lists and dictionaries of them are kept.
      dropped: names of the other entries, none of which is an array of the model (`optimizer`, `message_hub`).
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        dropped: tuple[str, ...] = (),
    ):
        super().__init__(values or {})
        self.metadata = dict(metadata or {})
        self.dropped = dropped


def load_file(path: str | os.PathLike[str]) -> StateDict:
    """Reads a file of weights.

    The arrays are those of the innermost dictionary when the file holds {"state_dict": {...}}, or "model",
    "model_state_dict", "blobs" instead, in that order if there are several. Copies of the weights under other names
    (moving averages as "model_ema") are dropped. Names stay as they are in the file.

    Args:
      path: the file. Its content decides how it is read; only `.safetensors` and `.pkl` are also told by the suffix.

    Returns:
      The arrays, read-only (some may share memory, as tied weights do): float32 for floats of any width, integers
      and booleans as stored.

    Raises:
      ValueError: the file is of no known format, truncated or damaged, holds no arrays, or holds what is no data;
        nothing of it was run.
      OSError: the file does not exist, is a folder, or cannot be read.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder. Give the file of weights in it. {_KNOWN}.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with _opened(path) as content:
            return _state_dict(content, os.path.getsize(path))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {str(error).rstrip('.')}.") from error


def save_safetensors(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes arrays to a `.safetensors` file; arguments and errors as `safetensors_file.write`."""
    safetensors_file.write(path, state_dict, metadata)


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """What the file holds; the arrays in it can be read inside of the context."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError("it is empty")
    if path.name.endswith(".index.json") or (head[:1] == b"{" and b'"weight_map"' in head):
        raise ValueError(
            "it is only the index of weights in several files. Read those one by one by load_file, put them together "
            "into one dictionary and write it by save_safetensors"
        )
    for start, words in _FOREIGN.items():
        if head.startswith(start):
            raise ValueError(f"{words}. {_KNOWN}")
    if path.suffix == ".safetensors" or safetensors_file.looks_like(head[:9], size):
        found, metadata = safetensors_file.read(path)
        yield StateDict(found, metadata=metadata)
    elif head.startswith(b"PK"):
        with torch_file.open_zip(path) as content:
            yield content
    elif head[0] == 0x80 or path.suffix in (".pkl", ".pickle"):
        with _opened_pickle(path, size) as content:
            yield content
    else:
        raise ValueError(f"it is of no known format: it begins with {head[:8]!r}. {_KNOWN}")


@contextlib.contextmanager
def _opened_pickle(path: pathlib.Path, size: int) -> Iterator[Any]:
    with open(path, "rb") as file:
        vocabulary = pickles.containers() | pickled_arrays.vocabulary()
        content = pickles.load(pickles.Bounded(file, size), vocabulary)
    if content == torch_file.MAGIC:
        with torch_file.open_stream(path) as saved:
            yield saved
    else:
        yield content


def _state_dict(content: Any, size: int) -> StateDict:
    """The arrays of what was read from a file of `size` bytes."""
    metadata, dropped = {}, []
    if isinstance(content, StateDict):
        metadata = content.metadata
    for _ in range(_MAX_WRAPPERS):
        name = next((n for n in WRAPPERS if _is_dict(content, n)), None)
        if name is None:
            break
        _sort_out({k: v for k, v in content.items() if k != name}, metadata, dropped)
        content = content[name]
    if not isinstance(content, dict):
        raise ValueError(f"it holds a single {type(content).__name__}, not arrays by name")
    found = {
        k: v
        for k, v in content.items()
        if isinstance(k, str) and isinstance(v, np.ndarray | pickles.Deferred)
    }
    _sort_out({k: v for k, v in content.items() if k not in found}, metadata, dropped)
    if not found:
        names = ", ".join(arrays.short(k) for k in list(content)[:8]) or "nothing"
        raise ValueError(f"it holds no arrays: what it holds is {names}")
    return StateDict(_read(found, size), metadata=metadata, dropped=tuple(dropped))


def _is_dict(content: Any, name: str) -> bool:
    return isinstance(content, dict) and isinstance(content.get(name), dict)


def _read(found: dict[str, np.ndarray | pickles.Deferred], size: int) -> dict[str, np.ndarray]:
    """The numbers. Views may repeat those of the file, but not without end."""
    left = 8 * size + 2**26
    values = {}
    for name, value in found.items():
        try:
            left -= 4 * (value.size() if isinstance(value, pickles.Deferred) else value.size)
            if left < 0:
                raise ValueError(
                    f"the arrays up to this one are far larger than the file of {size} bytes"
                )
            read = value.read() if isinstance(value, pickles.Deferred) else value
            values[name] = arrays.loaded(read)
        except ValueError as error:
            raise ValueError(f"{name!r}: {error}") from error
    return values


# What is beside the arrays.

_MAX_DEPTH, _MAX_ITEMS = 6, 100_000


def _sort_out(others: Mapping[Any, Any], metadata: dict[str, Any], dropped: list[str]) -> None:
    """Adds plain entries to `metadata` and the names of the others to `dropped`."""
    for name, value in others.items():
        if isinstance(value, list | tuple) and len(value) <= _MAX_ITEMS:
            plain = all(_is_plain(v) for v in value)
        else:
            plain = _is_plain(value)
        if isinstance(name, str) and plain:
            metadata[name] = value
        elif name == "meta" and isinstance(value, dict):
            metadata[name] = _plain(value, [_MAX_ITEMS], _MAX_DEPTH)
        else:
            dropped.append(name if isinstance(name, str) else arrays.short(name))


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bytes)


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """`value` without what is neither text, number nor container; None for what is too deep or too much.

    A pickle may hold the same list many times within itself: `left` is how many items may still be copied.
    """
    left[0] -= 1
    if _is_plain(value):
        return value
    if left[0] < 0 or depth == 0:
        return None
    if isinstance(value, list | tuple):
        items = [_plain(v, left, depth - 1) for v in value if not isinstance(v, pickles.Value)]
        return type(value)(items)
    if isinstance(value, dict):
        return {
            k: _plain(v, left, depth - 1)
            for k, v in value.items()
            if not isinstance(v, pickles.Value | pickles.Name)
        }
    return None
