"""Registers and spills of GPU kernels, as NVIDIA's assembler reports them."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

_REPORT = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def find() -> pathlib.Path | None:
    """The assembler of NVIDIA's Python packages if they are installed, else that of the PATH."""
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations if package else ():
        for path in sorted(pathlib.Path(folder).glob("*/bin/ptxas")):
            return path
    found = shutil.which("ptxas")
    return pathlib.Path(found) if found else None


def parse(report: str) -> dict[str, dict[str, int]]:
    """`ptxas -v`'s report -> by kernel, registers and the bytes of the stack and of spill stores and loads."""
    return {
        match["name"]: {
            "registers": int(match["registers"]),
            "stack_bytes": int(match["stack"]),
            "spill_store_bytes": int(match["stores"]),
            "spill_load_bytes": int(match["loads"]),
        }
        for match in _REPORT.finditer(report)
    }


def assemble(path: pathlib.Path, architecture: str) -> str:
    """The report on one file of PTX."""
    command = [find(), "-v", f"-arch={architecture}", "-o", os.devnull, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@contextlib.contextmanager
def captured_output() -> Iterator[list[str]]:
    """What the process writes to its standard output and error, native code included: one text, there at the end."""
    text, kept = [], [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as file:
        _flush()
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
        try:
            yield text
        finally:
            _flush()
            for descriptor, own in zip((1, 2), kept, strict=True):
                os.dup2(own, descriptor)
                os.close(own)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # the C library's own buffers
