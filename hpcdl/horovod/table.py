"""Operations matched by name: what each rank wants goes to rank 0 of the set, which tells all in what order to do it.

Messages go over a communicator of their own. Whoever waits drives them, in the progress loop: no cycle, no sleep. Rank 0 also reads its
mail while it wants nothing itself, some twenty times a second, so that it can tell who is late.

Cost of a name seen before: one message of 32 bytes from each rank, and one back; small arrays and their result travel in these. Where all
ranks share a node, small arrays that have a name of their own take no message at all: see `places`.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

from ..collectives.group import Group
from ..collectives.operation import Operation
from ..errors import CommunicationError, ranks_text
from ..transport.base import TransportFailure
from .coordinator import Coordinator, Order, lateness
from .errors import Refused, translated
from .meetings import Meetings
from .post import Line, Numbers, Post, pack, unpack
from .request import Begin, Request
from .small import Values, reduced
from .timeline import Timeline
from .wanted import Verdict, Wanted

__all__ = ["Table"]

_LATE = 60.0  # seconds after which a warning names who is missing
_LATENESS = "One or more ranks are late by more than %g seconds: %s"
_PATIENCE = 2.0  # seconds for an order to arrive after some rank has left

_log = logging.getLogger("hpcdl.horovod")


class Table(Group):
    """The named operations of one process set, of which only `name` and the order of calls without a name matter."""

    _coordinator: Coordinator | None = None

    def prepare(self, data: Group, timeline: Timeline) -> None:
        """Begin. data: where the operations themselves take place. Collective; called once."""
        self.data, self.timeline = data, timeline
        rank, size = self.transport.rank, self.transport.size
        self.numbers: Iterator[int] = (-(n * size + rank) for n in count(1))  # which no other rank's are
        self.patience = float(os.environ.get("HOROVOD_STALL_SHUTDOWN_TIME_SECONDS", "0")) or None
        silent = os.environ.get("HOROVOD_STALL_CHECK_DISABLE", "0") not in ("", "0")
        self._late = float("inf") if silent else float(os.environ.get("HOROVOD_STALL_CHECK_TIME_SECONDS", str(_LATE)))
        self.joined = False
        self._nameless: dict[str, Iterator[int]] = {}
        self._waiting: dict[tuple[str, int], Request] = {}
        self._known: dict[int, Verdict] = {}
        self._post = Post(self.transport)
        self._mine = Numbers()
        self._theirs: list[dict[int, Wanted]] = [{} for _ in range(size)]
        self._left_at = 0.0
        self.zeros: Callable[[Verdict], list[Operation]] = lambda verdict: []
        with self.engine.locked():
            self.meetings = Meetings(data.buffers, rank, size, self._tell)
        if rank == 0:  # last: from now on the progress loop reads its mail
            self._coordinator = Coordinator(self.transport.ranks, self.meetings.room)

    def request(self, wanted: Wanted, begin: Begin, values: Values | None = None) -> Request:
        """Tell what this rank is ready for. A name "" means the next operation without a name, by kind.

        `begin` is called under the lock of the progress loop once all ranks want the same, in the order that all ranks follow; unless
        `values` are so small that their reduction needs no operation. Raises Refused for a name that is in flight, and
        HorovodInternalError where the ranks can no longer go on together.
        """
        with self.engine.locked():
            try:
                self.check_usable()
            except CommunicationError as error:
                raise translated(error) from None
            number = -1
            if not wanted.name:
                wanted = wanted._replace(name=f"{wanted.kind.replace(' ', '_')}.noname")
                number = next(self._nameless.setdefault(wanted.kind, count()))
            key = (wanted.name, number)
            if key in self._waiting:
                raise Refused(
                    f"{self.place}: {wanted.name!r} is in flight: an operation with the same name is currently being processed; "
                    "wait for it first, or use a different tensor name"
                )
            request = self._waiting[key] = Request(self, wanted, number, begin, values)
            self.joined |= wanted.kind == "join"
            self.timeline.begin(wanted)
            try:
                self.meetings.announce(request)
            except TransportFailure as failure:
                self.trouble(request, failure)
            if not request.finished:  # as it is where this rank is the last to come, and nothing has to be moved
                self.submit(request)
        return request

    def over(self, request: Request) -> None:
        """Called by a request that finishes."""
        if self._waiting.pop((request.wanted.name, request.number_of_call), None) is not None:
            self.timeline.end(request.wanted)

    def watch(self, now: float) -> bool:
        """As for any group; and rank 0 reads its mail and names those who are late."""
        moved = super().watch(now)
        if self._coordinator is not None and self.broken is None and not self.left:
            moved |= self.pump()
            for text in self._coordinator.late(self._late):
                _log.warning(_LATENESS, self._late, text)
            for late in self.meetings.late(self._late):
                _log.warning(_LATENESS, self._late, lateness(*late, self.transport.ranks))
        return moved

    def pump(self) -> bool:
        """Read what has come and act on it; whether anything has. Never blocks. Under the lock of the progress loop."""
        moved = False
        for source, data in self._post.read():
            moved = True
            lines, texts = unpack(data)
            if self._coordinator is None:
                for code, values in texts:
                    self._known[code] = verdict = Verdict.from_json(values)
                    self.meetings.learn(verdict)
                for code, number, result in lines:
                    self._obey(self._known[code] if code >= 0 else self._known.pop(code), number, result)
            else:
                for code, values in texts:
                    self._theirs[source][code] = Wanted.from_json(values)
                known = self._theirs[source]
                for code, number, part in lines:
                    self._coordinator.hear(source, known[code] if code >= 0 else known.pop(code), number, part)
        if moved and self._coordinator is not None:
            self._give_orders()
        return moved

    def first(self) -> Request | None:
        """The oldest of the requests under way: one is enough to read the mail for all."""
        return next(iter(self._waiting.values()), None)

    def patient(self) -> None:
        """Raise TransportFailure where an order that is waited for can no longer come."""
        if self.departed and not all(request.ordered for request in self._waiting.values()):
            now = time.monotonic()
            self._left_at = self._left_at or now
            if now - self._left_at > _PATIENCE:
                raise TransportFailure(f"{ranks_text(self.departed)} ended without it")

    def close(self, memory: bool = True) -> None:
        """As for any group."""
        with self.engine.locked():
            self._post.close()
            self.meetings.close()
        super().close(memory)

    def _tell(self, request: Request) -> None:
        wanted, number, values = request.wanted, request.number_of_call, request.values
        data = b"" if values is None else values.packed(wanted, self.transport.size)
        if self._coordinator is not None:
            self._coordinator.hear(0, wanted, number, data)
            self._give_orders()
            return
        texts: list[Any] = []
        code = self._mine.number(wanted, lambda new: texts.append([new, wanted]))
        self._post.send(0, pack([Line(code, number, data)], texts))

    def _give_orders(self) -> None:
        assert self._coordinator is not None
        orders: list[Order] = self._coordinator.orders()
        if not orders:
            return
        codes = [order.code if order.code >= 0 else -1 - i for i, order in enumerate(orders)]
        texts = [[code, order.verdict] for code, order in zip(codes, orders, strict=True) if order.new or code < 0]
        lines = [Line(code, order.number, self._result(order)) for code, order in zip(codes, orders, strict=True)]
        message = pack(lines, texts)
        for peer in range(1, self.transport.size):
            self._post.send(peer, message)
        for order, line in zip(orders, lines, strict=True):
            if order.new:
                self.meetings.learn(order.verdict)
            self._obey(order.verdict, order.number, line.data)

    def _result(self, order: Order) -> bytes:
        parts = order.parts
        return reduced(order.verdict.wanted, [parts.get(rank, b"") for rank in range(self.transport.size)]) if parts else b""

    def _obey(self, verdict: Verdict, number: int, data: bytes) -> None:
        if verdict.last >= 0:
            self._all_joined(verdict.last)
            return
        request = self._waiting.get((verdict.wanted.name, number))
        self.timeline.ordered(verdict.wanted)
        if request is not None:
            request.obey(verdict, data)
        elif not (verdict.error or data):
            self.zeros(verdict)
        for other in self._waiting.values() if self.joined else ():
            other.moved_at = time.monotonic()  # others still have data: that is not stalling

    def _all_joined(self, last: int) -> None:
        self.joined = False
        self.meetings.all_joined()
        for request in [request for request in self._waiting.values() if request.wanted.kind == "join"]:
            request.obey(Verdict(request.wanted, last=last))
