"""Processes that read ahead, forked while MPI runs: what they may do, and how a job with them ends."""

import sys
import textwrap

import pytest
from harness.parts import framework
from harness.programs import run

framework("torch")

pytestmark = pytest.mark.outer

HEAD = """
import os, time, torch, hpcdl.torch as ht
world = ht.init()

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 50
    def __getitem__(self, i):
        return torch.full((1000,), float(i)), os.getpid()

def say(*words):
    os.write(1, (" ".join(map(str, ("say", *words))) + "\\n").encode())
"""


@pytest.fixture
def job(tmp_path, require):
    require("mpi")

    def start(program, guard=False):
        file = tmp_path / "program.py"
        program = HEAD + textwrap.dedent(program)
        file.write_text(f"if __name__ == '__main__':\n{textwrap.indent(program, '    ')}" if guard else program)
        ended = run(sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, file)
        return ended.returncode, [line for line in ended.stdout.splitlines() if line.startswith("say ")], ended.stdout + ended.stderr

    return start


def test_workers_beside_mpi(job):
    """Several epochs with all-reduces in between, one left early, one left open at the end; a worker that communicates is told."""
    code, said, output = job("""
        for keywords in ({}, {"persistent_workers": True, "prefetch_factor": 4}):
            batches = ht.loader(Rows(), 12, num_workers=2, **keywords)
            for epoch in range(3):
                total, workers = torch.zeros(1), set()
                for step, (x, pids) in enumerate(batches):
                    total += x[: int(batches.samples), 0].sum()
                    workers |= set(pids.tolist())
                    world.allreduce(torch.ones(100000).numpy())
                    if epoch == 1 and step == 2:
                        break
                assert os.getpid() not in workers and len(workers) == 2
                total = world.allreduce(total.numpy())[0]
                assert epoch == 1 or total == 49 * 50 / 2, total

        class Wrong(Rows):
            def __getitem__(self, i):
                world.barrier()
        try:
            next(iter(ht.loader(Wrong(), 12, num_workers=1)))
        except Exception as error:
            assert "forked from a rank and cannot communicate" in str(error), error
            say("told")
        left = iter(batches)
        next(left)
        say("good")
    """)
    assert code == 0 and sorted(said) == ["say good"] * 2 + ["say told"] * 2, output


def test_spawned_workers(job):
    """They import the program anew, and must not start MPI."""
    code, said, output = job(
        """
        batches = ht.loader(ROWS, 4, num_workers=1, multiprocessing_context="spawn")
        assert [len(x) for x in batches] == [2, 1]
        say("good")
    """.replace("ROWS", "torch.ones(6, 3)"),
        guard=True,
    )
    assert code == 0 and said == ["say good"] * 2, output


def test_a_worker_that_dies(job):
    """torch's own error on its rank; the job ends."""
    code, _, output = job("""
        class Deadly(Rows):
            def __getitem__(self, i):
                if world.rank == 1 and i == 45:
                    os._exit(3)
                return super().__getitem__(i)
        for x, _ in ht.loader(Deadly(), 12, num_workers=2, shuffle=False):
            world.barrier()
    """)
    assert code != 0 and "DataLoader worker" in output and "exited unexpectedly" in output, output


def test_workers_outlive_a_warning(job, tmp_path):
    """Slurm sends its signals to all processes of a job: the data must go on until the step that the ranks agree on."""
    code, said, output = job(f"""
        import signal, hpcdl
        from hpcdl.checkpoint import Checkpoint
        batches = ht.loader(Rows(), 5, num_workers=2, prefetch_factor=1)
        with Checkpoint({str(tmp_path / "run")!r}, world, {{"loader": batches}}) as checkpoint, hpcdl.preemption(world, checkpoint) as stop:
            for step, _ in enumerate(batches, 1):
                if step == 3:
                    os.killpg(0, signal.SIGUSR1)
                    os.killpg(0, signal.SIGTERM)
                    time.sleep(1)
                try:
                    stop(step)
                except SystemExit:
                    say(step)
                    raise
    """)
    assert (code, said) == (85, ["say 4", "say 4"]), output
