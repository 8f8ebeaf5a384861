"""The table of places, hpcdl/launch/env.py, against what the launchers of a real cluster set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.outer

WHERE = Path(__file__).with_name("where.py")
MPIRUN = {"openmpi": "Open MPI's mpirun", "mpich": "mpiexec (Hydra: MPICH, Intel MPI)"}
WRONG = {"openmpi": "pmi2", "mpich": "pmix"}  # plug-ins of srun that do not fit

#: Each word of a way: its name, and what stands before the program.
PLAIN = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=2
go() {{ way=$1; shift; "$@" {where} $way; echo "@[\\"$way\\", $?]"; }}
go alone {python}
go srun srun --mpi={mpi} {python}
go srun-part srun --mpi={mpi} --nodes=1 --ntasks=2 {python}
go mpirun {mpirun} {python}
go hpcdl-run {python} -m hpcdl.cli run -n 2
go inside srun --ntasks=1 --nodes=1 {python} -m hpcdl.cli run -n 2
go no-plug-in srun --mpi=none {python}
go wrong-plug-in srun --mpi={wrong} {python}
"""
#: Three nodes in two parts; two tasks on the first node, two on the second, one on the third.
PARTS = """#!/bin/bash
#SBATCH --nodes=1 --ntasks=2
#SBATCH hetjob
#SBATCH --nodes=2 --ntasks=3
srun --mpi={mpi} --het-group=0,1 {python} {where} parts
echo "@[\\"parts\\", $?]"
"""
#: A batch script that was submitted from inside a step, whose variables it has inherited.
NESTED = "#!/bin/bash\n{python} {where} nested\n{mpirun} -n 2 {python} {where} nested-mpirun\n"


@pytest.fixture(scope="module")
def jobs(cluster, environment, tmp_path_factory):
    """All scripts, side by side."""
    folder = tmp_path_factory.mktemp("places")
    words = {"where": WHERE, "wrong": WRONG[environment.name], **environment._asdict()}
    nested = folder / "nested.sbatch"
    nested.write_text(NESTED.format(**words))
    outer = f"#!/bin/bash\nsrun sh -c '[ $SLURM_PROCID != 3 ] || sbatch --wait --nodes=1 --ntasks=2 --output=nested.out {nested}'\n"
    scripts = {"plain": PLAIN, "parts": PARTS, "nested": "#!/bin/bash\n" + outer}
    options = {"nested": ["--nodes=2", "--ntasks-per-node=2"]}
    quick = {"HPCDL_CALIBRATE": "off"}
    return {name: cluster.submit(text.format(**words), *options.get(name, []), cwd=folder, **quick) for name, text in scripts.items()}


@pytest.fixture(scope="module")
def found(jobs, environment):
    """`found(job, way)`: the lines of its ranks, and the launcher's exit code."""

    def find(job: str, way: str):
        jobs[job].wait()
        log = jobs[job].log()
        if job == "nested":
            log += (jobs[job].output.parent / "nested.out").read_text()
        lines = [json.loads(line[1:]) for line in log.splitlines() if line.startswith(("@{", "@["))]
        ranks = sorted(
            (line for line in lines if isinstance(line, dict) and line["way"] == way), key=lambda line: (line.get("seen"), line["told"])
        )
        codes = [line[1] for line in lines if isinstance(line, list) and line[0] == way]
        assert ranks, jobs[job].all()
        return ranks, codes[0] if codes else None

    return find


def agree(ranks, launcher: str, counts: list[int]) -> None:
    """So many ranks on each host in turn; the launcher and the world say the same."""
    expected = [[n, count, node] for node, count in enumerate(counts) for n in range(count)]
    for rank, (line, (local, count, node)) in enumerate(zip(ranks, expected, strict=True)):
        assert line["told"] == [launcher, rank, sum(counts), local, count], line
        assert line["seen"] == [rank, sum(counts), local, count, node, len(counts)], line
    assert sorted(Counter(line["host"] for line in ranks).values()) == sorted(counts)


def test_alone_in_a_batch_script(found):
    ranks, code = found("plain", "alone")
    assert code == 0 and [line["told"] for line in ranks] == [None] and ranks[0]["seen"] == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize(("way", "counts"), [("srun", [2, 2]), ("srun-part", [2])])
def test_srun(found, way, counts):
    ranks, code = found("plain", way)
    assert code == 0
    agree(ranks, "srun", counts)


@pytest.mark.parametrize(("way", "counts"), [("mpirun", [2, 2]), ("hpcdl-run", [2]), ("inside", [2])])
def test_mpirun_in_an_allocation(found, environment, way, counts):
    """Its daemons are started by srun, and leave the marks of that behind. `inside`: from a step of srun's."""
    ranks, code = found("plain", way)
    assert code == 0
    agree(ranks, MPIRUN[environment.name], counts)


def test_heterogeneous_job(found):
    ranks, code = found("parts", "parts")
    assert code == 0
    agree(ranks, "srun", [2, 2, 1])


def test_batch_script_that_a_step_has_submitted(found, environment):
    alone, _ = found("nested", "nested")
    assert [line["told"] for line in alone] == [None] and alone[0]["seen"][:2] == [0, 1]
    agree(found("nested", "nested-mpirun")[0], MPIRUN[environment.name], [2])


@pytest.mark.parametrize("way", ["no-plug-in", "wrong-plug-in"])
def test_plug_in_that_does_not_fit(found, environment, way):
    """Not four trainings of one rank, but the cause and the cure, on every rank."""
    ranks, code = found("plain", way)
    assert code != 0
    assert sorted(line["told"][1] for line in ranks) == [0, 1, 2, 3]
    for line in ranks:
        assert f"rank {line['told'][1]} of 4" in line["error"] and "Cause:" in line["error"]
        assert f"Cure: `srun --mpi={environment.mpi}`" in line["error"]


def test_on_the_command_line(cluster, environment, tmp_path):
    """`srun` by itself, and inside the shell of `salloc`."""
    words = ["srun", f"--mpi={environment.mpi}", environment.python, WHERE, "shell"]
    for start in (["--nodes=2", "--ntasks-per-node=2"], None):
        line = ["salloc", "--nodes=2", "--ntasks-per-node=2", *words] if start is None else [words[0], *start, *words[1:]]
        done = cluster.run(*line, cwd=tmp_path, HPCDL_CALIBRATE="off")
        assert done.returncode == 0, done.stderr
        ranks = [json.loads(line[1:]) for line in done.stdout.splitlines() if line.startswith("@")]
        agree(sorted(ranks, key=lambda line: line["seen"]), "srun", [2, 2])
