"""Whole jobs, started by plain mpirun with no help of ours: how they end, what they say, what they burn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from hpcdl.launch.mpiexec import launcher, library

pytestmark = pytest.mark.outer
HANG = 100  # seconds: far more than any of these takes
HEAD = """import hpcdl, numpy as np, os, sys, time
def say(*words): os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # a whole line at once: ranks share the pipe
"""


def start(tmp_path: Path, program: str, n: int, **env: str) -> subprocess.Popen[str]:
    file = tmp_path / "program.py"
    file.write_text(HEAD + textwrap.dedent(program))
    found = launcher(library())
    command = [*found.command(n), sys.executable, str(file)]
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    environ = {**found.environment(), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **env}
    return subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def run(tmp_path: Path, program: str, n: int = 4, **env: str) -> tuple[int, str]:
    process = start(tmp_path, program, n, **env)
    try:
        output, _ = process.communicate(timeout=HANG)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output


@pytest.fixture(autouse=True)
def _mpi(require) -> None:
    require("mpi")


def test_a_good_end(tmp_path) -> None:
    code, output = run(
        tmp_path,
        """
        world = hpcdl.init()
        assert hpcdl.init() is world
        say("sum", world.allreduce(np.ones(3))[0])
        """,
    )
    assert (code, output.count("sum 4.0")) == (0, 4), output


def test_shared_memory_at_the_end(tmp_path) -> None:
    """Groups that nobody closed, of other ranks each; arrays that are read after the world has ended."""
    code, output = run(
        tmp_path,
        """
        import atexit
        kept = []
        atexit.register(lambda: say("late", int(kept[0].sum()), kept[1][0]))  # runs after the end of the world
        world = hpcdl.init()
        x = world.buffer(1 << 18)
        x[:] = world.rank
        world.allreduce(x)
        reducer = hpcdl.Reducer(world, [(1000,)])
        reducer.views[0][:] = world.rank
        reducer.ready(0)
        reducer.wait()
        kept += [x, reducer.views[0]]
        for first in range(world.size):
            if world.rank >= first:
                kept.append(world.group(range(first, world.size)))
        for last in range(world.size):
            if world.rank <= last:
                world.group(range(last + 1)).allreduce(np.ones(100_000))
        """,
    )
    assert (code, output.count(f"late {6 * (1 << 18)} 1.5")) == (0, 4), output


def test_mpi_ended_by_the_program(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        world.allreduce_async(np.ones(3)).wait()
        from mpi4py import MPI
        MPI.Finalize()
        say("ended well")
        """
    code, output = run(tmp_path, program)
    assert (code, output.count("ended well")) == (0, 4), output


def test_a_communicator_of_ones_own(tmp_path) -> None:
    program = """
        from mpi4py import MPI
        half = MPI.COMM_WORLD.Split(MPI.COMM_WORLD.rank % 2)
        world = hpcdl.init(comm=half)
        assert world.size == 2 and hpcdl.init() is world and hpcdl.init(comm=half) is world
        try:
            hpcdl.init(comm=MPI.COMM_WORLD)
        except hpcdl.errors.InvalidArgument:
            say("refused", world.allreduce(np.ones(1))[0])
        """
    code, output = run(tmp_path, program)
    assert (code, output.count("refused 2.0")) == (0, 4), output


