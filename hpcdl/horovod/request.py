"""The handle of a named operation."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..collectives.backoff import comes
from ..collectives.operation import Operation, Signature
from ..errors import CommunicationError
from ..transport.base import Pending
from .errors import Disagreed, HorovodInternalError, translated
from .wanted import Verdict, Wanted

if TYPE_CHECKING:
    from .places import Meeting
    from .small import Values
    from .table import Table

__all__ = ["Begin", "Request"]

#: Starts what has been ordered; gives the operations under way, and what makes the result of them.
Begin = Callable[[Verdict], tuple[list[Operation], Callable[[], Any]]]


class Request(Operation):
    """The handle of a named operation: waits for its order, then for what was ordered; or for all ranks to meet.

    values: the arrays, where they may be small enough to need no operation of their own.
    """

    def __init__(self, table: Table, wanted: Wanted, number: int, begin: Begin, values: Values | None) -> None:
        kind, _, arrays, op, root, *_ = wanted
        dtype, shape = (arrays[0][0], tuple(arrays[0][1])) if arrays else ("", ())
        extra = f"root rank {root}" if root >= 0 else ""
        super().__init__(table, next(table.numbers), Signature(kind, op, dtype, shape, extra=extra, name=wanted.name), _until(self, table))
        self.table, self.wanted, self.number_of_call, self.begin, self.values = table, wanted, number, begin, values
        self.meeting: Meeting | None = None
        self.join: Callable[[], None] | None = None  # on a device: puts the caller's stream behind it
        self.timeout = table.patience
        self.ordered = False
        self._open = 0

    def obey(self, verdict: Verdict, data: bytes = b"") -> None:
        """Start what has been ordered; or take its result, where that came with the order."""
        self.ordered, self.timeout = True, float("inf")  # from here on the time-out is that of what was ordered
        if verdict.error:
            self.finish(error=Disagreed(verdict.error))
            return
        if data and self.values is not None:
            values = self.values
            self._end(lambda: values.put(data))
            return
        try:
            operations, result = self.begin(verdict)
        except CommunicationError as error:
            self.finish(error=translated(error))
            return
        except Exception as error:
            self._fail(error)
            return
        self._open = len(operations)
        if not operations:
            self._end(result)
        for operation in operations:
            operation.when_finished(lambda: self._one_less(operations, result))

    def _one_less(self, operations: list[Operation], result: Callable[[], Any]) -> None:
        self._open -= 1
        if self._open:
            return
        error = next((operation.error for operation in operations if operation.error is not None), None)
        if error is not None:
            self.finish(error=translated(error))
            return
        self._end(result)

    def meet(self, meeting: Meeting) -> None:
        """Read what all ranks have given: they have met."""
        self.table.timeline.ordered(self.wanted)
        self.ordered, values = True, self.values
        assert values is not None
        self._end(lambda: values.read(self.wanted, meeting.sides))

    def wait(self, timeout: float | None = None) -> Any:
        """As of any operation. Those who meet look for each other a little before they drive the progress loop, which takes longer."""
        meeting = self.meeting
        with self.group.engine:
            if meeting is not None:
                comes(meeting, self.table.meetings.roomy)
            result = super().wait(timeout)
        if self.join is not None:
            self.join()
        return result

    def _end(self, result: Callable[[], Any]) -> None:
        try:
            self.finish(result())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.finish(error=HorovodInternalError(f"{self.group.place}: {self.wanted.name!r}: {type(error).__name__}: {error}"))

    def finish(self, result: Any = None, error: CommunicationError | None = None) -> None:
        """Set the outcome, once."""
        if not self.finished:
            self.table.over(self)
            if self.meeting is not None:
                self.table.meetings.forget(self)
            super().finish(result, None if error is None else translated(error))
            self._body.close()  # it holds this request: with the arrays that would live until a collection of garbage
            self._waits_for = None


class _Order:
    """The order of a request as something to wait for."""

    source = -1
    nbytes = 0

    def __init__(self, request: Request, table: Table) -> None:
        self._request, self._table = request, table

    @property
    def pressing(self) -> bool:
        """Whether others may wait for what this rank does next. Not where they meet: it has told all it has to tell."""
        return self._request.meeting is None

    def done(self) -> bool:
        request, table = self._request, self._table
        if request.meeting is not None:
            table.meetings.look(request)
        if not request.finished and table.first() is request and not table.pump():
            table.patient()
        return request.finished

    def cancel(self) -> None:
        pass


def _until(request: Request, table: Table) -> Generator[Pending, None, None]:
    yield _Order(request, table)
