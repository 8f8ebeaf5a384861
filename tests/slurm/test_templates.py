"""The templates of jobs/, as somebody copies them and submits them by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest
from safetensors.numpy import load_file
from slurm.cluster import Job
from slurm.scripts import changed, copied, replaced

pytestmark = pytest.mark.outer

TEMPLATES = ("array", "cpu", "cpu_mpirun", "gpu", "gpu_mpirun", "long", "scaling", "test")
RANKS = {"array": 2, "cpu": 4, "cpu_mpirun": 4, "gpu": 8, "gpu_mpirun": 8, "test": 4}
DEVICES = """
import os, socket
seen = os.environ.get("CUDA_VISIBLE_DEVICES")
import hpcdl
world = hpcdl.init()
assert seen == os.environ.get("CUDA_VISIBLE_DEVICES")
os.write(1, f"rank {world.rank} on {socket.gethostname()}: {seen}\\n".encode())
"""


@pytest.fixture(scope="module")
def jobs(cluster, environment, tmp_path_factory):
    """All templates as they stand, and some with other lines between the marks; the program trains for fewer epochs than by default."""
    folder = copied(tmp_path_factory.mktemp("templates"))
    replaced(folder / "train_numpy.py", "train_numpy.py", ("type=int, default=60", "type=int, default=4"))
    (folder / "devices.py").write_text(DEVICES)
    scripts = {name: folder / f"{name}.sbatch" for name in TEMPLATES if name != "long"}
    for name in ("gpu", "gpu_mpirun"):
        scripts[f"devices-{name}"] = changed(folder / f"{name}.sbatch", f"devices-{name}.sbatch", program='("$python" devices.py)')
    scripts["bad-array"] = changed(folder / "array.sbatch", "bad-array.sbatch", lr="(0.03 much 0.003)")
    more = {"bad-array": ["--array=0-2", "--job-name=bad-array"]}
    made = {name: cluster.submit(script, *more.get(name, []), cwd=folder, **environment.path) for name, script in scripts.items()}
    yield made
    cluster.run("scancel", "--full", *(job.number for job in made.values()), cwd=folder)
    cluster.wait_until(lambda: cluster.idle() == len(cluster.nodes), "all nodes are idle")


@pytest.mark.parametrize("name", TEMPLATES)
def test_only(cluster, tmp_path, name):
    """Slurm would take each of them."""
    done = cluster.run("sbatch", "--test-only", copied(tmp_path) / f"{name}.sbatch", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["cpu", "cpu_mpirun", "test", "gpu", "gpu_mpirun"])
def test_as_printed(jobs, environment, name):
    job = jobs[name]
    job.wait("COMPLETED")
    log = job.log()
    launcher = environment.mpirun if name.endswith("mpirun") else environment.auto
    assert re.search(rf"^hpcdl: .*{re.escape(launcher)} .* {RANKS[name]} ranks on h\d, h\d", log, re.MULTILINE), log
    assert re.findall(r"^epoch (\d+):", log, re.MULTILINE) == [str(i) for i in range(1, 2 if name == "test" else 5)]
    assert "test passed" in log or name != "test"


def test_same_result_as_on_one_machine(cluster, jobs, environment):
    """2 nodes x 2 ranks train what `mpirun -n 4` trains."""
    job = jobs["cpu"]
    job.wait("COMPLETED")
    folder = job.output.parent
    words = ["-n", "4", "train_numpy.py", "--checkpoint", "here"]
    done = cluster.run(environment.python, "-m", "hpcdl.cli", "run", *words, cwd=folder, **environment.path)
    assert done.returncode == 0, done.stderr
    there, here = (weights(folder / name) for name in (f"run-{job.number}", "here"))
    assert there.keys() == here.keys() and there
    for name, array in there.items():
        assert np.allclose(array, here[name], rtol=1e-4, atol=1e-5), name


def weights(folder):
    """The arrays of the last checkpoint that are alike on all ranks."""
    return load_file(max(folder.glob("step-*")) / "shared-00000-of-00001.safetensors")


def test_scaling_study(jobs):
    """Each job submits the next, and the last prints the table."""
    first = jobs["scaling"]
    first.wait("COMPLETED")
    job, seen = first, [first.number]
    while found := re.search(r"^Submitted batch job (\d+)", job.log(), re.MULTILINE):
        job = Job(job.cluster, found[1])
        job.wait("COMPLETED")
        seen.append(job.number)
    assert len(seen) == 3, seen
    assert "efficiency" in job.log(), job.all()
    for row in ("1, 2, steps", "2, 4, steps", "4, 8, steps"):
        assert row in job.log(), job.all()


def test_array(jobs):
    """Each element has its own value, log and checkpoint."""
    for index, job in enumerate(elements(jobs["array"], 4)):
        job.wait("COMPLETED")
        assert re.findall(r"^epoch (\d+):", job.log(), re.MULTILINE) == ["1", "2", "3", "4"], job.all()
        assert job.output.name == f"array-{jobs['array'].number}_{index}.out"
    texts = [job.log().split("epoch 4:")[1] for job in elements(jobs["array"], 4)]
    assert len(set(texts)) == 4


def test_array_with_an_element_that_fails(jobs):
    """The others go on."""
    for index, job in enumerate(elements(jobs["bad-array"], 3)):
        job.wait("FAILED" if index == 1 else "COMPLETED")
        assert ("argument --lr: invalid float value: 'much'" in job.log()) == (index == 1)


def elements(array, count):
    """The jobs of an array."""
    return [Job(array.cluster, f"{array.number}_{index}") for index in range(count)]


@pytest.mark.parametrize("name", ["gpu", "gpu_mpirun"])
def test_each_rank_sees_one_gpu(jobs, name):
    """Its own, before Python and MPI start in it."""
    job = jobs[f"devices-{name}"]
    job.wait("COMPLETED")
    found = sorted(re.findall(r"^rank (\d) on (h\d): (.*)$", job.log(), re.MULTILINE))
    assert [int(rank) for rank, _, _ in found] == list(range(8)), job.all()
    nodes = sorted({node for _, node, _ in found})
    assert [(node, gpu) for _, node, gpu in found] == [(node, str(gpu)) for node in nodes for gpu in range(4)], job.all()
