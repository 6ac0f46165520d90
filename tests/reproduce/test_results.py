"""results.json, timings.json and table.md: right numbers, the same bytes again, and nothing hidden by what failed."""

import json
import os
import pathlib
import shutil
import threading

import pytest

from configs.tables.table import Row, Table
from jaxseg.reproduce import places, records, results, table_page
from tests.reproduce import made_runs

MASK = {("plain", 0): 0.30, ("plain", 1): 0.32, ("deep", 0): 0.33, ("deep", 1): 0.34}


def made_table(**fields) -> Table:
    rows = (
        Row("plain", "configs/demo.py", label="Plain", published={"mask/AP": 34.2, "box/AP": 37.8}),
        Row("deep", "configs/demo.py", overrides={"model.mask_head.convs": 4}, published={"mask/AP": 35.3}),
        Row("strict", evaluate="plain", overrides={"model.test.score": 0.2}),
    )  # fmt: skip
    return Table(**(dict(title="A table", rows=rows, baseline="plain") | fields))


@pytest.fixture
def folder(tmp_path):
    for (row, seed), ap in MASK.items():
        convs = 4 if row == "deep" else 2
        made_runs.trained(tmp_path, row, seed, ap, ap + 0.05, model__mask_head__convs=convs)
    made_runs.evaluated(tmp_path, "strict", 0, 0.28, 0.35)
    return tmp_path


def by_name(found):
    return {row["name"]: row for row in found["rows"]}


def test_rows_have_mean_spread_and_paired_difference(folder):
    found = by_name(results.write(folder, made_table()))
    plain, deep = found["plain"], found["deep"]
    assert plain["metrics"]["mask/AP"] == pytest.approx(dict(count=2, mean=0.31, sd=0.01 * 2**0.5))
    assert plain["difference"] is None
    pair = deep["difference"]["metrics"]["mask/AP"]
    assert deep["difference"]["baseline"] == "plain"
    assert (pair["count"], pair["mean"]) == (2, pytest.approx(0.025))
    # 0.03 and 0.02; t(0.975, 1) = 12.7062, standard error 0.005.
    assert (pair["low"], pair["high"]) == pytest.approx(
        (0.025 - 0.063531, 0.025 + 0.063531), abs=1e-6
    )
    assert deep["difference"]["published"] == {"mask/AP": 1.1}


def test_measured_values_stay_as_they_are_and_units_are_named(folder):
    found = results.write(folder, made_table())
    runs = by_name(found)["deep"]["runs"]
    assert [run["metrics"]["mask/AP"] for run in runs] == [0.33, 0.34]
    assert runs[0]["metrics"]["mask/APl"] is None  # -1: not defined
    assert runs[0]["step"] == 10 and "seconds" not in runs[0]
    assert found["units"] == {"measured": "fraction", "published": "percent"}


def test_columns_nobody_measured_or_published_are_left_out_and_further_kinds_come_in(folder):
    place = made_runs.trained(folder, "plain", 2, 0.3, 0.3)
    final = json.loads((place / "finished.json").read_text())
    final["boundary"] = {"summary": {"AP": 0.2, "AP50": 0.4}}
    (place / "finished.json").write_text(json.dumps(final))
    found = results.write(folder, made_table())
    assert "mask/APl" not in found["columns"]
    assert found["columns"][-1] == "boundary/AP"
    assert found["columns"][0] == "mask/AP"


def test_configs_differ_where_rows_do(folder):
    found = by_name(results.write(folder, made_table()))
    assert found["deep"]["difference"]["config"] == {"model.mask_head.convs": [2, 4]}
    assert found["strict"]["difference"]["config"] is None  # its folder has no config


