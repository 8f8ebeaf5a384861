"""Named operations on a device: begun and ended by whichever thread, but in the queue that was current when they were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..arrays import Array, of
from ..arrays.queue import HasQueue, Queue, join, queue_of
from ..collectives.operation import Operation
from .request import Begin, Request
from .small import Values
from .table import Table
from .wanted import Verdict, Wanted

__all__ = ["ask"]


def ask(table: Table, arrays: Sequence[Array], wanted: Wanted, begin: Begin, values: Values | None = None) -> Request:
    """`table.request` for an operation on `arrays`. On a device what follows `wait` is queued behind it, in whichever stream that is.

    Why: CUDA's current stream belongs to a thread, and that of the progress loop has no order with the caller's.
    """
    library: Any = next((of(x) for x in arrays if not of(x).on_host), None)
    queue = None if library is None else queue_of(library)
    if queue is None or not isinstance(library, HasQueue):
        return table.request(wanted, begin, values)
    request = table.request(wanted, _within(queue, begin), values)
    request.join = lambda: join(library, queue)
    return request


def _within(queue: Queue, begin: Begin) -> Begin:
    def begun(verdict: Verdict) -> tuple[list[Operation], Callable[[], Any]]:
        with queue:
            operations, end = begin(verdict)

        def ended() -> Any:
            with queue:
                return end()

        return operations, ended

    return begun
