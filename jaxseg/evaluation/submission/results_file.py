"""A JSON list read entry by entry: the results of a whole test split need not fit into memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

_CHUNK = 1 << 20  # characters read at once
_LONGEST = 1 << 25  # characters of one entry; a mask has at most a few per pixel of its outline
_SPACE = " \t\r\n"


class ResultsFile:
    """The entries of a JSON file with a list, or of the one such file in a zip; it can be gone through several times.

    Args:
      path: the file.

    Raises:
      FileNotFoundError: no such file.
      ValueError: when it is read: it is no JSON list, cut off, or a damaged zip.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no results file {self.path}.")

    def __iter__(self) -> Iterator[Any]:
        with _text(self.path) as file:
            yield from _entries(file, self.path)


@contextlib.contextmanager
def _text(path: pathlib.Path) -> Iterator[IO[str]]:
    """The file, or the only member of a zip, as text."""
    try:
        if path.suffix != ".zip":
            with open(path, encoding="utf-8") as file:
                yield file
        else:
            with zipfile.ZipFile(path) as archive, archive.open(member(archive, path)) as file:
                yield io.TextIOWrapper(file, encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error}.") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is no zip file, or a damaged one: {error}.") from None


def member(archive: zipfile.ZipFile, path: pathlib.Path) -> str:
    """The name of the only file in a server's zip.

    Raises:
      ValueError: there are several, or it is named otherwise than the zip.
    """
    wanted, found = path.with_suffix(".json").name, archive.namelist()
    if found != [wanted]:
        raise ValueError(
            f"{path} holds {', '.join(found[:5]) or 'nothing'}: the server wants {wanted} in it, in no folder, and "
            "nothing else."
        )
    return wanted


def _entries(file: IO[str], path: pathlib.Path) -> Iterator[Any]:
    """The entries of the list that a text is."""
    text = _Text(file, path)
    if text.next_character() != "[":
        raise ValueError(f"{path} is no results file: a JSON list, [...], is needed.")
    text.skip()
    number = 0
    while (character := text.next_character()) != "]":
        if number and character != ",":
            raise text.error(f"a comma or ] is needed after entry {number - 1}")
        if number:
            text.skip()
        yield text.entry(number)
        number += 1
    text.skip()
    if text.next_character():
        raise text.error("something follows after the list's end")


class _Text:
    """A text file read in chunks; `rest` is what was read and not yet used."""

    def __init__(self, file: IO[str], path: pathlib.Path):
        self._file, self._path = file, path
        self._rest, self._at = "", 0
        self._decode = json.JSONDecoder().raw_decode

    def next_character(self) -> str:
        """The next character that is no space, which stays there; "" at the end."""
        while True:
            while self._at < len(self._rest) and self._rest[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._rest):
                return self._rest[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        self._at += 1

    def entry(self, number: int) -> Any:
        """The value that starts here."""
        self.next_character()
        while True:
            try:
                value, end = self._decode(self._rest, self._at)
            except json.JSONDecodeError as error:
                # It may only go on in the next chunk.
                if len(self._rest) - self._at < _LONGEST and self._more():
                    continue
                raise self.error(f"entry {number} is cut off or no JSON ({error.msg})") from None
            self._at = end
            return value

    def error(self, what: str) -> ValueError:
        return ValueError(f"{self._path} is not a JSON list of results: {what}.")

    def _more(self) -> bool:
        """Reads on; twice as far as there is already, so that a long entry is not tried too often."""
        left = len(self._rest) - self._at
        chunk = self._file.read(max(_CHUNK, left))
        self._rest, self._at = self._rest[self._at :] + chunk, 0
        return bool(chunk)