def test_the_same_runs_elsewhere_and_made_in_more_starts_give_the_same_bytes(
    folder, tmp_path_factory
):
    results.write(folder, made_table())
    other = tmp_path_factory.mktemp("elsewhere") / "again"
    for (row, seed), ap in MASK.items():
        convs = 4 if row == "deep" else 2
        place = made_runs.trained(other, row, seed, ap, ap + 0.05, model__mask_head__convs=convs)
        noted = json.loads((place / "job.json").read_text())
        noted |= dict(seconds=999.0, starts=5, finished="2027-01-01T00:00:00")
        (place / "job.json").write_text(json.dumps(noted))
    made_runs.evaluated(other, "strict", 0, 0.28, 0.35)
    results.write(other, made_table())
    assert (other / "results.json").read_bytes() == (folder / "results.json").read_bytes()
    assert (other / "timings.json").read_bytes() != (folder / "timings.json").read_bytes()


@pytest.mark.parametrize("relative", [True, False])
def test_the_folder_is_named_by_a_variable(folder, monkeypatch, relative):
    monkeypatch.chdir(folder.parent)
    given = folder.relative_to(folder.parent) if relative else folder
    hide = places.hidden(given)
    assert hide(f"--workdir={given}/runs/a/seed0") == "--workdir=$DIR/runs/a/seed0"
    assert hide(f"{folder}/runs: no space") == "$DIR/runs: no space"
    assert hide(f"--root={given}2/x") == f"--root={given}2/x"
    assert hide(f"/other/{given.name}/x") == f"/other/{given.name}/x"
    assert hide(f"{folder}") == hide(f"{folder.resolve()}") == "$DIR"
    assert hide(f"'{folder}'. {folder}.bak") == f"'$DIR'. {folder}.bak"


@pytest.mark.parametrize("name", ["plain", "mask", "finished", "./python/", "."])
def test_a_folder_may_be_called_like_anything(tmp_path, monkeypatch, name):
    """A row, a column, a status, a label, a word of a command: only paths into it are paths."""
    written = []
    for start, typed in (tmp_path / "a", "elsewhere/table"), (tmp_path / "b", name):
        start.mkdir()
        monkeypatch.chdir(start)
        folder = pathlib.Path(typed)
        for row in ("plain", "deep"):
            place = os.path.join(typed, "runs", row, "seed0")
            command = ["python", "train.py", "--config=plain", f"--workdir={place}"]
            init = os.path.join(typed, "runs", "plain", "seed0") if row == "deep" else ""
            made_runs.trained(folder, row, 0, 0.3, 0.4, init_from=init)
            made_runs.job(folder, row, 0, command=command)
        error = f"plain failed: [Errno 28] mask: '{os.path.join(typed, 'runs', 'plain')}/x'"
        made_runs.job(folder, "deep", 1, status="failed", error=error, command=[])
        found = results.write(folder, made_table())
        table_page.write(folder, made_table())
        written.append((folder / "results.json").read_text())
    assert written[0] == written[1]
    assert found["columns"][0] == "mask/AP"
    plain, deep, _ = found["rows"]
    assert [plain[key] for key in ("name", "label")] == ["plain", "Plain"]
    assert [run["status"] for run in deep["runs"]] == ["finished", "failed"]
    assert deep["runs"][0]["command"][2:] == ["--config=plain", "--workdir=$DIR/runs/deep/seed0"]
    assert deep["runs"][1]["error"] == "plain failed: [Errno 28] mask: '$DIR/runs/plain/x'"
    assert deep["difference"]["config"] == {"init_from": ["", "$DIR/runs/plain/seed0"]}


def test_the_folder_is_found_in_commands_that_name_it_otherwise(folder):
    """As typed: relative to a folder that is not the current one any more."""
    for seed in (0, 1):
        command = ["python", "train.py", f"--workdir=../my/t/runs/deep/seed{seed}", "--x=../my/t2"]
        made_runs.job(folder, "deep", seed, command=command)
    run = by_name(results.write(folder, made_table()))["deep"]["runs"][1]
    assert run["command"][2:] == ["--workdir=$DIR/runs/deep/seed1", "--x=../my/t2"]


