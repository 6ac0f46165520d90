"""What stands above a table."""

from benchmarks import context

MACHINE = {
    "date": "2026-11-22",
    "commit": "abc",
    "cpu": "a CPU",
    "cores": 2,
    "driver": None,
    "load_before": 0.5,
    "python": "3.12.1",
    "jax": "0.11.2",
    "torch": None,
}


def test_headline():
    assert context.headline(MACHINE) == (
        "a CPU with 2 cores, 2026-11-22, commit abc, python 3.12.1, jax 0.11.2; load 0.5 before"
    )
    more = {"device": "H200", "platform": "gpu", "driver": "570.86.15", "load_after": 1}
    assert context.headline(MACHINE | more) == (
        "H200 (gpu), a CPU with 2 cores, driver 570.86.15, 2026-11-22, commit abc, python 3.12.1, "
        "jax 0.11.2; load 0.5 before, 1 after"
    )


def test_a_machine_tells_all_that_the_headline_shows():
    assert "; load " in context.headline(context.machine("jax", "no_such_package"))


def test_the_driver(tmp_path):
    file = tmp_path / "version"
    assert context.driver(str(file)) is None
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build\n"
        "GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n"
    )
    assert context.driver(str(file)) == "570.86.15"
