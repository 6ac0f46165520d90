import json

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from jaxseg.training import metrics

LINE = {"loss": 1.5, "lr": 0.1}


def events(folder):
    """(tag, step, value) and ("start", step) of all event files, oldest first."""
    found = []
    for file in sorted(folder.glob("events*"), key=lambda f: f.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            assert masked_crc32c(data[:8]) == int.from_bytes(data[8:12], "little")
            event = event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.HasField("session_log") and event.step:
                found.append(("start", event.step))
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def write(folder, steps, resumed=0):
    with metrics.MetricWriter(folder, resumed) as writer:
        for step in steps:
            writer.write(step, "train", {"loss": step / 2})


def test_each_step_stands_once_after_a_restart(tmp_path):
    write(tmp_path, (2, 4, 6))
    write(tmp_path, (6, 8), resumed=4)
    assert [x["step"] for x in metrics.read(tmp_path)] == [2, 4, 6, 8]
    found = events(tmp_path / "tensorboard")
    assert ("start", 5) in found  # TensorBoard drops what came before the restart from here on
    assert [x[1] for x in found if x[0] == "train/loss"] == [2, 4, 6, 6, 8]


def test_half_a_line_is_no_line(tmp_path):
    write(tmp_path, (2, 4))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 6, "spl')
    assert [x["step"] for x in metrics.read(tmp_path)] == [2, 4]
    write(tmp_path, (6,), resumed=4)
    assert [x["step"] for x in metrics.read(tmp_path, "train")] == [2, 4, 6]
    assert metrics.read(tmp_path, "val") == []
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


def test_a_full_disk_is_named(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer._file.close()
        writer._file = open("/dev/full", "w")  # noqa: SIM115
        with pytest.raises(
            OSError, match=r"Could not write the log to .*No space left on device.*"
        ):
            writer.write(1, "train", LINE)
        writer._file = open("/dev/null", "w")  # noqa: SIM115


def test_lines_are_json(tmp_path):
    with metrics.MetricWriter(tmp_path) as writer:
        writer.write(3, "val", {"mask/AP": 0.25})
    line = (tmp_path / "log.jsonl").read_text()
    assert json.loads(line) == {"step": 3, "split": "val", "mask/AP": 0.25}


def test_console_line_holds_what_one_looks_for():
    speed = {"images_per_second": 12.34, "eta": 3723.0, "data_wait": 0.25}
    scalars = {"loss": 1.5, "rpn_box": 0.5, "lr": 0.02, "grad_norm": 3.0}
    line = metrics.console_line(20, 100, scalars, speed)
    for part in (
        "step 20/100",
        "loss 1.5",
        "rpn_box 0.5",
        "lr 0.02",
        "12.3 images/s",
        "1:02:03",
        "25%",
    ):
        assert part in line


@pytest.mark.parametrize("stats", [{"peak_bytes_in_use": 3 << 30}, {"bytes_in_use": 3 << 30}])
def test_memory_is_told_where_the_backend_knows_it(monkeypatch, stats):
    class Device:
        def memory_stats(self):
            return stats

    clock = metrics.Clock(0, 100, images=4, eval_every=20)
    monkeypatch.setattr(metrics.jax, "local_devices", lambda: [Device()])
    speed = clock.read(10)
    assert speed["memory_gib"] == 3.0
    assert "3.0 GiB" in metrics.console_line(10, 100, LINE, speed)
    stats.clear()  # a CPU
    speed = clock.read(20)
    assert "memory_gib" not in speed
    assert "GiB" not in metrics.console_line(20, 100, LINE, speed)


def test_time_left_counts_steps_and_validations_without_compilation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    clock = metrics.Clock(0, 100, images=4, eval_every=20)
    now[0] = 50.0 + 10 * 2.0
    clock.compiled(50.0)
    clock.waited(5.0)
    speed = clock.read(10)
    assert speed["images_per_second"] == pytest.approx(2.0)
    assert speed["data_wait"] == pytest.approx(0.25)
    assert speed["eta"] == pytest.approx(90 * 2.0)
    now[0] += 10 * 2.0 + 7.0
    clock.evaluated(7.0)
    assert clock.read(20)["eta"] == pytest.approx(80 * 2.0 + 4 * 7.0)
