"""A hang ends in every rank's stack. Two dogs: one for a single process, one for the ranks of a job.

Both are backed by faulthandler's own timer, which needs no interpreter lock: it dumps and ends the process
`GRACE` seconds later if the dog itself could not bark.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from .environment import EXIT_HUNG
from .lane import Lane

GRACE = 20.0
DUMP = getattr(signal, "SIGRTMIN", signal.SIGUSR2) + (5 if hasattr(signal, "SIGRTMIN") else 0)


def all_stacks() -> str:
    """Every thread of this process, by name."""
    frames = sys._current_frames()
    parts = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is not None:
            parts.append(f"---- {thread.name} ----\n" + "".join(traceback.format_stack(frame)))
    return "\n".join(parts)


class Alarm:
    """For one process: after `limit` seconds the main thread raises a test failure that holds every thread's stack."""

    def __init__(self, limit: float, stderr: TextIO) -> None:
        self.limit = limit
        self.stderr = stderr

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Watch over the code inside; main thread only."""

        def bark(_signum: int, _frame: object) -> None:
            raise pytest.fail.Exception(f"{what}: no end after {self.limit:g} s; every thread's stack:\n\n{all_stacks()}")

        before = signal.signal(signal.SIGALRM, bark)
        signal.setitimer(signal.ITIMER_REAL, self.limit)
        faulthandler.dump_traceback_later(self.limit + GRACE, exit=True, file=self.stderr)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            faulthandler.cancel_dump_traceback_later()


class RankWatchdog:
    """For the ranks of a job: the first whose test is late collects every rank's stack, reports it and ends the job.

    Each rank writes its stack on a signal (faulthandler: also from within a C call) to a file of its own in `folder`.
    """

    def __init__(self, lane: Lane, limit: float, folder: Path, stderr: TextIO) -> None:
        self.lane, self.limit, self.folder, self.stderr = lane, limit, folder, stderr
        self.on_bark: Callable[[str], None] = lambda _text: None  # told the whole report, before the job ends
        folder.mkdir(parents=True, exist_ok=True)
        self._stack = (folder / f"stack.{lane.rank}").open("w", encoding="utf-8")
        faulthandler.register(DUMP, file=self._stack, all_threads=True, chain=False)
        self._what = ""
        self._late = float("inf")
        threading.Thread(target=self._run, name="harness watchdog", daemon=True).start()

    @contextlib.contextmanager
    def watch(self, what: str) -> Iterator[None]:
        """Watch over the code inside, on every rank at the same time."""
        self.note("")
        self._what, self._late = what, time.monotonic() + self.limit
        faulthandler.dump_traceback_later(self.limit + GRACE, exit=True, file=self.stderr)
        try:
            yield
        finally:
            self._late = float("inf")
            faulthandler.cancel_dump_traceback_later()

    def note(self, text: str) -> None:
        """Leave word of how this rank stands, for the report."""
        (self.folder / f"note.{self.lane.rank}").write_text(text, encoding="utf-8")

    def _run(self) -> None:
        while time.monotonic() < self._late:
            time.sleep(min(0.25, self.limit / 4))
        try:
            (self.folder / "barking").touch(exist_ok=False)
        except FileExistsError:  # another rank reports; it ends us too
            time.sleep(GRACE)
            os._exit(EXIT_HUNG)
        text = self._report()
        with contextlib.suppress(Exception):
            self.stderr.write(text)
            self.stderr.flush()
            self.on_bark(text)
        threading.Timer(5.0, os._exit, (EXIT_HUNG,)).start()
        self.lane.abort(EXIT_HUNG)

    def _report(self) -> str:
        gone = set()
        for rank, pid in enumerate(self.lane.pids):
            try:
                if pid is not None:
                    os.kill(pid, DUMP)
            except ProcessLookupError:
                gone.add(rank)
        time.sleep(1.0)
        parts = [f"\n{self._what}: no end after {self.limit:g} s; every rank's stack:"]
        for rank, pid in enumerate(self.lane.pids):
            parts.append(f"\n==== rank {rank} of {self.lane.size} ====")
            parts.append(self._read("note", rank))
            stack = self._read("stack", rank)
            parts.append(stack or ("on another host: see its own output" if pid is None else "gone: the process has ended"))
        return "\n".join(part for part in parts if part) + "\n"

    def _read(self, kind: str, rank: int) -> str:
        path = self.folder / f"{kind}.{rank}"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
