"""The commands that measure and compile RoIAlign."""

import json
import subprocess
import sys

import pytest

from benchmarks import roi_align_measure, targets
from benchmarks.journal import Journal
from pallas_kernels.roi_align import choice, xla
from pallas_kernels.roi_align.arg_specs import TINY

pytestmark = pytest.mark.slow


def _run(module, *arguments):
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_implementation_has_its_row(tmp_path):
    done = _run(
        "roi_align",
        "--specs=box_7x7_fp32_tiny,shape_aware_7x7_bf16_tiny",
        "--implementations=xla,gather,triton",
        "--repeats=1",
        f"--json={tmp_path / 'result.json'}",
        "--check",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    rows = {(row["spec"], row["implementation"]): row for row in result["rows"]}
    assert len(rows) == 6
    for (spec, implementation), row in rows.items():
        if implementation == "triton" and result["platform"] == "cpu":
            assert "needs an NVIDIA GPU" in row["skipped"]
            continue
        assert set(row["seconds"]) == {"forward", "backward", "forward_backward"}
        assert row["errors"]["out"] < 1e-2
        assert ("d_probabilities" in row["errors"]) == spec.startswith("shape_aware")
    assert all(f > 0 for s in result["specs"].values() for f in s["floor_seconds"].values())
    assert "copy" in done.stdout and result["device"] in done.stdout


def test_what_is_wrong_or_breaks_is_not_timed(tmp_path, monkeypatch):
    def breaks(*_):
        raise RuntimeError("out of luck")

    right = xla.IMPLEMENTATION
    wrong = right._replace(forward=lambda *a: right.forward(*a) * 1.001)
    halved = right._replace(d_features=lambda *a: tuple(g / 2 for g in right.d_features(*a)))
    made = {"xla": right, "wrong": wrong, "halved": halved}
    made["breaks"] = right._replace(forward=breaks)
    monkeypatch.setattr(choice, "IMPLEMENTATIONS", {n: lambda i=i: i for n, i in made.items()})
    name, journal = "box_7x7_fp32_tiny", Journal(tmp_path / "journal")
    roi_align_measure.measure(journal, name, TINY[name], made, repeats=1, seed=0)
    rows = {key.split()[1]: row for key, row in journal.rows.items()}
    assert all("ArithmeticError" in rows[name]["error"] for name in ("wrong", "halved"))
    assert "out of luck" in rows["breaks"]["error"]
    assert [n for n in made if "seconds" in rows[n]] == ["xla"]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_every_kernel_compiles_for_a_device_that_is_not_here(platform, tmp_path):
    command = targets.missing(platform)
    if command:
        pytest.skip(f"no compiler for {platform}: {command}")
    done = _run(
        "compile_roi_align",
        f"--platforms={platform}",
        "--specs=shape_aware_7x7_bf16,mask_14x14_fp32",
        f"--json={tmp_path / 'result.json'}",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "result.json").read_text())["rows"]
    assert rows and all("seconds" in row for row in rows)
    for row in rows:
        if row["implementation"] in ("mosaic_gpu", "triton"):
            aware = row["spec"].startswith("shape_aware")
            assert len(row["kernels"]) == (1 if row["direction"] == "forward" else 4 + aware)
