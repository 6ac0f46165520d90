"""Jobs of the fake program, and a runner of them that remembers what it said and wrote."""

from __future__ import annotations

import dataclasses
import pathlib
from types import SimpleNamespace

import pytest
from rich.console import Console

from jaxseg.reproduce import job_file, runner
from jaxseg.reproduce.plan import Job

PROGRAM = pathlib.Path(__file__).with_name("fake_program.py")
TABLE = SimpleNamespace(title="A table")


@dataclasses.dataclass
class Lab:
    """The work directory of a table, and what is done in it."""

    folder: pathlib.Path
    console: Console = dataclasses.field(default_factory=lambda: Console(record=True, width=200))
    written: list = dataclasses.field(default_factory=list)  # what was written after how many jobs

    def job(self, row: str, seed: int = 0, do: str = "", steps: int = 3, **fields) -> Job:
        folder = self.folder / "runs" / row / f"seed{seed}"
        words = [f"--workdir={folder}", f"--config.seed={seed}", f"--steps={steps}", f"--do={do}"]
        return Job(row, seed, folder, ("python", str(PROGRAM), *words), steps=steps, **fields)

    def evaluation(self, row: str, seed: int = 0, **fields) -> Job:
        folder = self.folder / "runs" / row / f"seed{seed}"
        return Job(row, seed, folder, ("python", str(PROGRAM), f"--out={folder}"), **fields)

    def run(self, *jobs: Job, **options) -> runner.Outcome:
        return runner.run(
            TABLE,
            jobs,
            self.folder,
            console=self.console,
            write_results=lambda *_: self.written.append("results"),
            write_report=lambda *_: self.written.append("report"),
            **options,
        )

    def record(self, row: str, seed: int = 0) -> job_file.Record:
        return job_file.read(self.folder / "runs" / row / f"seed{seed}")

    def starts(self, row: str, seed: int = 0) -> int:
        path = self.folder / "runs" / row / f"seed{seed}" / "starts.txt"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def said(self) -> str:
        return self.console.export_text(clear=False)


@pytest.fixture
def lab(tmp_path, monkeypatch) -> Lab:
    monkeypatch.setattr(runner, "POLL", 0.02)
    return Lab(tmp_path / "table")
