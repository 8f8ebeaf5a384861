"""The handle of a named operation."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from ..collectives.operation import Operation, Signature
from ..errors import CommunicationError
from ..transport.base import Pending
from .errors import Disagreed, HorovodInternalError, translated
from .wanted import Verdict, Wanted

if TYPE_CHECKING:
    from .table import Table

__all__ = ["Begin", "Request", "Take"]

#: Starts what has been ordered; gives the operations under way, and what makes the result of them.
Begin = Callable[[Verdict], tuple[list[Operation], Callable[[], Any]]]

#: Makes the result of bytes that came with the order.
Take = Callable[[bytes], Any]


class Request(Operation):
    """The handle of a named operation: waits for its order, then for what was ordered."""

    def __init__(self, table: Table, wanted: Wanted, number: int, begin: Begin, take: Take | None) -> None:
        kind, _, arrays, op, root, *_ = wanted
        dtype, shape = (arrays[0][0], tuple(arrays[0][1])) if arrays else ("", ())
        extra = f"root rank {root}" if root >= 0 else ""
        super().__init__(table, next(table.numbers), Signature(kind, op, dtype, shape, extra=extra, name=wanted.name), _until(self, table))
        self.table, self.wanted, self.number_of_call, self.begin, self.take = table, wanted, number, begin, take
        self.timeout = table.patience
        self.ordered = False
        self._open = 0

    def obey(self, verdict: Verdict, data: bytes = b"") -> None:
        """Start what has been ordered; or take its result, where that came with the order."""
        self.ordered, self.timeout = True, float("inf")  # from here on the time-out is that of what was ordered
        if verdict.error:
            self.finish(error=Disagreed(verdict.error))
            return
        try:
            if data and self.take is not None:
                self.finish(self.take(data))
                return
            operations, result = self.begin(verdict)
        except CommunicationError as error:
            self.finish(error=translated(error))
            return
        except Exception as error:
            self.finish(error=HorovodInternalError(f"{self.group.place}: {self.wanted.name!r}: {type(error).__name__}: {error}"))
            return
        self._open = len(operations)
        if not operations:
            self.finish(result())
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
        try:
            self.finish(result())
        except Exception as failure:
            self.finish(error=HorovodInternalError(f"{self.group.place}: {self.wanted.name!r}: {type(failure).__name__}: {failure}"))

    def finish(self, result: Any = None, error: CommunicationError | None = None) -> None:
        """Set the outcome, once."""
        if not self.finished:
            self.table.over(self)
            super().finish(result, None if error is None else translated(error))
            self._body.close()  # it holds this request: with the arrays that would live until a collection of garbage
            self._waits_for = None


class _Order:
    """The order of a request as something to wait for."""

    source = -1
    nbytes = 0

    def __init__(self, request: Request, table: Table) -> None:
        self._request, self._table = request, table

    def done(self) -> bool:
        request, table = self._request, self._table
        if not request.finished and table.first() is request and not table.pump():
            table.patient()
        return request.finished

    def cancel(self) -> None:
        pass


def _until(request: Request, table: Table) -> Generator[Pending, None, None]:
    yield _Order(request, table)
