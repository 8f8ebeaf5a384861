"""Ranks that are told what to time: a driver starts them, asks them over sockets, and stops whoever is not at work."""

from __future__ import annotations

import os
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import IO, Any

__all__ = ["Job", "here", "idle", "serve"]

START = 120  # seconds that a job may take to come up
WATCH = 'cat; kill -CONT "$@" 2> /dev/null'  # whatever ends the driver, stopped ranks must learn of it
_CREDENTIALS = struct.Struct("3i")  # process, user, group, as SO_PEERCRED gives them

Start = Callable[[list[str], IO[bytes]], "subprocess.Popen[Any]"]


class Job:
    """The ranks of one program, in rank order; stopped (SIGSTOP) but for `awake`, so that none burns a core while others are timed.

    start: begins `words` on every rank, with this file for what they print. words: the program and its arguments; the socket's path is put
    behind them. Each rank answers by `serve`. what: for messages.
    """

    def __init__(self, start: Start, words: Sequence[str], ranks: int, folder: Path, what: str) -> None:
        self.what, self._log = what, folder / "output"
        path = folder / "socket"
        with socket.socket(socket.AF_UNIX) as door, self._log.open("wb") as log:
            door.bind(str(path))
            door.listen(ranks)
            door.settimeout(0.5)
            self._process = start([*words, str(path)], log)
            self._lines: list[Connection] = []
            self._pids: list[int] = []
            hellos = [self._accept(door, time.monotonic() + START) for _ in range(ranks)]
        order = sorted(range(ranks), key=lambda i: hellos[i]["rank"])
        self._lines = [self._lines[i] for i in order]
        self.hello: Mapping[str, Any] = hellos[order[0]]
        self._watch = subprocess.Popen(["sh", "-c", WATCH, "sh", *map(str, self._pids)], stdin=subprocess.PIPE, start_new_session=True)
        self.idle = statistics.fmean(self.ask("idle", 0.5))
        self._signal(signal.SIGSTOP)

    def ask(self, *words: Any) -> list[Any]:
        """What every rank answers, in rank order."""
        for driver in self._lines:
            driver.send(words)
        try:
            return [driver.recv() for driver in self._lines]
        except (EOFError, ConnectionResetError):
            raise SystemExit(self._died()) from None

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Within: it runs."""
        self._signal(signal.SIGCONT)
        yield
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End it, in good order if it can."""
        self._signal(signal.SIGCONT)
        try:
            for driver in self._lines:
                driver.send(None)
            self._process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(20)
        self._watch.communicate()

    def _accept(self, door: socket.socket, deadline: float) -> dict[str, Any]:
        while True:
            try:
                line = door.accept()[0]
                pid = _process(line)
                self._lines.append(Connection(line.detach()))
                hello: dict[str, Any] = self._lines[-1].recv()
                self._pids.append(pid or hello["pid"])
                return hello
            except (TimeoutError, EOFError, ConnectionResetError):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self._process.terminate()
                    raise SystemExit(self._died()) from None

    def _died(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")[-3000:]
        return f"{Path(sys.argv[0]).name}: error: the job of {self.what} failed:\n{text}"

    def _signal(self, number: int) -> None:
        for pid in self._pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def _process(line: socket.socket) -> int:
    """Who is at the other end, by its number here, also where it has another one there (a lab's processes have); 0: not known."""
    option = getattr(socket, "SO_PEERCRED", None)
    return 0 if option is None else int(_CREDENTIALS.unpack(line.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size))[0])


def here(python: str, ranks: int, environ: Mapping[str, str]) -> Start:
    """Starts ranks on this machine, by the launcher of the MPI library that `python` loads."""

    def start(words: list[str], log: IO[bytes]) -> subprocess.Popen[Any]:
        command = [python, "-m", "hpcdl.cli", "run", "-n", str(ranks), *words]
        return subprocess.Popen(command, env=environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    return start


def serve(path: str, hello: Mapping[str, Any], actions: Mapping[str, Callable[..., Any]]) -> None:
    """On a rank: say who it is, then do what the driver says until it says no more, or is gone. Sleeps in a read in between."""
    with Client(path, "AF_UNIX") as driver, suppress(EOFError, ConnectionError):
        driver.send({**hello, "pid": os.getpid()})
        while (words := driver.recv()) is not None:
            what, *rest = words
            driver.send({"idle": idle, **actions}[what](*rest))


def idle(seconds: float) -> float:
    """Share of a core that this process burns while nobody calls anything."""
    before = time.process_time()
    time.sleep(seconds)
    return (time.process_time() - before) / seconds
