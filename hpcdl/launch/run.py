"""`hpcdl run`: start a program on n ranks of this machine, and end them all together.

The parent starts the launcher that belongs to the MPI library, in a session of its own (a Ctrl-C reaches the ranks once, through
here), passes signals straight to the ranks, ends what is left when one has failed, and says last what went wrong.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import InvalidArgument
from . import mpiexec, records
from .banner import Banner
from .funnel import Funnel
from .machine import thread_shares
from .report import NOT_STARTED, explain
from .tie import tie_to_parent

__all__ = ["resolve", "run"]

_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_AFTER_FAILURE = 5.0  # seconds in which a failing rank may tell the others and end; the others are killed when it is gone
_AFTER_INTERRUPT = 4.0  # in which ranks may clean up
_AFTER_KILL = 2.0  # until the launcher itself is asked to end, and again until it is killed
_TRIES = 3  # of a launcher that ends before any rank has started, for a reason that passes
_TICK = 0.05


def run(command: list[str], ranks: int, *, tag_output: bool = False, env: Mapping[str, str] | None = None) -> int:
    """Run `command` on `ranks` ranks of this machine; returns the exit code (a signal n: 128 + n).

    `command` is a script with its arguments, ``["-m", module, …]``, or any executable. `env` is added to this process's environment.
    Raises InvalidArgument and LaunchError before anything is started.
    """
    if ranks < 1:
        raise InvalidArgument(f"the number of ranks must be at least 1, got {ranks}")
    program = resolve(command)
    launcher = mpiexec.launcher(mpiexec.library())
    environ = launcher.environment({**os.environ, **(env or {})})
    environ.update(thread_shares(ranks, environ))
    for left in reversed(range(_TRIES)):
        code, text = _once(launcher, program, ranks, environ, tag_output)
        if not (left and launcher.family.passing and launcher.family.passing in text and NOT_STARTED in text):
            break
    if text:
        sys.stdout.flush()
        sys.stderr.write(text)
        sys.stderr.flush()
    return code


def _once(launcher: mpiexec.Launcher, program: list[str], ranks: int, environ: dict[str, str], tag_output: bool) -> tuple[int, str]:
    """Start the ranks and wait for their end: the exit code, and what to say about it."""
    with tempfile.TemporaryDirectory(prefix="hpcdl-run-", ignore_cleanup_errors=True) as name:
        environ[records.FOLDER] = name
        rank = [sys.executable, str(Path(__file__).parent), *(["--tag"] if tag_output else []), *program]
        funnels = [Funnel(Path(name), stream) for stream in (1, 2)] if tag_output else []
        with _signals() as received:
            process = subprocess.Popen(
                [*launcher.command(ranks, environ), *rank],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=tie_to_parent,  # noqa: PLW1509 - it only calls the kernel
            )
            assert process.stdout is not None and process.stderr is not None
            family = launcher.family
            streams = [Banner(process.stdout, 1, "", family.line), Banner(process.stderr, 2, family.block, family.line)]
            ended = _Job(process, Path(name), ranks).wait(received)
            for stream in streams:
                stream.join(timeout=2.0)
            for funnel in funnels:
                funnel.close()
        return explain(Path(name), ranks, process.returncode, ended, [line for stream in streams for line in stream.held])


def resolve(command: list[str]) -> list[str]:
    """What a rank is to become: ``[script|module|program, target, args…]``. Raises InvalidArgument where there is no such thing."""
    if not command:
        raise InvalidArgument("no script given. Usage: hpcdl run -n 4 train.py args…")
    target, *args = command
    if args and _is_this_python(target) and (args[0] == "-m" or not args[0].startswith("-")):
        return resolve(args)  # `hpcdl run -n 4 python train.py`
    if target == "-m":
        if not args:
            raise InvalidArgument("-m needs the name of a module")
        return ["module", *args]
    if os.path.isdir(target):
        raise InvalidArgument(f"{target!r} is a directory, not a script")
    if os.path.isfile(target):
        if not os.access(target, os.R_OK):
            raise InvalidArgument(f"no permission to read {target!r}")
        if target.endswith((".py", ".pyw")) or not os.access(target, os.X_OK):
            return ["script", target, *args]
        return ["program", os.path.abspath(target), *args]
    if os.sep not in target and not target.endswith(".py") and (found := shutil.which(target)):
        return ["program", found, *args]
    raise InvalidArgument(f"no such script: {target!r} (looked for in {os.getcwd()})")


def _is_this_python(target: str) -> bool:
    found = shutil.which(target)
    return found is not None and os.path.basename(found).startswith("python") and os.path.dirname(found) == os.path.dirname(sys.executable)


@contextmanager
def _signals() -> Iterator[list[tuple[int, float]]]:
    """The signals that arrive meanwhile, with their times. Outside the main thread Python cannot catch any: an empty list."""
    received: list[tuple[int, float]] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _: FrameType | None) -> None:
        received.append((number, time.monotonic()))

    before = {number: signal.signal(number, note) for number in _PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Job:
    """The launcher and its ranks, from here."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, ranks: int) -> None:
        self._process, self._folder, self._ranks = process, folder, ranks
        self._children: dict[int, int] = {}  # rank -> pid, as far as known
        self._failed: float | None = None
        self._killed: float | None = None

    def wait(self, received: list[tuple[int, float]]) -> int | None:
        """Wait for the end, passing signals on. Returns the signal that ended the job, where it was one of those."""
        passed: set[tuple[int, int]] = set()
        while True:
            try:
                self._process.wait(_TICK)
                break
            except subprocess.TimeoutExpired:
                self._look()
                self._pass_on(received, passed)
                self._escalate(received, time.monotonic())
        self._look()
        if self._failed or received or self._process.returncode:
            self._kill_ranks()  # what a rank started and left behind
        ending = [number for number, _ in received if number not in (signal.SIGUSR1, signal.SIGUSR2)]
        return ending[0] if ending else None

    def _look(self) -> None:
        if len(self._children) < self._ranks:
            host = socket.gethostname()
            self._children = {record["rank"]: record["pid"] for record in records.read(self._folder, "rank") if record["host"] == host}
        if self._failed is None and next(self._folder.glob("failure.*.json"), None):
            self._failed = time.monotonic()

    def _pass_on(self, received: list[tuple[int, float]], passed: set[tuple[int, int]]) -> None:
        for index, (number, _) in enumerate(list(received)):
            for rank, pid in self._children.items():
                if (index, rank) not in passed:
                    passed.add((index, rank))
                    _send(os.kill, pid, number)

    def _escalate(self, received: list[tuple[int, float]], now: float) -> None:
        """End what does not end by itself: after a failure, after Ctrl-C, after a second request to end; at last the launcher."""
        if self._killed is not None:
            late = now - self._killed
            if late >= _AFTER_KILL:
                _send(os.killpg, self._process.pid, signal.SIGTERM if late < 2 * _AFTER_KILL else signal.SIGKILL)
            return
        requests = [(number, when) for number, when in received if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        due = [self._failed + _AFTER_FAILURE] if self._failed else []
        if not requests and next(self._folder.glob("gone.*.json"), None):
            due.append(now)
        # A script may catch SIGTERM to write a checkpoint: only Ctrl-C, or a job that has not come up, has a time limit of ours.
        due += [when + _AFTER_INTERRUPT for number, when in requests if number == signal.SIGINT or len(self._children) < self._ranks]
        due += [when for _, when in requests[1:]]
        if due and now >= min(due):
            self._killed = now
            self._kill_ranks()

    def _kill_ranks(self) -> None:
        for pid in self._children.values():
            _send(os.killpg, pid, signal.SIGKILL)
            _send(os.kill, pid, signal.SIGKILL)


def _send(how: Any, pid: int, number: int) -> None:
    try:
        how(pid, number)
    except (ProcessLookupError, PermissionError):
        pass