def test_python_is_python_in_a_command():
    assert results.typed(["/opt/env/bin/python3.12", "train.py"]) == ["python", "train.py"]
    assert results.typed(["train.py", "python"]) == ["train.py", "python"]
    assert results.typed([]) == []


def test_what_failed_is_told_and_hides_nothing(folder):
    made_runs.job(folder, "deep", 1, status="failed", error="ValueError: no | such <key>")
    made_runs.job(folder, "strict", 1, status="skipped", error="needs plain")
    found = by_name(results.write(folder, made_table()))
    states = {run["seed"]: (run["status"], run["error"]) for run in found["deep"]["runs"]}
    assert states == {0: ("finished", ""), 1: ("failed", "ValueError: no | such <key>")}
    # What a failed run had measured before is not its result.
    assert found["deep"]["metrics"]["mask/AP"] == dict(count=1, mean=0.33, sd=None)
    text = (folder / "table.md").read_text()
    assert "**failed** | ValueError: no \\| such \\<key\\>" in text
    assert "1 of 2" in text


def test_nothing_at_all_is_a_table_too(tmp_path):
    found = results.write(tmp_path, made_table())
    assert [row["runs"] for row in found["rows"]] == [[], [], []]
    assert "not run" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "timings.json").read_text())["runs"] == {}


def test_jobs_to_come_are_there_without_results(tmp_path):
    job = type(
        "Job",
        (),
        dict(row="deep", seed=1, command=("python", "train.py", f"--workdir={tmp_path}/x")),
    )
    run = by_name(results.write(tmp_path, made_table(), [job]))["deep"]["runs"][0]
    assert (run["seed"], run["status"]) == (1, "not started")
    assert run["command"][-1] == "--workdir=$DIR/x"


def test_damaged_files_are_as_if_they_were_not_there(folder):
    place = folder / "runs" / "deep"
    (place / "seed0" / "finished.json").write_text('{"step": 10, "mask": {"summ')
    (place / "seed1" / "job.json").write_text("")
    (place / "seed1" / "run.json").write_bytes(b"\xff\xfe")
    (place / "seednot").mkdir()
    found = by_name(results.write(folder, made_table()))
    assert [run["seed"] for run in found["deep"]["runs"]] == [0, 1]
    assert "mask/AP" not in found["deep"]["runs"][0]["metrics"]


def test_runs_of_a_table_that_are_not_asked_for_still_count(folder):
    """Shards of several machines come together in one folder."""
    job = type("Job", (), dict(row="plain", seed=0, command=()))
    found = by_name(results.write(folder, made_table(), [job]))
    assert found["plain"]["metrics"]["mask/AP"]["count"] == 2


@pytest.mark.parametrize("write", [results.write, table_page.write])
def test_what_is_read_is_written_before_another_reads(tmp_path, monkeypatch, write):
    """Else a shard that ends while another sums up could lose its runs from the files of both."""
    made_runs.trained(tmp_path, "plain", 0, 0.3, 0.3)
    find, done = records.find, []

    def slow(*arguments):
        found = find(*arguments)
        if threading.current_thread() is first:
            made_runs.trained(tmp_path, "plain", 1, 0.3, 0.3)
            second.start()
            second.join(1.0)
            assert not done
        return found

    def run(name):
        write(tmp_path, made_table())
        done.append(name)

    first, second = (threading.Thread(target=run, args=(name,)) for name in ("first", "second"))
    monkeypatch.setattr(records, "find", slow)
    first.start()
    first.join()
    second.join()
    assert done == ["first", "second"]
    text = (tmp_path / ("results.json" if write is results.write else "report.html")).read_text()
    assert '"seed": 1' in text or "2 of 2 runs finished" in text


