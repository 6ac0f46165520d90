"""Steps compiled for devices that are not there: what is read off them, and what is calculated from it."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks import collectives, compile_step_table, fitting, projection, targets
from benchmarks.journal import Journal

ROOT = pathlib.Path(__file__).parents[2]

_MODULE = """\
HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]{0}) parameter(0)
  %permuted = bf16[16]{0} collective-permute(%x), channel_id=9, source_target_pairs={{0,1},{1,0}}
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[], f32[8]{0}) parameter(0)
}

%async_wrapped (q: f32[64]) -> f32[16] {
  ROOT %scattered = f32[16]{0:T(256)} reduce-scatter(%q), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}

ENTRY %main.1 (p0: f32[8]) -> f32[8] {
  %p0 = f32[8]{0} parameter(0), metadata={op_name="jit(step)/all-reduce(x)"}
  %reduced = (f32[4,8]{1,0:T(8,128)}, /*index=1*/bf16[2]{0}) all-reduce(%p0), replica_groups=[1,4]<=[4], to_apply=%add
  %alone = f32[4]{0} all-reduce(%p0), channel_id=2, replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %start = (f32[8]{0}, f32[16]{0}) all-gather-start(%p0), channel_id=3, replica_groups=[2,2]<=[4], dimensions={0}
  %done = f32[16]{0} all-gather-done(%start)
  %scatter = ((f32[64]{0}), f32[16]{0}) async-start(%p0), calls=%async_wrapped
  %loop = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %all = f32[8]{0} all-reduce(%p0), replica_groups=mesh['axis_0'=4,'axis_1'=1] {'axis_0'}, to_apply=%add
}
"""


def test_collectives_of_a_module():
    found = collectives.parse(_MODULE, 4)
    assert sorted(found) == [
        ("all-gather", 64, 2, 1, "f32"),  # its end counts, not what its start holds beside
        ("all-reduce", 32, 4, 1, "f32"),
        ("all-reduce", 132, 4, 1, "bf16+f32"),
        ("collective-permute", 32, 4, 3, "bf16"),  # in a loop of three rounds
        ("reduce-scatter", 256, 4, 1, "f32"),  # of the whole, not of a device's part
    ]
    assert collectives.summary(found) == {
        "collective-permute": {"number": 3, "bytes": 96, "sent": 96, "types": {"bf16": 96}},
        "reduce-scatter": {"number": 1, "bytes": 256, "sent": 192, "types": {"f32": 256}},
        "all-reduce": {
            "number": 2,
            "bytes": 164,
            "sent": 246,
            "types": {"bf16+f32": 132, "f32": 32},
        },
        "all-gather": {"number": 1, "bytes": 64, "sent": 32, "types": {"f32": 64}},
    }


@pytest.mark.parametrize(
    "groups, count",
    [
        ("{}", 8),
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("mesh['data'=4,'fsdp'=2] {'fsdp'}", 2),
        ("mesh['data'=4,'fsdp'=2] {'data','fsdp'}", 8),
        ("mesh['data'=8] {'data':(2)4}", 4),
    ],
)
def test_every_way_to_write_groups(groups, count):
    line = f"  ROOT %r = f32[4]{{0}} all-reduce(%p), replica_groups={groups}, to_apply=%add"
    (found,) = collectives.parse(f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}\n}}", 8)
    assert found.devices == count


def test_what_links_make_of_bytes():
    chip = projection.CHIPS["TPU v5e"]
    assert projection.seconds_computing(197e12, chip, 0.5) == 2
    assert projection.seconds_sending(400e9, chip.link) == 2
    assert projection.efficiency(2, 2) == 0.5 and projection.efficiency(1, 0) == 1
    # A ring of 8 sends 7/4 of what it reduces, one of 128 almost twice as much as that holds.
    assert projection.over_hosts(7 / 4, 8, 128) == pytest.approx(2 * 127 / 128)


def _search(planned, limit, first=fitting.FIRST):
    points = {}
    while (batch := fitting.next_batch(points, limit, first)) is not None:
        points[batch] = planned(batch)
    return points


def test_a_line_through_two_compilations_and_one_that_proves_it():
    points = _search(lambda n: 10 + 7 * n, 100)
    assert list(points) == [1, 2, 12] and fitting.largest(points, 100) == 12


def test_a_line_from_the_arguments_saves_a_compilation():
    points = {0: 9}
    while (batch := fitting.next_batch(points, 100, (5,))) is not None:
        points[batch] = 10 + 7 * batch
    assert list(points) == [0, 5, 12] and fitting.largest(points, 100) == 12


def test_where_memory_bends_the_search_goes_on_from_what_was_planned():
    points = _search(lambda n: 10 + 7 * n + n * n // 2, 100)
    assert fitting.largest(points, 100) == 8 and 9 in points and len(points) <= fitting.MOST


def test_a_compiler_that_refuses_without_a_number():
    points = _search(lambda n: 10 + 7 * n if n < 9 else None, 100)
    assert fitting.largest(points, 100) == 8


def test_nothing_fits():
    assert _search(lambda n: 200 * n, 100) == {1: 200}


def test_a_batch_taken_over_is_compiled_once_if_it_fits():
    assert list(_search(lambda n: 10 * n, 100, (8,))) == [8]
    assert fitting.largest(_search(lambda n: 13 * n, 100, (8,)), 100) == 7


def test_the_table_shows_the_batch_that_fits_and_projects_it(tmp_path):
    journal = Journal(tmp_path / "tpu.journal")
    kinds = {"all-reduce": {"number": 3, "bytes": 200_000_000, "sent": 300_000_000}}
    row = {"compile_seconds": 60.0, "collectives": kinds, "argument_bytes": 2e9}
    journal.end("context", {"date": "today", "commit": "abc", "jax": "0"})
    journal.end("model mask_rcnn", {"flops": 1e12, "xla_flops": 5e11})
    journal.end("v5e-2x2 brefine 1", {"error": "ValueError: no", "commit": "def"})
    for images, size in ((4, 19e9), (3, 18e9)):
        journal.end(f"v5e-4x4 mask_rcnn {images}", row | {"planned_bytes": size})
    journal.end("h200-8 mask_rcnn 7", row | {"planned_bytes": 8e9})
    for images, size in ((1, 5e9), (5, 17e9), (2, 8e9), (4, 14e9)):
        journal.end(f"v5e-2x2 mask_rcnn {images}", row | {"planned_bytes": size})
    result = json.loads(json.dumps(compile_step_table.to_result([journal])))
    fits = {"v5e-2x2 mask_rcnn": 4, "v5e-2x2 brefine": 0, "v5e-4x4 mask_rcnn": 0}
    assert result["fits"] == {**fits, "h200-8 mask_rcnn": 7}
    order = [row["images"] for row in result["rows"]]  # whenever they were made
    assert order == [1, 2, 4, 5, 1, 3, 4, 7]  # by place and method
    assert [p["devices"] for p in result["projections"]] == [4, 4, 4, 4, 16, 16, 8, 128]
    lines = compile_step_table.table(result).splitlines()
    assert lines[0].startswith("today, commit abc, def, jax 0")
    assert (
        "| v5e-2x2 | mask_rcnn | 4 | 14.00 | 4.00 | 2.00 | 3 all-reduce | 200.0 | 300.0 | 60 |"
        in lines
    )
    assert "| v5e-2x2 | brefine | 1 | ValueError: no | | | | | | |" in lines
    assert any(x.startswith("| v5e-4x4 | mask_rcnn | 3 | 18.00 |") for x in lines)  # none fits
    assert "mask_rcnn" not in result["not_compiled"]["v5e-2x2"]
    assert "brefine" in result["not_compiled"]["v5e-2x2"] and "v5e-16x16" in result["not_compiled"]
    # 4 TFLOPs take 50.8 ms at 40 % of the peak, 300 MB 3 ms over two links of four.
    assert "| 4 TPU v5e | mask_rcnn | 4 | 100 | 3.00 | 94.4% | 87.1% |" in lines


def test_a_folder_of_other_programs_is_not_taken(tmp_path):
    Journal(tmp_path / "tpu.journal").end(
        "context", {"backbone": "r50", "size": ["800", "1344"], "small": False}
    )
    command = [sys.executable, "-m", "benchmarks.compile_step", f"--kept={tmp_path}"]
    done = subprocess.run(
        [*command, "--size=64,64", "--only_show"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1 and "has programs of other settings than --size=" in done.stderr
    done = subprocess.run([*command, "--only_show"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Not compiled so far" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("place", ["v5e-2x2", "h200-8"])
def test_a_small_step_compiles_with_the_kernels_of_the_place(tmp_path, place):
    platform = compile_step_table.PLACES[place].target.platform
    if command := targets.missing(platform):
        pytest.skip(f"no compiler for {platform}: {command}")
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.compile_step", f"--places={place}", "--small"]
    command += ["--methods=mask_rcnn", "--size=128,128", "--batches=1", f"--json={path}"]
    subprocess.run(command, check=True, cwd=ROOT, env=dict(os.environ), timeout=1800)
    (row,) = json.loads(path.read_text())["rows"]
    assert row["kernels"] > 0 and row["planned_bytes"] > 0
    assert row["collectives"]["all-reduce"]["bytes"] > 4e6  # the gradients, at least


@pytest.mark.parametrize(
    ("message", "planned"),
    [
        ("Ran out of memory in memory space hbm. Used 1.50G of 15.75G hbm.", 3 << 29),
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (512.0M) exceeds",
            1 << 29,
        ),
        ("Out of memory while trying to allocate 7 bytes.", None),
    ],
)
def test_what_a_compiler_would_have_needed(message, planned):
    assert fitting.asked(message) == planned


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--kept={}/none", "--only_show"], "nothing was kept in --kept="),
        (["--kept={}/file", "--only_show"], "is no folder"),
        (["--json={}", "--only_show"], "a file is written"),
        (["--places=h200-8", "--fsdp=3"], "--fsdp must divide"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(tmp_path, given, message):
    (tmp_path / "file").write_text("")
    command = [
        sys.executable,
        "-m",
        "benchmarks.compile_step",
        *(g.format(tmp_path) for g in given),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr and not (tmp_path / "none").exists()
