"""A warning to any rank ends the training on all of them at one step, from which it goes on bitwise."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext

import numpy as np
import pytest
from harness.programs import run

import hpcdl
from hpcdl.checkpoint import Checkpoint
from hpcdl.checkpoint.stop import deadline
from hpcdl.errors import InvalidArgument
from hpcdl.numpy import MLP, Trainer

DATA = np.random.default_rng(0)
X, Y = DATA.normal(size=(203, 12)).astype(np.float32), DATA.integers(0, 4, 203)


def stopped_at(world, folder, asked, asks=0):
    """The step at which a loop over 9 steps ends if rank `asks` is asked to before the call for step `asked`; and the exit code."""
    step = None
    with Checkpoint(folder, world, {"values": {"x": np.zeros(3)}}) as checkpoint:
        try:
            with hpcdl.preemption(world, checkpoint) as stop:
                for step in range((checkpoint.restore() or 0) + 1, 10):
                    if step == asked and world.rank == asks:
                        stop.ask()
                    stop(step)
        except SystemExit as end:
            assert stop.step == step == (checkpoint.saved or step)
            return step, end.code
        assert stop.step is None
    return step, 0


@pytest.mark.parametrize("n", [1, 3])
def test_agreed_step(ranks, shared_path, n) -> None:
    def body(world) -> None:
        assert stopped_at(world, shared_path, 4, n - 1) == (5, hpcdl.REQUEUE)
        assert stopped_at(world, shared_path, 6) == (7, hpcdl.REQUEUE)
        assert stopped_at(world, shared_path, 9) == (9, 0)  # the training is over first

    ranks(n, body)


@pytest.mark.ways("mpi")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal(ranks, shared_path, number) -> None:
    """One in the midst of a step; the handlers from before come back."""

    def body(world) -> None:
        before = signal.signal(number, noted := lambda *_: None)
        try:
            checkpoint = Checkpoint(shared_path, world, {"values": {"x": np.zeros(3)}})
            with pytest.raises(SystemExit, match="85"), hpcdl.preemption(world, checkpoint) as stop:
                for step in range(1, 10):
                    if (step, world.rank) == (3, 1):
                        os.kill(os.getpid(), number)
                        os.kill(os.getpid(), number)
                    stop(step)
            assert stop.step == checkpoint.saved and stop.step in (4, 5)  # the later, where another thread has taken the signal
            assert signal.getsignal(number) is noted
            checkpoint.close()
        finally:
            signal.signal(number, before or signal.SIG_DFL)

    ranks(3, body)


@pytest.mark.ways("mpi")
def test_what_it_ends_not(ranks, shared_path) -> None:
    """A process that is spawned has no handler, and Slurm signals all processes of a step. A signal without a name is told by number."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"values": {"x": np.zeros(3)}}) as checkpoint:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
            numbers = (signal.SIGUSR1, signal.SIGRTMIN + 3)
            with pytest.raises(SystemExit, match="85"), hpcdl.preemption(world, checkpoint, numbers) as stop:
                with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
                    for number in numbers:
                        child.send_signal(number)
                    child.communicate(b"\n")
                assert child.returncode == 0
                for step in range(1, 10):
                    if (step, world.rank) == (3, 1):
                        os.kill(os.getpid(), numbers[1])
                    stop(step)
            assert stop.step == checkpoint.saved and signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before

    ranks(2, body)


def test_time_limit(ranks, shared_path) -> None:
    """The clock of any rank counts."""

    def body(world) -> None:
        with Checkpoint(shared_path, world, {"values": {"x": np.zeros(3)}}) as checkpoint:
            with pytest.raises(SystemExit), hpcdl.preemption(world, checkpoint) as stop:
                for step in range(1, 6):
                    if step == 3 and world.rank == 1:
                        stop.deadline = time.time()
                    stop(step)
            assert stop.step == 4

    ranks(2, body)


def test_deadline() -> None:
    """What is nearly over has a tenth of it; what is over or no time at all is left to the signals."""
    assert deadline("10000", 1000.0, 60.0) == 9940.0 and deadline("1100", 1000.0, 60.0) == 1090.0
    assert all(deadline(told, 1000.0, 60.0) == float("inf") for told in ("999", "", "unknown", "-1"))


