"""The launcher, with programs of a few lines in the place of a training."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from jaxseg import exits
from jaxseg.launch import devices
from jaxseg.launch.__main__ import parse

ROOT = pathlib.Path(__file__).parents[2]


def start(tmp_path, code, *flags, processes=2):
    """A launcher whose processes run `code`, which knows its number as `me` and the folder as `here`."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, signal, sys, time\n"
        "given = dict(a[2:].split('=', 1) for a in sys.argv[1:] if a.startswith('--'))\n"
        "me, here = int(given.get('process_id', 0)), pathlib.Path(__file__).parent\n" + code
    )
    launcher = [sys.executable, "-m", "jaxseg.launch", f"--processes={processes}", *flags]
    return subprocess.Popen(
        [*launcher, str(program), "--config=c"],
        cwd=ROOT,
        env=dict(os.environ, JAX_PLATFORMS="cpu", PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(tmp_path, code, *flags, **options):
    """(exit status, stdout, stderr) of the launcher."""
    process = start(tmp_path, code, *flags, **options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_each_process_learns_its_place_and_prints_with_its_number(tmp_path):
    status, out, err = run(tmp_path, "print(*sorted(given.items())); print('e', file=sys.stderr)")
    assert status == 0
    lines = sorted(out.splitlines())
    assert [line[:4] for line in lines] == ["[0] ", "[1] "]
    addresses = {line.partition("coordinator_address', '")[2].partition("'")[0] for line in lines}
    assert len(addresses) == 1 and addresses.pop().startswith("127.0.0.1:")
    for number, line in enumerate(lines):
        assert "('config', 'c')" in line and "('num_processes', '2')" in line
        assert f"('process_id', '{number}')" in line
    assert sorted(err.splitlines()) == ["[0] e", "[1] e"]


def test_one_process_needs_no_coordinator(tmp_path):
    status, out, _ = run(tmp_path, "print(*given, end='')", processes=1)
    assert (status, out) == (0, "[0] config\n")


@pytest.mark.parametrize(
    "code, status, reason",
    [
        ("if me: sys.exit(2)", 2, "process 1 of 2 found a mistake, which it has told (exit 2)"),
        ("if me: os.kill(os.getpid(), 9)", 137, "process 1 of 2 was killed by SIGKILL (exit 137)"),
        ("if me: sys.exit(75)", 75, "process 1 of 2 lost another process (exit 75)"),
    ],
)
def test_the_first_that_fails_gives_status_and_reason(tmp_path, code, status, reason):
    """The other one would go on for ever, and is ended."""
    code = f"{code}\nopen(here / 'pid', 'w').write(str(os.getpid())); time.sleep(600)"
    got, _, err = run(tmp_path, code, "--grace=0.5")
    assert got == status and reason in err
    assert "still running; they are killed" in err
    assert not alive(int((tmp_path / "pid").read_text() or 0))


def alive(pid):
    return pid and pathlib.Path(f"/proc/{pid}").exists()


def test_restarts_where_they_help_and_no_oftener_than_asked(tmp_path):
    count = "file = here / f'{me}'; n = len(file.read_text()) if file.exists() else 0\n"
    count += "file.write_text('x' * (n + 1))\n"
    status, _, err = run(tmp_path, f"{count}sys.exit(75 if n < 2 else 0)", "--restarts=3")
    assert status == 0 and (tmp_path / "0").read_text() == "xxx"
    assert "starts again (restart 1 of 3)" in err and "starts again (restart 2 of 3)" in err
    status, _, err = run(tmp_path, f"{count}sys.exit(143)", "--restarts=1")
    assert status == 143 and (tmp_path / "0").read_text() == "x" * 5
    status, _, err = run(tmp_path, f"{count}sys.exit(2)", "--restarts=3")
    assert status == 2 and (tmp_path / "0").read_text() == "x" * 6


@pytest.mark.parametrize("number, wanted", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_launcher_tells_all_to_save_and_end(tmp_path, number, wanted):
    code = (
        "def save(*_): (here / f'saved{me}').write_text(''); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); (here / f'ready{me}').write_text('')\n"
        "time.sleep(600)"
    )
    process = start(tmp_path, code, "--restarts=5")
    wait_for(lambda: all((tmp_path / f"ready{i}").exists() for i in (0, 1)))
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == wanted and "starts again" not in err
    assert all((tmp_path / f"saved{i}").exists() for i in (0, 1))


def test_all_save_and_end_when_nobody_reads_what_they_print(tmp_path):
    """As in `| tee log` at Ctrl-C, which ends `tee`, too."""
    code = (
        "def save(*_): (here / f'saved{me}').write_text(''); print('saved'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save); (here / f'ready{me}').write_text('')\n"
        "for _ in range(6000): print('step', flush=True); time.sleep(0.1)"
    )
    process = start(tmp_path, code)
    wait_for(lambda: all((tmp_path / f"ready{i}").exists() for i in (0, 1)))
    process.stdout.close()
    process.stderr.close()
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert all((tmp_path / f"saved{i}").exists() for i in (0, 1))


def test_a_killed_launcher_leaves_no_process_behind(tmp_path):
    code = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "(here / f'pid{me}').write_text(f'{os.getpid()}.'); time.sleep(600)"
    process = start(tmp_path, code)
    files = [tmp_path / f"pid{i}" for i in (0, 1)]
    wait_for(lambda: all(f.exists() and f.read_text().endswith(".") for f in files))
    pids = [int(f.read_text()[:-1]) for f in files]
    assert all(map(alive, pids))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not any(map(alive, pids)))


def test_what_a_process_leaves_behind_is_ended_and_holds_nothing_up(tmp_path):
    code = "import subprocess\n"
    code += "p = subprocess.Popen(['sleep', '600']); (here / f'{me}').write_text(str(p.pid))"
    status, _, _ = run(tmp_path, code)
    assert status == 0
    wait_for(lambda: not any(alive(int((tmp_path / str(i)).read_text())) for i in (0, 1)))


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--processes=2"], "a program is needed"),
        (["--processes=0", "train.py"], "--processes=0: must be at least 1"),
        (["--processes=2", "--restarts=-1", "train.py"], "--restarts=-1: must be at least 0"),
        (["--processes=2", "--grace=nan", "train.py"], "--grace=nan: must be at least 0"),
        (["--processes=2", "--process=3", "train.py"], "unrecognized arguments: --process=3"),
        (["--processes=2", "--"], "a program is needed"),
        (["train.py"], "--processes"),
    ],
)
def test_mistakes_are_told(argv, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse(argv)
    assert message in capsys.readouterr().err


def test_what_follows_two_dashes_is_the_program():
    assert parse(["--processes=2", "--", "train.py", "--config=c"]).program == [
        "train.py",
        "--config=c",
    ]


def test_gpus_are_divided():
    cuda = "CUDA_VISIBLE_DEVICES"
    split = devices.split
    assert split(2, None, {cuda: "0,1,2,3"}) == [{cuda: "0,1"}, {cuda: "2,3"}]
    assert split(2, 1, {cuda: "GPU-a,GPU-b,GPU-c"}) == [{cuda: "GPU-a"}, {cuda: "GPU-b"}]
    with pytest.raises(ValueError, match="the 3 GPUs here cannot be divided equally"):
        split(2, None, {cuda: "0,1,2"})
    with pytest.raises(ValueError, match="need 4 GPUs; there are 3"):
        split(2, 2, {cuda: "0,1,2"})


def test_a_cpu_simulates_devices():
    environment = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0", "XLA_FLAGS": "--a=b"}
    assert devices.split(2, None, environment) == [{}, {}]
    assert devices.split(2, None, {"CUDA_VISIBLE_DEVICES": "-1"}) == [{}, {}]  # none
    wanted = {"XLA_FLAGS": "--a=b --xla_force_host_platform_device_count=4"}
    assert devices.split(2, 4, environment) == [wanted, wanted]


@pytest.mark.parametrize("status, helps", [(0, 0), (1, 0), (2, 0), (75, 1), (130, 0), (137, 1)])
def test_which_statuses_a_restart_mends(status, helps):
    assert exits.restart_helps(status) == bool(helps)
    assert exits.restart_helps(exits.PREEMPTED) and exits.restart_helps(exits.of(-signal.SIGABRT))
