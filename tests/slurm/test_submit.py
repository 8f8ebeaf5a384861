"""`hpcdl submit | status | logs | cancel` on a real cluster, as the README has them."""

from __future__ import annotations

import re
import shutil

import pytest
from harness.programs import JOBS
from slurm.cluster import Job

pytestmark = pytest.mark.outer
README = [
    ".venv/bin/hpcdl submit --nodes 2 --ntasks-per-node 2 --time 00:30:00 --requeue jobs/train_numpy.py --checkpoint run",
    ".venv/bin/hpcdl status 1234",
    ".venv/bin/hpcdl logs -f 1234",
    ".venv/bin/hpcdl cancel 1234",
]
PYTHON = """
import os, sys
print([*sys.argv, os.environ["OMP_NUM_THREADS"]])
sys.exit(int(sys.argv[-1][-1]))
"""


@pytest.fixture
def hpcdl(cluster, environment, tmp_path):
    """`hpcdl(line, …)`: a command line of the README with this environment, or its words, in a folder with jobs/; the finished process."""
    shutil.copytree(JOBS, tmp_path / "jobs")

    def run(line, number="", words=(), started=False):
        found = re.sub(r"\b1234\b", number, line).split()[1:] if isinstance(line, str) else line
        command = [environment.python, "-m", "hpcdl.cli", *found, *words]
        how = cluster.started if started else cluster.run
        environ = {"XDG_CONFIG_HOME": str(tmp_path / "config"), **environment.path}
        return how(*command, cwd=tmp_path, **environ)

    return run


def test_readme(hpcdl, cluster):
    submit, status, logs, cancel = README
    done = hpcdl(submit, words=("--epochs", "5000"))
    assert done.returncode == 0, done.stderr
    job = Job(cluster, done.stdout.strip())
    assert f"hpcdl: job {job.number}; `hpcdl status {job.number}`" in done.stderr
    job.says("epoch 2: ")
    done = hpcdl(status, job.number)
    for said in (": RUNNING", "nodes: h", "of 00:30:00, 0:2", "progress: epoch ", f"log: {job.output}"):
        assert said in done.stdout, done.stdout + done.stderr
    with hpcdl(logs, job.number, started=True) as follower:
        job.signal("--signal=USR1", "--batch")
        job.says("run 1: back into the queue")
        job.says("goes on after step")
        assert "restarts: 1" in hpcdl(status, job.number).stdout
        job.says(r"goes on after step[^$]*epoch \d+: ")
        done = hpcdl(cancel, job.number)
        assert "is cancelled" in done.stdout, done.stderr
        followed, ended = follower.communicate(timeout=60)
    assert "goes on after step" in followed and f"job {job.number}, train_numpy: CANCELLED" in ended
    assert job.fields()["JobState"] == "CANCELLED" and "not put back into the queue: cancelled" in job.log()
    assert "has ended already: CANCELLED" in hpcdl(cancel, job.number).stdout


def test_words_reach_the_program(hpcdl, cluster, tmp_path):
    """Through bash, sbatch and the launcher; an array with one element that fails."""
    (tmp_path / "a 'b'.py").write_text(PYTHON, encoding="utf-8")
    (tmp_path / "lo\"g's %").mkdir()
    options = ["--name", "x 'y' # z", "--output", "lo\"g's %", "--cpus-per-task", "2", "--time", "5", "--array", "code=0,1"]
    words = ["two\nlines", "$HOME `id` \\", "é\"'"]
    done = hpcdl(["submit", *options, "a 'b'.py", *words])
    assert done.returncode == 0, done.stderr
    number = done.stdout.strip()
    for index, state in enumerate(("COMPLETED", "FAILED")):
        element = Job(cluster, f"{number}_{index}")
        element.wait(state)
        log = tmp_path / "lo\"g's %" / f"x 'y' # z-{number}_{index}.out"
        assert str(["a 'b'.py", *words, f"--code={index}", "2"]) in log.read_text(encoding="utf-8")
    done = hpcdl(["status", number])
    assert f"{number}_1, x 'y' # z: FAILED (NonZeroExitCode)" in done.stdout and "exit code 1" in done.stdout, done.stdout
    assert done.stdout.splitlines()[-1] == "1 COMPLETED, 1 FAILED"


def test_impossible(cluster, tmp_path):
    """Slurm's own words and ours, before anything is queued."""
    (tmp_path / "train.py").touch()
    before = cluster.run("squeue", "-h", "-o", "%i", cwd=tmp_path).stdout.split()
    for options, words in (
        (["--nodes", "99"], "Requested node configuration is not available"),
        (["--partition", "nope"], "invalid partition specified: nope"),
        (["--mem", "9T"], "Requested node configuration is not available"),
        (["--gpus-per-node", "9"], "Requested node configuration is not available"),
        (["--time", "2-0"], "--time 2-0 is more than the default partition gives (1-00:00:00)"),
        (["--sbatch=--foo"], "unrecognized option '--foo'"),
    ):
        done = cluster.run("python", "-m", "hpcdl.cli", "submit", *options, "train.py", cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and "main: 4 nodes of 8 cores" in done.stderr, done.stderr
    assert [number for number in cluster.run("squeue", "-h", "-o", "%i", cwd=tmp_path).stdout.split() if number not in before] == []


def test_no_loop_without_progress(cluster, tmp_path):
    """A program that knows no warning and saves nothing is started twice, and no more."""
    (tmp_path / "plain.py").write_text("import time\nprint('started', flush=True)\ntime.sleep(300)\n", encoding="utf-8")
    done = cluster.run("python", "-m", "hpcdl.cli", "submit", "--requeue", "--checkpoint", "run", "plain.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    job = Job(cluster, done.stdout.strip())
    for run in (1, 2):
        job.says("(?m)^started$", times=run)
        job.signal("--signal=USR1", "--batch")
        job.says(f"run {run}: ")
    job.wait("FAILED")
    assert (
        "run 1: back into the queue" in job.log()
        and "run 2: not put back into the queue: two runs have saved nothing new in 'run'" in job.log()
    )


def test_first_draft(cluster, tmp_path):
    """What --init writes is read again; a job that does not ask for GPUs gets none."""
    (tmp_path / "train.py").touch()
    words = {"cwd": tmp_path, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    done = cluster.run("python", "-m", "hpcdl.cli", "submit", "--init", **words)
    assert done.returncode == 0 and '\npartition = "main"' in done.stdout and '# gpus-per-node = "4"' in done.stdout, done.stderr
    done = cluster.run("python", "-m", "hpcdl.cli", "submit", "--dry-run", "train.py", **words)
    assert "#SBATCH --partition=main" in done.stdout and "gpus" not in done.stdout, done.stdout
