"""Signals, and that no orphan is left, not even after kill -9."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from .conftest import Running, gone

pytestmark = [pytest.mark.outer, pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")]

Start = Callable[..., Running]
# MPICH catches SIGUSR1 for purposes of its own.
SLEEPS = "import signal\nfrom mpi4py import MPI\nsignal.signal(signal.SIGUSR1, signal.SIG_DFL)\nREADY\ntime.sleep(100)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_ends_all_ranks(running: Start, number: signal.Signals) -> None:
    job = running(SLEEPS, 3)
    job.send(number)
    code, _, err = job.end()
    assert code == 128 + number and "Traceback" not in err and len(err.splitlines()) == 1
    assert gone([*job.pids, job.launcher])


def test_ctrl_c_ends_ranks_that_wait_in_mpi(running: Start) -> None:
    job = running("from mpi4py import MPI\nREADY\nif rank: MPI.COMM_WORLD.Barrier()\ntime.sleep(100)", 3)
    job.send(signal.SIGINT)
    code, _, _ = job.end()
    assert code == 130 and gone([*job.pids, job.launcher])


def test_ctrl_c_lets_ranks_clean_up(running: Start) -> None:
    job = running("READY\ntry:\n    time.sleep(100)\nfinally:\n    time.sleep(0.5)\n    print('clean')", 2)
    job.send(signal.SIGINT)
    code, out, _ = job.end()
    assert code == 130 and out.count("clean") == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_script_may_catch_it_and_arrives_once(running: Start, number: signal.Signals) -> None:
    source = f"""
    import signal
    got = []
    signal.signal({int(number)}, lambda *_: got.append(1))
    READY
    for _ in range(20): time.sleep(0.05)
    print("got", len(got))
    """
    job = running(source, 2)
    job.send(number)
    code, out, err = job.end()
    assert (code, out.count("got 1"), err) == (0, 2, "")


@pytest.mark.parametrize("victim", ["parent", "launcher"])
def test_no_orphan_after_kill_9(running: Start, victim: str) -> None:
    job = running(SLEEPS, 3)
    os.kill(job.process.pid if victim == "parent" else job.launcher, signal.SIGKILL)
    code, _, err = job.end()
    assert gone([*job.pids, job.launcher])
    if victim == "launcher":
        assert code == 137 and "the MPI launcher was killed by signal 9" in err


def test_children_of_a_failed_rank_end_with_it(running: Start) -> None:
    source = """
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    print("pid", child.pid, flush=True)
    time.sleep(0.5)
    raise ValueError
    """
    job = running(source, 2)
    assert job.end()[0] == 1 and gone(job.pids)
