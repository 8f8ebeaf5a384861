"""One rank under `hpcdl run`: a small supervisor, and its child, which becomes the user's program.

Why two processes: only a parent learns for sure how a process ended (which signal), under any launcher; it tags the output by
whole lines; and the launcher sees an ordinary exit code, not a crash that it would comment on. The fork comes before
anything heavy is imported; the supervisor costs a few megabytes and no time.
"""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

from . import records
from .env import place
from .funnel import NAMES, put
from .program import Me, become
from .tie import tie_to_parent

__all__ = ["main"]

_NOT_FOR_THE_SUPERVISOR = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT)

_WAIT_FOR_PARENT = 1.5  # seconds


def main(arguments: list[str]) -> NoReturn:
    """``[--tag] script|module|program TARGET ARGS…``: run it as this rank; ends the process."""
    tag = arguments[0] == "--tag"
    kind, target, *args = arguments[tag:]
    here = place()
    rank, size = (here.rank, here.size) if here else (0, 1)
    where = records.folder()
    tie_to_parent()
    pipes = [os.pipe(), os.pipe()] if tag else []
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # so that `hpcdl run` can end this rank's own children with it
        tie_to_parent()
        for stream, (reader, writer) in enumerate(pipes, start=1):
            os.dup2(writer, stream)
            os.close(reader)
            os.close(writer)
        become(kind, target, args, Me(rank, size, where))
    for number in _NOT_FOR_THE_SUPERVISOR:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _pass_on(child))
    if where is not None:
        records.write(where, "rank", rank, pid=child, host=socket.gethostname())
    for _, writer in pipes:
        os.close(writer)
    status = _tagged(child, [reader for reader, _ in pipes], f"[{rank}] ".encode(), where) if tag else os.waitpid(child, 0)[1]
    code = _report(os.waitstatus_to_exitcode(status), rank, where)
    if code and where is not None:
        _let_the_parent_end_the_others(where, rank, size)
    os._exit(code)


def _pass_on(child: int) -> None:
    try:
        os.kill(child, signal.SIGTERM)
    except ProcessLookupError:
        pass


def _report(code: int, rank: int, where: Path | None) -> int:
    """Record how the child ended; returns the exit code for the launcher."""
    if where is None:
        return code if code >= 0 else 128 - code
    if code == 0:
        records.write(where, "end", rank)
    elif code > 0:
        records.write(where, "failure", rank, kind="exit", code=code, text="", summary=f"exit code {code}")
    else:
        fault = where / f"fault.{rank}"
        text = _own_frames(fault.read_text(encoding="utf-8", errors="replace")) if fault.exists() else ""
        hint = "; was it out of memory? `dmesg` tells" if code == -signal.SIGKILL else ""
        summary = f"killed by signal {-code} ({signal.strsignal(-code)}){hint}"
        records.write(where, "failure", rank, kind="signal", code=128 - code, text=text, summary=summary)
    return code if code >= 0 else 128 - code


def _own_frames(stack: str) -> str:
    """A stack of Python's fault handler without the frames of this package's start."""
    ours = (f'File "{os.path.dirname(__file__)}{os.sep}', 'File "<frozen runpy>"')
    return "".join(line for line in stack.splitlines(keepends=True) if not line.strip().startswith(ours))


def _let_the_parent_end_the_others(where: Path, rank: int, size: int) -> None:
    """Wait a moment for `hpcdl run`, which ends the other ranks as soon as this rank's child is gone.

    Why: a launcher that has to kill ranks itself comments on it at length, MPICH's even on the output stream.
    """
    records.write(where, "gone", rank)
    deadline = time.monotonic() + _WAIT_FOR_PARENT
    while time.monotonic() < deadline and not records.all_ended(where, size):
        time.sleep(0.02)


def _tagged(child: int, readers: list[int], tag: bytes, where: Path | None) -> int:
    """Copy the child's output line by line, each line with `tag`; returns the child's wait status."""
    selector = selectors.DefaultSelector()
    rest = dict.fromkeys(readers, b"")
    targets = {reader: _target(where, stream) for stream, reader in enumerate(readers, start=1)}
    for reader in readers:
        selector.register(reader, selectors.EVENT_READ)
    status: int | None = None
    quiet_until = float("inf")  # the child's own children may hold the pipes open after its end
    while (selector.get_map() or status is None) and time.monotonic() < quiet_until:
        for key, _ in selector.select(0.1):
            chunk = os.read(key.fd, 65536)
            *lines, rest[key.fd] = (rest[key.fd] + chunk).split(b"\n")
            _put(targets[key.fd], [tag + line + b"\n" for line in lines])
            if not chunk:
                selector.unregister(key.fd)
        if status is None:
            ended, code = os.waitpid(child, 0 if not selector.get_map() else os.WNOHANG)
            if ended:
                status, quiet_until = code, time.monotonic() + 0.5
    for reader in readers:
        _put(targets[reader], [tag + rest[reader] + b"\n"] if rest[reader] else [])
    return status if status is not None else os.waitpid(child, 0)[1]


def _target(where: Path | None, stream: int) -> int:
    """Where the tagged lines go: to `hpcdl run` itself, else through the launcher."""
    try:
        return os.open(where / NAMES[stream], os.O_WRONLY) if where is not None else stream
    except OSError:
        return stream


def _put(target: int, lines: list[bytes]) -> None:
    try:
        put(target, lines)
    except OSError:
        sys.exit(1)  # nobody reads any more