def test_what_cannot_be_saved(ranks, shared_path) -> None:
    """With nothing to go on from the code is no request to start again."""

    def body(world) -> None:
        shared_path.mkdir(exist_ok=True)
        blocked = shared_path / "file" / "folder"
        if world.rank == 0:
            (shared_path / "file").write_text("")
        world.barrier()
        with pytest.warns(RuntimeWarning, match="could not be written") if world.rank == 0 else nullcontext():
            assert stopped_at(world, blocked, 2) == (3, 1)

    ranks(2, body)


def test_arguments(ranks, shared_path) -> None:
    def body(world) -> None:
        with Checkpoint(shared_path, world, {"values": {}}) as checkpoint:
            with pytest.raises(InvalidArgument, match="margin must not be negative"):
                hpcdl.preemption(world, checkpoint, margin=-1)
            with hpcdl.preemption(world, checkpoint) as stop, pytest.raises(InvalidArgument, match="step must be a whole number"):
                stop(1.5)

    ranks(2, body)


@pytest.mark.parametrize("codec", [None, "int8"])
def test_trainer(ranks, shared_path, codec) -> None:
    """The losses and the weights are those of a training that was never ended, twice in the midst of a pass."""

    def fitted(world, folder=None, asked=0):
        trainer = Trainer(world, MLP((12, 64, 4), seed=1), codec=codec)
        settings = {"batch_size": 32, "epochs": 3}
        if folder is None:
            return trainer, trainer.fit(X, Y, **settings)
        with Checkpoint(folder, world, {"trainer": trainer}) as checkpoint:
            step, count = trainer.step, 0
            with hpcdl.preemption(world, checkpoint) as stop:

                def counted(x, y):
                    nonlocal count
                    count += 1
                    if count == asked and world.rank == world.size - 1:
                        stop.ask()
                    return step(x, y)

                trainer.step = counted
                try:
                    return trainer, trainer.fit(X, Y, checkpoint=checkpoint, stop=stop, **settings)
                except SystemExit as end:
                    assert end.code == hpcdl.REQUEUE
                    return None

    def body(world) -> None:
        whole, losses = fitted(world)
        assert fitted(world, shared_path, 4) is None and fitted(world, shared_path, 5) is None
        part, found = fitted(world, shared_path)
        assert found == losses
        assert all(a.tobytes() == b.tobytes() for a, b in zip(whole.model.parameters, part.model.parameters, strict=True))

    ranks(3, body)


SCRIPT = """
import os, signal, sys, time
import numpy as np
import hpcdl
from hpcdl.checkpoint import Checkpoint
from hpcdl.checkpoint.stop import deadline
world = hpcdl.init()
with Checkpoint(sys.argv[1], world, {"values": {"x": np.zeros(3)}}) as checkpoint, hpcdl.preemption(world, checkpoint) as stop:
    for step in range((checkpoint.restore() or 0) + 1, 8):
        if step == 3 and world.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        stop(step)
if world.rank == 0:
    print("done after", step)
"""


@pytest.mark.outer
def test_exit_code(require, tmp_path) -> None:
    """What the launcher gives back is what a job's template looks at; the second start says where it goes on."""
    require("mpi")
    (tmp_path / "script.py").write_text(SCRIPT)
    words = [sys.executable, "-m", "hpcdl.cli", "run", "-n", 2, tmp_path / "script.py", tmp_path / "run"]
    first = run(*words)
    assert first.returncode == hpcdl.REQUEUE and "SIGTERM to rank 1: all ranks stop after step 4; step 4 is saved in" in first.stderr, first
    assert "ended to be started again" in first.stderr and "rank" not in first.stderr.splitlines()[-1]
    second = run(*words, SLURM_RESTART_COUNT="1")
    assert second.returncode == 0 and second.stdout == "done after 7\n", second
    assert "restart 1 of Slurm's job goes on after step 4" in second.stderr
