"""The tiny table for real: killed at random moments and started again, it ends with the same bytes."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

from jaxseg.reproduce import job_file

ROOT = pathlib.Path(__file__).parents[2]
TRAINED = ("plain", "deep_mask_head", "longer")
KILLS = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for the child in /proc"),
]


def start(folder, *options):
    """A runner of the tiny table. It has the compilation cache of these tests, as its kin has."""
    command = [sys.executable, "-m", "jaxseg.reproduce", "tiny", f"--workdir={folder}", *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(folder, *options):
    process = start(folder, *options)
    said, _ = process.communicate(timeout=1800)
    return process.returncode, said


def children(process):
    try:
        text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(pid) for pid in text.split()]


def disturb(process, how):
    """Kills the runner, its program, or both at once, so that the program saves, does not, or neither knows."""
    for pid in children(process) if how != "runner" else ():
        os.kill(pid, signal.SIGKILL)
    if how != "program":
        process.kill()
    process.terminate()  # after a killed program the next row has begun
    process.communicate(timeout=600)


def bits(folder):
    """CRC-32 of every array of the last checkpoint of every run."""
    found = {}
    for run in (folder / "runs").glob("*/seed*"):
        digests = list(run.glob("checkpoints/*/digest/metadata"))
        if digests:
            last = max(digests, key=lambda path: int(path.parents[1].name))
            found[str(run.relative_to(folder))] = json.loads(last.read_text())
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The work directory of a table that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "table"
    status, said = finish(folder)
    assert status == 0, said
    return folder


def test_kills_at_random_moments_leave_the_same_results(tmp_path, whole):
    folder, chance = tmp_path / "table", random.Random(5)
    for number in range(KILLS):
        process = start(folder)
        deadline = time.monotonic() + chance.uniform(5, 60)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() is not None:
            break
        disturb(process, ("runner", "program", "both")[number % 3])
    status, said = finish(folder)
    assert status == 0, said

    records = {row: job_file.read(folder / "runs" / row / "seed0") for row in TRAINED}
    assert sum(record.starts for record in records.values()) > len(TRAINED)
    assert (folder / "results.json").read_bytes() == (whole / "results.json").read_bytes()
    assert len(bits(folder)) == 2 * len(TRAINED)
    assert bits(folder) == bits(whole)


def test_a_table_leaves_what_it_promises(whole):
    found = json.loads((whole / "results.json").read_text())
    assert [row["name"] for row in found["rows"]] == [
        "plain",
        "deep_mask_head",
        "longer",
        "strict_nms",
    ]
    assert all(run["status"] == "finished" for row in found["rows"] for run in row["runs"])
    for name in ("timings.json", "table.md", "report.html"):
        assert (whole / name).stat().st_size > 500
    assert "https://" not in (whole / "report.html").read_text()


def test_a_finished_table_is_told_in_seconds(whole):
    before = (whole / "results.json").read_bytes()
    status, said = finish(whole)
    assert status == 0 and "8 already finished" in said
    assert "starts" not in said
    assert (whole / "results.json").read_bytes() == before


def test_a_dry_run_shows_the_commands_and_leaves_nothing(tmp_path):
    options = ("--rows=longer", "--seeds=3", "--shard=2/3", "--set=optim.momentum=0.8", "--dry_run")
    status, said = finish(tmp_path / "table", *options)
    assert status == 0, said
    assert "2 jobs, 2 rows x 1 seed, shard 2 of 3." in said
    assert "Added, because rows start from them: plain." in said
    assert said.count("--config.seed=1") == 2 and said.count("--config.optim.momentum=0.8") == 2
    assert f"--config.init_from={tmp_path}/table/runs/plain/seed1" in said
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_one_message(tmp_path):
    status, said = finish(tmp_path / "table", "--data=root=/nonexistent")
    assert status == 2 and "Traceback" not in said
    assert "/nonexistent/annotations/instances_train.json" in said
    assert not list(tmp_path.iterdir())
