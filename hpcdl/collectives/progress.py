"""One loop that advances all operations of all groups of this process, and never blocks inside MPI.

Whoever waits drives it in their own thread; a background thread drives it while nobody waits, so that communication goes on behind
computation and a rank deep in user code still answers when others ask why nothing moves.

Why one lock and no second communicator for blocking calls: a blocking call that starts its operation and then drives this very loop has
no thread hand-over, keeps one order of operations for all calls, and works with MPI_THREAD_SERIALIZED.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from ..arrays.queue import serve
from ..errors import HpcdlError, WaitTimeout
from .backoff import Backoff

if TYPE_CHECKING:
    from .group import Group
    from .operation import Operation

__all__ = ["Engine"]

_WATCH_EVERY = 20e-3  # seconds between looks at the control lanes while something is under way
_IDLE_WATCH = 50e-3  # and while nothing is


_forked = False  # whether this process is the child of a rank


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


class _Bell:
    """Wakes one sleeper. Why not an Event: that takes as long as the whole of a small operation."""

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        """Whoever sleeps wakes; if nobody does, the next to sleep wakes at once."""
        try:
            self._silent.release()
        except RuntimeError:  # it rings already
            pass

    def sleep(self, seconds: float) -> None:
        """Until it rings, or so long."""
        self._silent.acquire(timeout=seconds)


class Engine:
    """The progress loop of one rank."""

    def __init__(self, threaded: bool, name: str = "") -> None:
        self.owner = self._speaker = threading.get_ident()  # the thread that runs the user's program, and whose waits count as its own
        self._lock = threading.RLock()
        self._operations: list[Operation] = []
        self._groups: weakref.WeakValueDictionary[int, Group] = weakref.WeakValueDictionary()
        self._numbers = count()
        self._waiters = 0
        self.awaited: Operation | None = None  # what the user's program waits for, as long as it takes
        self._seconds = {"waiting": 0.0, "background": 0.0}  # of CPU, by the kind of thread
        self._watched_at = 0.0
        self._work = _Bell()
        self.library = ""  # the MPI library's version, where costs were measured with it
        self._closing = False
        self._thread: threading.Thread | None = None
        if threaded:
            self._thread = threading.Thread(target=_serve, args=(weakref.ref(self),), name=f"hpcdl-progress {name}", daemon=True)
            self._thread.start()

    def add_group(self, group: Group) -> None:
        """Watch the control lane of `group` from now on."""
        self._groups[next(self._numbers)] = group

    def remove_group(self, group: Group) -> None:
        """Watch it no more."""
        for number in [number for number, other in self._groups.items() if other is group]:
            del self._groups[number]

    def locked(self) -> threading.RLock:
        """The lock under which the transport is used."""
        self._check_process()
        return self._lock

    def submit(self, operation: Operation, wake: bool = True) -> None:
        """Start `operation`: its first messages are under way when this returns. wake: whether the background thread is to go on with it.

        Why that sleeps on, for some milliseconds, where nothing presses: to wake it takes longer than a small operation.
        """
        self._operations.append(operation)
        self._advance(operation)
        self._operations = [other for other in self._operations if not other.finished]
        if wake and operation.pressing and not self._waiters:
            self._work.ring()

    def wake(self) -> None:
        """See that what is under way goes on: somebody is about to wait for it who does not drive the loop."""
        if self._operations and not self._waiters:
            self._work.ring()

    def __enter__(self) -> None:
        """Within: this thread is about to wait, so the background thread need not be woken for what it starts."""
        self._waiters += 1

    def __exit__(self, *error: object) -> None:
        self._waiters -= 1
        self.wake()

    @contextmanager
    def speaking(self) -> Iterator[None]:
        """Within: what this thread waits for, the user's program waits for, as it does where a graph that it runs calls from a thread."""
        before, self._speaker = self._speaker, threading.get_ident()
        try:
            yield
        finally:
            self._speaker = before

    @property
    def threaded(self) -> bool:
        """Whether communication goes on while nobody waits."""
        return self._thread is not None

    def busy(self) -> bool:
        """Whether any operation is under way."""
        return bool(self._operations)

    def groups(self) -> list[Group]:
        """All groups that are still in use, oldest first: the same order on all their ranks, since making one is collective."""
        return [group for _, group in sorted(self._groups.items(), key=lambda item: item[0])]

    @property
    def cpu_seconds(self) -> float:
        """What the loop has cost so far: CPU time of the background thread, and of threads that waited."""
        return sum(self._seconds.values())

    def poll(self) -> bool:
        """One round of the loop, unless another thread is at it; whether anything happened."""
        self._check_process()
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return self._round()
        finally:
            self._lock.release()

    def run_until(self, operation: Operation, timeout: float | None = None) -> None:
        """Drive the loop until `operation` has finished. Raises WaitTimeout after `timeout` seconds."""
        self._check_process()
        deadline = None if timeout is None else time.monotonic() + timeout
        backoff, begun, before = Backoff(), time.thread_time(), self.awaited
        if deadline is None and threading.get_ident() == self._speaker:
            self.awaited = operation
        try:
            with self:
                while not operation.finished:
                    with self._lock:
                        moved = not operation.finished and self._round()
                    if operation.finished:
                        return
                    if deadline is not None and time.monotonic() >= deadline:
                        raise WaitTimeout(f"{operation.group.place}: {operation.signature} has not finished after {timeout} s; it goes on")
                    backoff.pause(moved)
        finally:
            self.awaited = before
            self._seconds["waiting"] += time.thread_time() - begun

    def close(self) -> None:
        """Stop the background thread. Before MPI ends."""
        self._closing = True
        self._work.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)

    def _round(self) -> bool:
        moved = False
        for operation in tuple(self._operations):
            moved |= self._advance(operation)
        if moved:
            self._operations = [operation for operation in self._operations if not operation.finished]
        now = time.monotonic()
        if now - self._watched_at > _WATCH_EVERY:
            self._watched_at = now
            for group in tuple(self._groups.values()):
                moved |= group.watch(now)
            self._operations = [operation for operation in self._operations if not operation.finished]
        return moved

    def _advance(self, operation: Operation) -> bool:
        try:
            return operation.advance()
        except BaseException as error:  # whatever it is, all ranks must hear of it, Ctrl-C included: the operation is lost
            operation.group.trouble(operation, error)
            if not isinstance(error, Exception):
                raise
            return True

    def _check_process(self) -> None:
        if _forked:
            raise HpcdlError(
                "this process was forked from a rank and cannot communicate: MPI does not survive a fork; "
                "communicate in the rank itself, or start workers with the spawn method"
            )

    def _serve_once(self, backoff: Backoff) -> None:
        if self._waiters or not self._operations:
            self._work.sleep(_IDLE_WATCH)
            if self._waiters:
                return
        with self._lock:
            moved = self._round()
        self._seconds["background"] = time.thread_time()
        if self._operations:
            backoff.pause(moved)


def _serve(reference: weakref.ref[Engine]) -> None:
    """Body of the background thread. It holds the engine only while it works, so that a forgotten engine ends it."""
    serve()
    backoff = Backoff()
    while True:
        engine = reference()
        if engine is None or engine._closing:
            return
        engine._serve_once(backoff)
        del engine
