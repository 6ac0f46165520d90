"""The accelerator that `benchmarks.input_wait` pretends there is: clocks are stepped by hand."""

import pytest

from benchmarks import standin_device


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.mark.parametrize(
    ("prepare", "idle", "data_wait", "rate"),
    [
        (0.0, 0.0, 0.0, 10.0),  # images are there
        (0.05, 0.0, 0.5, 10.0),  # they come while a step runs: waited for, and nothing is lost
        (0.2, 0.5, 1.0, 5.0),  # they take twice as long as a step
    ],
)
def test_waiting_that_a_step_hides_is_no_idle_time(monkeypatch, prepare, idle, data_wait, rate):
    clock = Clock()
    monkeypatch.setattr(standin_device, "time", clock)

    def batches():
        while True:
            clock.now += prepare
            yield 0

    found = standin_device.run(batches(), 0.1, 1000)
    assert found["idle"] == pytest.approx(idle, abs=0.01)
    assert found["data_wait"] == pytest.approx(data_wait, abs=0.01)
    assert found["steps_per_second"] == pytest.approx(rate, rel=0.01)
