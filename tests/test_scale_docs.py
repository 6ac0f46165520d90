"""The files of docs/scale: they parse, name flags that exist, and go by the exit statuses that there are.

The scripts run as they are, with programs in the place of srun, gcloud, ssh and Python that note how they were called.
"""

import os
import pathlib
import re
import stat
import subprocess

import pytest
import yaml

from configs import common
from jaxseg import config_keys, exits

ROOT = pathlib.Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "scale"
FILES = sorted(p.name for p in FOLDER.iterdir() if p.suffix != ".json")
JOBSETS = [name for name in FILES if name.endswith(".yaml")]
SCRIPTS = [name for name in FILES if not name.endswith(".yaml")]


def defined_flags():
    sources = [ROOT / "train.py", ROOT / "jaxseg" / "training" / "processes.py"]
    text = "".join(path.read_text() for path in sources)
    return set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', text))


@pytest.mark.parametrize("name", FILES)
def test_the_flags_of_the_commands_exist(name):
    text = (FOLDER / name).read_text()
    command = text[text.index("train.py --config" if name in SCRIPTS else "- train.py") :]
    command = re.split(r"resources:|status=|\|\|", command)[0]
    given = re.findall(r"--([\w.]+)=", command)
    assert {"config", "workdir"} < set(given)
    keys = {f"config.{key}" for key in config_keys.keys(common.base())}
    assert set(given) <= defined_flags() | keys
    config = re.search(r"configs/\w+\.py", text)[0]
    assert (ROOT / config).exists()
    assert f"(scale/{name})" in (ROOT / "docs" / "scale.md").read_text()


@pytest.mark.parametrize("name", JOBSETS)
def test_jobsets_start_one_pod_for_each_process_and_stop_at_mistakes(name):
    jobset = yaml.safe_load((FOLDER / name).read_text())
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert spec["parallelism"] == spec["completions"] and spec["backoffLimit"] == 0
    (container,) = spec["template"]["spec"]["containers"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [exits.MISTAKE]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    flags = dict(arg[2:].split("=", 1) for arg in container["command"] if arg.startswith("--"))
    if "num_processes" in flags:
        assert int(flags["num_processes"]) == spec["parallelism"]
        host = flags["coordinator_address"].partition(":")[0]
        name = jobset["metadata"]["name"]
        assert host == f"{name}-{job['name']}-0-0.{name}"
    volumes = {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.fixture
def machine(tmp_path):
    """Runs a script where the given commands do what they are given instead; returns (status, output)."""
    home = tmp_path / "home"
    (home / "jaxseg").mkdir(parents=True)
    (tmp_path / "bin").mkdir()

    def run(name, commands, *arguments, **environment):
        for command, code in {"sleep": "", **commands}.items():
            file = tmp_path / "bin" / command
            file.write_text(f"#!/bin/bash\n{code}\n")
            file.chmod(file.stat().st_mode | stat.S_IXUSR)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", str(FOLDER / name), *arguments],
            cwd=home / "jaxseg",
            env={"PATH": path, "HOME": str(home), "WORKDIR": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    "status, again", [(0, 0), (2, 0), (1, 0), (130, 0), (75, 1), (134, 1), (143, 1)]
)
def test_slurm_requeues_where_that_helps(machine, status, again):
    commands = dict(srun=f'echo "srun $@"; exit {status}', scontrol='echo "scontrol $@"')
    got, output = machine("train.sbatch", commands, SLURM_JOB_ID="7")
    assert got == status and "train.py --config=configs/mask_rcnn.py:r50,coco" in output
    assert ("scontrol requeue 7" in output) == bool(again)
    _, output = machine("train.sbatch", commands, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="20")
    assert "scontrol" not in output


# Fails with the statuses in the file, one a call, and then no more.
FAILING = 'echo "$@"; s=$(head -n 1 ~/statuses); sed -i 1d ~/statuses; exit ${s:-0}'
GCLOUD = 'for a; do case $a in --command=*) bash -c "${a#--command=}"; exit;; esac; done'


@pytest.mark.parametrize(
    "statuses, calls, wanted", [([75, 134, 143], 4, 0), ([137, 2], 2, 2), ([1], 1, 1)]
)
def test_each_machine_of_a_pod_starts_its_process_again(machine, tmp_path, statuses, calls, wanted):
    (tmp_path / "home" / "statuses").write_text("".join(f"{s}\n" for s in statuses))
    commands = dict(gcloud=GCLOUD, python3=FAILING)
    status, output = machine("tpu_pod.sh", commands)
    assert status == wanted and output.count(f"--workdir={tmp_path} ") == calls
    assert "--config.checkpoints=gs://BUCKET/runs/r50" in output


def test_a_pod_is_stopped_by_a_file(machine, tmp_path):
    (tmp_path / "home" / "statuses").write_text("143\n")
    (tmp_path / "stop").write_text("")
    commands = dict(gcloud=GCLOUD, python3=FAILING)
    status, output = machine("tpu_pod.sh", commands)
    assert status == 143 and output.count("train.py") == 1


def test_ssh_starts_a_process_on_each_machine(machine, tmp_path):
    """The mistake of one is told, and not what it led to elsewhere."""
    code = 'echo "$@"; case "$*" in *process_id=1) exit 2;; *) exit 75;; esac'
    commands = dict(ssh='echo "to $2"; bash -c "$3"', python=code)
    status, output = machine("ssh.sh", commands, "node1", "node2")
    assert status == 2
    for i, host in enumerate(["node1", "node2"]):
        assert f"[{i}] to {host}" in output
        assert f"[{i}] train.py --config=configs/mask_rcnn.py:r50,coco" in output
        assert f"--coordinator_address=node1:8476 --num_processes=2 --process_id={i}" in output


def test_the_table_has_every_status():
    text = (ROOT / "docs" / "scale.md").read_text()
    table = text[text.index("## Exit status") : text.index("## What happens when")]
    rows = dict(re.findall(r"^\| ([\d, ]+) \|.*\| ([^|]+) \|$", table, re.MULTILINE))
    helps = {int(s): words for key, words in rows.items() for s in key.split(",")}
    assert {0, exits.MISTAKE, exits.LOST, exits.PREEMPTED} < set(helps)
    for status, words in helps.items():
        if status not in (0, 130):  # Ctrl-C: it helps, but somebody wanted the end
            assert words.startswith("yes") == exits.restart_helps(status), status
