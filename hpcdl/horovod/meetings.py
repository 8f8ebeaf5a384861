"""Which of a rank's requests meet the others in shared memory, and which are told to rank 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ..collectives.buffers import Buffers
from .places import ROOM, Places
from .wanted import Verdict, Wanted

if TYPE_CHECKING:
    from .request import Request

__all__ = ["Meetings"]


class Meetings:
    """The meetings of one rank. Making it is collective; the rest happens under the lock of the progress loop.

    tell: tells rank 0 of a request; buffers: what the ranks share, if all of them (`size`) are on one node.
    """

    def __init__(self, buffers: Buffers, rank: int, size: int, tell: Callable[[Request], None]) -> None:
        window = buffers.share(ROOM)
        self._places = Places(window.parts, rank, window.sync) if window is not None and len(window.parts) == size else None
        self._tell = tell
        self._open: dict[int, Request] = {}
        self._join: Request | None = None  # which is not told yet
        self.room = ROOM if self._places is not None else 0  # bytes for places
        self.roomy = buffers.board is not None and buffers.board.roomy

    def announce(self, request: Request) -> None:
        """Come to the place of `request`, or tell rank 0 where it has none."""
        places, wanted, values = self._places, request.wanted, request.values
        if places is None:
            self._tell(request)
        elif wanted.kind == "join":
            places.leave()
            self._join = request
            self._tell_join()
        elif values is None or request.number_of_call >= 0 or (place := places.find(wanted)) is None:
            self._tell(request)
        elif values.on_host:
            request.meeting = place.post(values.given)
            self._open[request.number] = request
        else:
            places.close(place)
            self._tell(request)

    def look(self, request: Request) -> None:
        """Let `request` have its result if all ranks have come; tell rank 0 instead where somebody never will."""
        meeting = request.meeting
        if meeting is None or not meeting.done():
            return
        request.meeting = None
        if meeting.off:
            if meeting.place.closed and self._places is not None:
                self._places.close(meeting.place)
            self._tell(request)
        else:
            request.meet(meeting)
        self.forget(request)

    def forget(self, request: Request) -> None:
        """It meets nobody any more."""
        request.meeting = None
        if self._open.pop(request.number, None) is not None:
            self._tell_join()

    def learn(self, verdict: Verdict) -> None:
        """Note the place that rank 0 has given to what was wanted, if any."""
        if verdict.plot and self._places is not None:
            self._places.add(verdict.wanted, verdict.plot)

    def late(self, seconds: float) -> Iterator[tuple[Wanted, list[int], list[int]]]:
        """See `Places.late`."""
        return iter(()) if self._places is None else self._places.late(seconds)

    def all_joined(self) -> None:
        """All ranks have joined, and go on."""
        if self._places is not None:
            self._places.all_left()

    def close(self) -> None:
        """Meet no more: let go of the shared memory."""
        self._places = None

    def _tell_join(self) -> None:
        """Tell that this rank has joined, once all that it wants has come to its end or been told before."""
        if self._join is not None and not self._open:
            join, self._join = self._join, None
            self._tell(join)