def test_runs_of_several_environments_are_told_apart(folder):
    path = folder / "runs" / "deep" / "seed1" / "run.json"
    run = json.loads(path.read_text())
    run |= {
        "commit": "0123abc",
        "device": {"platform": "gpu", "kind": "H200", "count": 8, "processes": 1},
    }
    path.write_text(json.dumps(run))
    found = results.write(folder, made_table())["environments"]
    assert [e["runs"] for e in found] == [
        ["plain/seed0", "plain/seed1", "deep/seed0"],
        ["deep/seed1"],
    ]
    assert found[1]["device"]["count"] == 8


def test_a_row_may_have_a_baseline_of_its_own_and_a_table_none(folder):
    table = made_table(baseline="")
    rows = (*table.rows[:1], Row("deep", "configs/demo.py", baseline="plain"), table.rows[2])
    found = by_name(results.write(folder, made_table(baseline="", rows=rows)))
    assert found["deep"]["difference"]["baseline"] == "plain"
    assert found["strict"]["difference"] is None


def test_labels_that_two_rows_have_are_told_apart(folder):
    rows = (Row("plain", "c", label="Mask R-CNN"), Row("deep", "c", label="Mask R-CNN"))
    found = results.write(folder, made_table(rows=rows))
    assert [row["label"] for row in found["rows"]] == ["Mask R-CNN (plain)", "Mask R-CNN (deep)"]


def test_timings_are_those_of_the_log(folder):
    results.write(folder, made_table())
    times = json.loads((folder / "timings.json").read_text())
    run = times["runs"]["plain/seed1"]
    assert run["seconds_per_step"] == pytest.approx(
        2 / 26
    )  # 2 images a step, 26 images/s the median
    assert (run["device_gib"], run["host_gib"], run["seconds"]) == (2.5, 1.5, 61.0)
    assert times["rows"]["plain"]["seconds"] == 121.0
    assert times["rows"]["strict"]["seconds_per_step"] is None


def test_the_table_in_markdown(folder):
    results.write(folder, made_table(notes="50 % fewer *seeds*", source="A | B"))
    lines = (folder / "table.md").read_text().splitlines()
    row = next(line for line in lines if line.startswith("| deep | 2 |"))
    assert row.startswith("| deep | 2 | 33.50 ± 0.71 | 35.3 |")
    assert "| deep | 2 | +2.50 | [-3.85, +8.85] | 8.17 | +1.1 |" in lines
    assert "A \\| B" in lines and "50 % fewer \\*seeds\\*" in lines
    widths = [line.replace("\\|", "").count("|") for line in lines if line.startswith("| ")]
    assert min(widths) > 3
    assert any("--workdir=$DIR/runs/deep/seed0" in line for line in lines)


def test_an_interval_without_zero_stands_out(tmp_path):
    for seed in range(3):
        made_runs.trained(tmp_path, "plain", seed, 0.30 + 0.01 * seed, 0.3)
        made_runs.trained(tmp_path, "deep", seed, 0.35 + 0.01 * seed + 0.001 * (seed == 1), 0.3)
    results.write(tmp_path, made_table())
    assert "| deep | 3 | **+5.03** |" in (tmp_path / "table.md").read_text()


def test_a_folder_that_cannot_be_written_is_told(folder):
    results.write(folder, made_table())
    before = (folder / "results.json").read_bytes()
    (folder / "timings.json").unlink()
    (folder / "timings.json").mkdir()
    with pytest.raises(OSError, match=r"timings\.json"):
        results.write(folder, made_table())
    assert (folder / "results.json").read_bytes() == before


def test_a_run_begun_by_hand_is_unfinished(folder):
    place = folder / "runs" / "plain" / "seed0"
    (place / "job.json").unlink()
    assert records.read(folder, "plain", 0).status == "finished"
    (place / "finished.json").unlink()
    assert records.read(folder, "plain", 0).status == "unfinished"
    shutil.rmtree(place)
    assert records.read(folder, "plain", 0).status == "not started"
