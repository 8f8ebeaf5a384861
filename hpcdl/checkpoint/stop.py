"""A warning of the end (Slurm's signal, SIGTERM, the time limit) becomes one step at which all ranks save and leave."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

import numpy as np

from ..agree import count
from ..collectives.operation import Operation
from ..errors import REQUEUE, InvalidArgument
from ..world import World
from .checkpoint import Checkpoint

__all__ = ["Preemption", "deadline", "preemption"]

_ASKED, _NEAR_THE_LIMIT = 1000, 1001  # reasons beside the numbers of signals
_PER_REASON = 1 << 32


def preemption(
    world: World, checkpoint: Checkpoint, signals: Sequence[int] = (signal.SIGTERM, signal.SIGUSR1), margin: float = 60.0
) -> Preemption:
    """Let a training end in good order when its job is about to be ended. Collective, as is calling what it gives::

        with Checkpoint("run", world, parts) as checkpoint, hpcdl.preemption(world, checkpoint) as stop:
            for step in range(checkpoint.restore() or 0, steps):
                ...
                stop(step + 1)

    After one of `signals` to any rank, or `margin` seconds before the end of a Slurm job (SLURM_JOB_END_TIME), all ranks save at the same
    step, at most two after the signal, and leave by SystemExit with code `hpcdl.REQUEUE` (85), on which the templates in jobs/ requeue.
    So two steps and a checkpoint must fit in the time between the warning and the end. It costs one all-reduce of 8 bytes a step, whose
    result is read a step later. Handlers of `signals` are replaced until the block ends; outside of the main thread, where Python has none,
    only the time limit and `Preemption.ask` count.

    Raises InvalidArgument for a bad argument.
    """
    return Preemption(world, checkpoint, signals, margin)


class Preemption:
    """What `preemption` gives.

    step: the number of steps done that the ranks have left at, or None. deadline: when this rank asks for the end by itself, in seconds
    since the epoch.
    """

    def __init__(self, world: World, checkpoint: Checkpoint, signals: Sequence[int], margin: float) -> None:
        if margin < 0:
            raise InvalidArgument(f"margin must not be negative, got {margin}")
        self._world = world.group(range(world.size))  # of its own: it is under way while the training communicates
        self._checkpoint, self._signals, self._pid = checkpoint, signals, os.getpid()
        self._reason = 0
        self._before: dict[int, Any] = {}
        self._blocked: set[int] = set()
        self._mask: set[Any] = set()
        self._exchange: Operation | None = None
        self.deadline = deadline(os.environ.get("SLURM_JOB_END_TIME", ""), time.time(), margin)
        self.step: int | None = None

    def ask(self) -> None:
        """Ask for the end, as a signal to this rank would. Not collective."""
        self._reason = self._reason or _ASKED

    def __call__(self, step: int) -> None:
        """To be called by all ranks after every step, with the number of steps done. Leaves by SystemExit where the end was asked for.

        Raises InvalidArgument where `step` is no whole number.
        """
        step = count("step", step)
        if self._blocked and (heard := self._blocked & signal.sigpending()):
            self._reason = self._reason or min(heard)
        found = 0 if self._exchange is None else int(self._exchange.wait()[0])
        self._exchange = None
        if found:
            self._leave(step, found)
        reason = self._reason or (_NEAR_THE_LIMIT if time.time() > self.deadline else 0)
        mine = np.array([reason * _PER_REASON + self._world.rank if reason else 0], np.int64)
        self._exchange = self._world.allreduce_async(mine, "max", name="preemption")

    def _leave(self, step: int, found: int) -> None:
        """Save and exit, with the code for a requeue where there is something to go on from."""
        self._checkpoint.wait()
        if self._checkpoint.saved != step:
            self._checkpoint.save(step)
            self._checkpoint.wait()
        self.step, saved = step, self._checkpoint.saved
        if self._world.rank == 0:
            what = f"all ranks stop after step {step}"
            kept = "nothing is saved" if saved is None else f"step {saved} is saved in {self._checkpoint.folder}"
            _say(f"{_words(found)}: {what}; {kept}; {'to be started again from there' if saved is not None else 'this run is lost'}")
        raise SystemExit(REQUEUE if saved is not None else 1)

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._note)
                signal.siginterrupt(number, False)  # system calls of MPI and of file systems are not to fail because of it
            # Slurm sends it to all processes of a step. One that is spawned (a worker that loads data) would be ended by it: a handler does
            # not outlive exec, what is blocked does. SIGTERM stays, since by it such workers are ended.
            self._blocked = {*self._signals} - {signal.SIGTERM}
            self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._blocked)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's
        self._before.clear()
        if kind is None or self.step is not None:
            if self._exchange is not None:
                self._exchange.wait()
            self._world.close()

    def _note(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a fork, a worker that loads data: Slurm sends signals to all processes of a job
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._reason = self._reason or number


def deadline(told: str, now: float, margin: float) -> float:
    """When to stop by the clock, in seconds since the epoch, for a job that ends at `told`; never where that is over, or no time."""
    left = float(told) - now if told.isdecimal() else 0.0
    return float("inf") if left <= 0 else float(told) - min(margin, left / 10)


def _words(found: int) -> str:
    reason, rank = divmod(found, _PER_REASON)
    if reason == _NEAR_THE_LIMIT:
        return "the job's time limit is near"
    if reason == _ASKED:
        return f"rank {rank} was asked to stop"
    known = reason in {*signal.Signals}  # not all between SIGRTMIN and SIGRTMAX are
    return f"{signal.Signals(reason).name if known else f'signal {reason}'} to rank {rank}"


def _say(text: str) -> None:
    print(f"hpcdl: {text}", file=sys.stderr, flush=True)
