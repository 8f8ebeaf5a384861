"""Handles of collectives and messages as torch.distributed wants them, and their futures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import Work as _Work

from ...collectives.branch import Branch
from ...collectives.operation import Operation
from ..streams import Place, at, place_of
from .futures import BranchFuture
from .hands import Hands

__all__ = ["Work", "seconds"]

_hands = Hands()


def seconds(timeout: Any) -> float | None:
    """A time-out of torch.distributed in seconds; None where it says nothing (0 or less is how it says so)."""
    value = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    return None if value is None or value <= 0 else float(value)


class Work(_Work):
    """One or more operations under way as one handle. `outputs` is what its future gives: the tensors.

    `last` is done once when all have finished well, before anybody hears of it: copying to where the results belong.
    Errors are those of `Operation.wait`, on every rank the same.
    """

    def __init__(self, operations: Sequence[Operation], outputs: Any, last: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._operations, self._outputs, self._last = operations, outputs, last
        self._future: BranchFuture | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._open = len(operations)
        self._place = Place(place_of(outputs) if torch.cuda.is_initialized() else None)
        for operation in operations:
            operation.when_finished(self._one_finished)
        if not operations:
            self._end()

    def wait(self, timeout: Any = None) -> bool:
        """Return once everything is there; True. Raises WaitTimeout after `timeout` (it goes on), and what has gone wrong."""
        limit = seconds(timeout)
        with at(self._place.device):
            for operation in self._operations:
                operation.wait(limit)
        if self._error is not None:
            raise self._error
        return True

    def synchronize(self) -> None:
        """The same as `wait`."""
        self.wait()

    def block_current_stream(self) -> None:
        """The same as `wait`: what comes later sees the results."""
        self.wait()

    def is_completed(self) -> bool:
        """Whether it has ended, well or not. Never blocks; lets communication make progress."""
        for operation in self._operations if self._open else ():
            operation.done()
        return self._open == 0

    def is_success(self) -> bool:
        """Whether it has ended well."""
        return self.is_completed() and self.exception() is None

    def exception(self) -> BaseException | None:
        """What went wrong, if anything did."""
        return self._failure()

    def result(self) -> Any:
        """The tensors, once it has ended."""
        self.wait()
        return self._outputs

    def source_rank(self) -> int:
        """The rank of the group that a receive came from."""
        return int(self._operations[0].result)

    _source_rank = source_rank

    def get_future(self) -> BranchFuture:
        """A future of the list of tensors. Callbacks run on threads of their own, and may communicate and wait."""
        if any(not operation.group.engine.threaded for operation in self._operations):
            self._wait_out()  # MPI admits no background thread, so nothing would go on while somebody waits for the future
        with self._lock:
            future, new = self._future, self._future is None
            if future is None:
                future = self._future = BranchFuture(Branch(self._operations[0] if self._operations else None), self._place.device)
            ended = self._open == 0
        if new and ended:
            self._tell(future)
        elif not ended:
            self._operations[0].group.engine.wake()  # who waits for a future drives no loop
        return future

    def _wait_out(self) -> None:
        try:
            self.wait()
        except Exception:  # the future tells it
            pass

    def _tell(self, future: BranchFuture) -> None:
        error = self._failure()
        with self._place.again():  # callbacks come behind the operation
            if error is None:
                future.set_result(self._outputs)
            else:
                future.fail(error)

    def _failure(self) -> BaseException | None:
        return next((operation.error for operation in self._operations if operation.error is not None), self._error)

    def _one_finished(self) -> None:
        with self._lock:
            self._open -= 1
            if self._open:
                return
            self._open = 1  # until `last` is done
        self._end()

    def _end(self) -> None:
        if self._last is not None and self._failure() is None:
            try:
                with torch.no_grad(), self._place.again():
                    self._last()
            except BaseException as error:  # an interrupt too: `wait` raises it
                self._error = error
        self._last = None
        with self._lock:
            self._open, future = 0, self._future
        if future is not None:
            _hands.run(lambda: self._tell(future))