def test_one_rank_raises(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        if world.rank == 3:
            raise ValueError("no such file")
        world.allreduce(np.ones(3))
        """
    code, output = run(tmp_path, program)
    assert code != 0
    assert "rank 3 of 4:" in output and "ValueError: no such file" in output
    assert re.search(r"PeerLost: rank 3 of 4 raised ValueError: no such file \(\w+\.py:\d+\);", output), output


def test_one_rank_ends_early(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        if world.rank == 1:
            sys.exit(0)
        world.allreduce(np.ones(3))
        """
    code, output = run(tmp_path, program)
    assert code != 0
    # Some of the three may not have begun when the first of them asks.
    who = "ranks? (0, 2-3|0|[23]|2-3|0, [23])"
    assert re.search(
        rf"PeerLost: rank 1 of 4 ended already; meanwhile .*{who} in operation 1, allreduce\(sum, float64 of shape 3", output
    ), output


def test_all_ranks_disagree(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        world.allreduce(np.ones(3 + world.rank % 2))
        """
    code, output = run(tmp_path, program)
    assert code != 0
    assert "Mismatch: ranks disagree on operation 1 of the world: ranks 0, 2: allreduce(sum, float64 of shape 3" in output


def test_a_rank_stuck_in_its_own_code(tmp_path) -> None:
    """The others name it and its line after the time-out, and the job ends although it would go on for ever."""
    program = """
        from mpi4py import MPI
        if MPI.COMM_WORLD.rank:
            del os.environ["HPCDL_TIMEOUT"]  # rank 0's counts
        world = hpcdl.init()
        if world.rank == 2:
            while True:
                time.sleep(0.1)
        world.allreduce(np.ones(3))
        """
    code, output = run(tmp_path, program, HPCDL_TIMEOUT="2")
    assert code != 0
    assert "Stalled: the world: no progress for" in output
    assert "rank 2 in no operation, at program.py:" in output, output


def test_a_swallowed_error_still_ends_the_job_badly(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        try:
            world.allreduce(np.ones(3 + world.rank))
        except hpcdl.errors.Mismatch:
            pass
        """
    code, output = run(tmp_path, program)
    assert code != 0 and "ends with a broken world, and so do all: ranks disagree on operation 1" in output


def test_a_killed_rank(tmp_path) -> None:
    program = """
        world = hpcdl.init()
        world.barrier()
        if world.rank == 1:
            os.kill(os.getpid(), 9)
        world.allreduce(np.ones(3))
        """
    code, _ = run(tmp_path, program)
    assert code != 0


def test_ctrl_c(tmp_path) -> None:
    process = start(
        tmp_path,
        """
        world = hpcdl.init()
        say("pid", os.getpid())
        time.sleep(1000 if world.rank == 0 else 0)
        world.barrier()
        """,
        4,
    )
    pids: list[int] = []
    assert process.stdout is not None
    while len(pids) < 4:
        words = process.stdout.readline().split()
        pids += [int(words[1])] if words[:1] == ["pid"] else []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=HANG)
    assert process.returncode != 0
    deadline = time.monotonic() + HANG
    while any(_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"orphans: {[pid for pid in pids if _alive(pid)]}"
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_forked_after_mpi_has_started(tmp_path) -> None:
    """As a DataLoader does: they compute, and they end without taking MPI with them. To communicate is an error that says so."""
    program = """
        import multiprocessing
        def load(i):
            try:
                world.barrier()
            except hpcdl.errors.HpcdlError as error:
                assert "forked from a rank" in str(error)
                return np.full(1000, i)
        world = hpcdl.init()
        world.barrier()
        early = world.allreduce_async(np.ones(100_000))
        with multiprocessing.get_context("fork").Pool(2) as pool:
            for batch in pool.imap(load, range(20)):
                world.allreduce(batch.astype(np.float32), op="mean")
        child = os.fork()
        if child == 0:
            os._exit(0)  # as workers do; sys.exit would have mpi4py end MPI in the child
        assert os.waitpid(child, 0)[1] == 0
        early.wait()
        say("all well")
        """
    code, output = run(tmp_path, program, n=2)
    assert (code, output.count("all well")) == (0, 2), output


def test_waiting_burns_little(tmp_path) -> None:
    """CPU seconds, not wall-clock: a rank that waits 4 seconds for another must leave the core to it."""
    program = """
        world = hpcdl.init()
        world.barrier()
        begun = time.process_time()
        if world.rank == 0:
            time.sleep(4)
        world.allreduce(np.ones(1000), collective="native" if len(sys.argv) > 1 else "ring")
        say("burnt", world.rank, round(time.process_time() - begun, 3))
        """
    code, output = run(tmp_path, program, n=2)
    assert code == 0, output
    burnt = {int(line.split()[1]): float(line.split()[2]) for line in output.splitlines() if line.startswith("burnt")}
    assert burnt[1] < 1.0, burnt


def test_no_mpi_library(tmp_path) -> None:
    """The error names both cures."""
    (tmp_path / "mpi4py").mkdir()
    (tmp_path / "mpi4py" / "__init__.py").write_text("class rc: initialize = finalize = None")
    (tmp_path / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), root])}
    command = [sys.executable, "-c", "import hpcdl; hpcdl.init()"]
    done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=HANG, check=False)
    assert done.returncode != 0
    assert "LaunchError" in done.stderr and "MPI module" in done.stderr and "pip install 'hpcdl[mpi]'" in done.stderr
