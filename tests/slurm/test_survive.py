"""Trainings that outlive the time limit, pre-emption and a dead node; and jobs that end soon, and say why, where a rank is killed."""

from __future__ import annotations

import re
import time

import pytest
from slurm.scripts import changed, copied, replaced

pytestmark = pytest.mark.outer

HERE = "--nodelist=h1,h2"
BACK = "back into the queue"
#: What makes a program deaf to all warnings.
DEAF = (
    ("import hpcdl\n", "import contextlib, signal, hpcdl\nfor n in (signal.SIGUSR1, signal.SIGTERM): signal.signal(n, signal.SIG_IGN)\n"),
    ("hpcdl.preemption(world, checkpoint)", "contextlib.nullcontext(lambda done: None)"),
)
SAVES = "        checkpoint.save(done)"
KILLED = (SAVES, f"        if world.rank == 2 and epoch == 2: import os; print('dies', flush=True); os.kill(os.getpid(), 9)\n{SAVES}")
#: Pauses, so that the processors are free for those that start.
PACED = (SAVES, f"        import time; time.sleep(0.5)\n{SAVES}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Templates and programs, and copies with other lines."""
    made = copied(tmp_path_factory.mktemp("survive"))
    replaced(made / "train_numpy.py", "plain.py")
    replaced(made / "train_numpy.py", "train_numpy.py", PACED)
    replaced(made / "train_numpy.py", "deaf.py", *DEAF)
    replaced(made / "train_numpy.py", "killed.py", KILLED)
    changed(made / "long.sbatch", "mpirun.sbatch", mpi="mpirun")
    changed(made / "long.sbatch", "deaf.sbatch", grace="3", program='("$python" deaf.py --epochs 2000 --checkpoint "$checkpoint")')
    for name in ("cpu", "cpu_mpirun"):
        changed(made / f"{name}.sbatch", f"killed-{name}.sbatch", program='("$python" killed.py --checkpoint "run-$SLURM_JOB_ID")')
    return made


@pytest.fixture(scope="module")
def submit(cluster, environment, folder):
    """`submit(script, *options)`: a job of a template in `folder`."""
    made = []

    def start(name: str, *options: str):
        made.append(cluster.submit(folder / f"{name}.sbatch", *options, cwd=folder, HPCDL_CALIBRATE="off", **environment.path))
        return made[-1]

    yield start
    cluster.run("scancel", "--full", *(job.number for job in made), cwd=folder)
    cluster.wait_until(lambda: cluster.idle() == len(cluster.nodes), "all nodes are idle")


@pytest.fixture(scope="module")
def slow(cluster, submit):
    """What takes a minute until something happens, begun before the others: a job with a time limit, and one whose last node is cut off."""
    jobs = {"limit": submit("long", "--time=2", "--signal=B:USR1@60", HERE), "node": submit("long", "--exclude=h1")}
    jobs["node"].says("epoch 3:")
    node = "h" + re.split(r"\D", jobs["node"].fields()["NodeList"].rstrip("]"))[-1]
    cluster.cut_off(node)
    yield {**jobs, "dead": node}
    jobs["node"].signal("--full")
    cluster.bring_back(node)


def epochs(log: str) -> list[tuple[int, str]]:
    """Number and text of each epoch that was told."""
    return [(int(number), text) for number, text in re.findall(r"^epoch (\d+): (.*)$", log, re.MULTILINE)]


def goes_on(log: str) -> None:
    """The epochs are told one after the other over all runs; one that a run has not finished is told by the next."""
    numbers = [number for number, _ in epochs(log)]
    assert numbers == list(range(1, len(numbers) + 1)), log


@pytest.mark.parametrize("name", ["cpu", "cpu_mpirun"])
def test_killed_rank(slow, submit, name):
    """The job ends within seconds, and says which it was."""
    job = submit(f"killed-{name}", HERE)
    job.says("dies")
    begin = time.monotonic()
    assert job.wait("FAILED")["ExitCode"] != "0:0"
    assert time.monotonic() - begin < 30
    assert re.search(r"rank 2\b.* on node h2\s+exited\s+on\s+signal 9|h2: task 2: Killed|PID \d+ RUNNING AT h2", job.log()), job.log()


def test_warning_under_mpirun(submit):
    """Sent by hand, as Slurm does it before the limit."""
    job = submit("mpirun", HERE)
    job.says("epoch 2:")
    job.signal("--signal=USR1", "--batch")
    job.says(BACK)
    before = len(epochs(job.log()))
    assert "all ranks stop after step" in job.log()
    job.says(f"epoch {before + 1}:")
    goes_on(job.log())
    assert job.fields()["Restarts"] == "1"
    job.signal()


def test_program_that_ignores_signals(submit):
    job = submit("deaf", HERE)
    job.says("epoch 2:")
    job.signal("--signal=USR1", "--batch")
    job.says("has not ended 3 s after the warning")
    job.says(BACK)
    before = len(epochs(job.log()))
    job.says("run 2|epoch", times=before + 2)
    numbers = [number for number, _ in epochs(job.log())]
    assert numbers[before] > 1, job.log()  # from the last checkpoint, which may be one or two epochs back
    assert job.fields()["Restarts"] == "1"
    job.signal("--full")


#: A user's own script: one file, written again and again; it listens late, as one that imports for long.
OWN = """
import os, signal, sys, time
print("begins", flush=True)
time.sleep(3)
file = sys.argv[1]
step = int(open(file).read()) if os.path.exists(file) else 0
asked = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(1))
print("listens", flush=True)
while not asked:
    time.sleep(0.1)
open(file, "w").write(str(step + 1))
sys.exit(85)
"""


@pytest.fixture
def own(folder, submit):
    """A job of it, with another that is in an element of an array as far as the environment tells."""
    (folder / "own.py").write_text(OWN)
    changed(folder / "long.sbatch", "own.sbatch", checkpoint="own-$SLURM_JOB_ID", program='("$python" own.py "$checkpoint")')
    return lambda *options: submit("own", "--nodes=1", "--ntasks-per-node=1", *options)


def test_one_file(own):
    """That it is another file of the same name is progress too; and the number is this job's, whatever array it was submitted in."""
    job = own("--export=ALL,SLURM_ARRAY_JOB_ID=99999,SLURM_ARRAY_TASK_ID=3")
    for run in (1, 2, 3):
        job.says("listens", times=run)
        job.signal("--signal=USR1", "--batch")
        job.says(BACK, times=run)
    job.signal("--full")


def test_pre_emption_before_it_listens(cluster, own, folder):
    """Slurm then signals the ranks, and not the script."""
    job = own()
    job.says("begins")
    node = job.fields()["NodeList"]
    cluster.submit("#!/bin/bash\nsleep 1\n", "--partition=urgent", "--exclusive", f"--nodelist={node}", cwd=folder).wait("COMPLETED")
    job.says(BACK)
    assert job.fields()["Restarts"] == "1"
    job.signal("--full")


def test_time_limit_and_pre_emption(cluster, environment, slow, folder):
    """Each ends a run, and the next goes on: the curve of the losses is that of a training that nobody has interrupted."""
    job = slow["limit"]
    job.says(BACK)
    assert "all ranks stop after step" in job.log()
    cluster.run("scontrol", "update", f"job={job.number}", "TimeLimit=60", cwd=folder)
    job.says(f"epoch {len(epochs(job.log())) + 2}:")
    urgent = cluster.submit("#!/bin/bash\nsleep 1\n", "--partition=urgent", "--exclusive", "--nodes=2", HERE, cwd=folder)
    urgent.wait("COMPLETED")
    job.says(f"epoch {len(epochs(job.log())) + 2}:")
    goes_on(job.log())
    assert int(job.fields()["Restarts"]) >= 2
    job.signal("--full")
    told = epochs(job.log())
    words = ["run", "-n", "4", "plain.py", "--epochs", len(told), "--checkpoint", f"plain-{environment.name}"]
    once = cluster.run(
        environment.python, "-m", "hpcdl.cli", *words, cwd=folder, HPCDL_NODES="2", HPCDL_CALIBRATE="off", **environment.path
    )
    assert told == epochs(once.stdout), once.stderr


def test_dead_node(cluster, slow):
    """The job goes on elsewhere, from its checkpoint."""
    job = slow["node"]
    cluster.wait_until(lambda: job.fields()["Restarts"] != "0", "the job is started again", job=job)
    job.says("(?s)epoch 3:.* starts .*epoch")
    again = job.log().split(" starts ")[2]
    assert epochs(again)[0][0] in (3, 4, 5), job.log()
    assert job.fields()["NodeList"] == {"h3": "h[2,4]", "h4": "h[2-3]"}[slow["dead"]]
