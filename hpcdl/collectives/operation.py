"""A running collective: its signature, which must be the same on all ranks, and its handle."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..errors import CommunicationError
from ..transport.base import Pending

if TYPE_CHECKING:
    from .group import Group

__all__ = ["After", "Operation", "Signature", "all_finished", "chain"]


class Signature(NamedTuple):
    """What must be the same on all ranks. `name` is for the reader of an error."""

    kind: str
    op: str = ""
    dtype: Any = ""
    shape: tuple[int | None, ...] = ()  # None: may differ between ranks
    codec: str = ""
    collective: str = ""
    extra: str = ""
    name: str = ""

    def __str__(self) -> str:
        shape = "×".join("?" if n is None else str(n) for n in self.shape) or "scalar"
        parts = [self.op, f"{self.dtype} of shape {shape}" if self.dtype != "" else "", f"codec {self.codec}" if self.codec else ""]
        parts += [f"collective {self.collective}" if self.collective else "", self.extra, f"named {self.name!r}" if self.name else ""]
        return f"{self.kind}({', '.join(filter(None, parts))})"

    def fingerprint(self) -> int:
        """64 bits that tell signatures apart, the same in every process."""
        return _fingerprint(self)


@lru_cache(maxsize=4096)
def _fingerprint(signature: Signature) -> int:
    return int.from_bytes(hashlib.blake2b(repr(tuple(signature)).encode(), digest_size=8).digest(), "little", signed=True)


def chain(history: int, fingerprint: int) -> int:
    """The fingerprint of a history with one operation more. Hashes of integers are the same in every process."""
    return hash((history, fingerprint))


class Operation:
    """The handle of a collective under way. Handles may be waited for in any order, whatever the other ranks do."""

    def __init__(self, group: Group, number: int, signature: Signature, body: Generator[Pending, None, Any]) -> None:
        self.group = group
        self.number = number  # counts the operations of the group, the same on every rank
        self.signature = signature
        self.finished = False
        self.error: CommunicationError | None = None
        self.result: Any = None
        self.moved_at = self.started_at = time.monotonic()
        self.troubled = False  # does not go on; the ranks are finding out why
        self.timeout: float | None = None  # seconds without progress after which it has stalled, if not the group's
        self._actions: list[Callable[[], None]] = []
        self._body = body
        self._waits_for: Pending | None = None

    def done(self) -> bool:
        """Whether it has finished, well or not. Lets all operations of this process make progress; never blocks."""
        if not self.finished:
            self.group.engine.poll()
        return self.finished

    def wait(self, timeout: float | None = None) -> Any:
        """Return the result when it is there. On a device: what this thread queues from now on, in whichever stream, comes after it.

        The host does not wait for the device, which may not have come so far yet.

        Raises WaitTimeout after `timeout` seconds (the operation goes on and can be waited for again), and CommunicationError, the same on
        every rank, where it can never finish.
        """
        self.settle(timeout)
        join = getattr(self._body, "join", None)  # of a body that keeps to a queue of its device
        if join is not None:
            join()
        return self.result

    def settle(self, timeout: float | None = None) -> None:
        """`wait`, for a caller who puts what comes later behind it himself."""
        if not self.finished:
            self.group.engine.run_until(self, timeout)
        if self.error is not None:
            raise type(self.error)(*self.error.args)

    def when_finished(self, action: Callable[[], None]) -> None:
        """Call `action` when the outcome is set, just before anybody sees it: on any thread, under the engine's lock. It must not raise."""
        with self.group.engine.locked():
            if self.finished:
                action()
            else:
                self._actions.append(action)

    @property
    def title(self) -> str:
        """What errors call it. Numbers below 0 mean nothing to another rank."""
        return str(self.signature) if self.number < 0 else f"operation {self.number}, {self.signature}"

    @property
    def pressing(self) -> bool:
        """Whether other ranks may be waiting for what this one does next."""
        return not self.finished and getattr(self._waits_for, "pressing", True)

    def advance(self) -> bool:
        """Go as far as possible without blocking; whether anything happened. Under the engine's lock."""
        if self.finished or self.troubled:
            return False
        if self._waits_for is not None and not self._waits_for.done():
            if isinstance(self._waits_for, After):
                self.moved_at = max(self.moved_at, self._waits_for.operation.moved_at)  # queueing is not stalling
            return False
        try:
            with np.errstate(all="ignore"):  # NaN and overflow in a gradient are the user's to judge, not to be warned of here
                while True:
                    self._waits_for = next(self._body)
                    if not self._waits_for.done():
                        self.moved_at = time.monotonic()
                        return True
        except StopIteration as stop:
            self.finish(stop.value)
            return True

    def finish(self, result: Any = None, error: CommunicationError | None = None) -> None:
        """Set the outcome, once."""
        if not self.finished:
            if error is not None:
                with suppress(Exception):  # a device that is lost, say: the error that is told is the first one
                    self._body.close()  # cancels what it had still to receive: nobody writes into the user's array any more
            self.result, self.error = result, error
            for action in self._actions:
                action()
            self._actions.clear()  # they hold who waits, who holds this: with the arrays that would live until a collection of garbage
            self.finished = True
            self.group.forget(self)


class After:
    """Another operation as something to wait for inside a body."""

    source = -1
    nbytes = 0

    def __init__(self, operation: Operation) -> None:
        self.operation = operation

    def done(self) -> bool:
        return self.operation.finished

    def cancel(self) -> None:
        pass


def all_finished(operations: Iterable[Operation]) -> Generator[Pending, None, None]:
    """The beginning of a body that must not go on before `operations` have finished."""
    for operation in operations:
        if not operation.finished:
            yield After(operation)
