"""The NCCL communicators of a group: who may have one, how its ranks meet, and in which order they use it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays import HOST, nccl
from ..codecs import by_name as codec_by_name
from ..errors import ranks_text
from . import ring, tree
from .execute import Body, execute
from .ops import by_name as op_by_name
from .pool import Pool
from .task import Task

__all__ = ["Fact", "Impossible", "Links", "alone", "reasons"]

_NOTE = 2048  # bytes of what a rank tells the others


class Impossible(Exception):
    """NCCL was asked for, and cannot be. The same on every rank."""


class Fact(NamedTuple):
    """What a rank tells of itself: why it has no NCCL, or "", and which GPU of its node it uses."""

    why_not: str
    gpu: str
    version: int
    identity: str = ""  # of the communicator that this rank is the first of


class Links:
    """One group's communicators, for each scope: all of its ranks, or those of this rank's node. Made when first used, by all ranks.

    Operations may begin in any order on the ranks; each gets a ticket, which rank 0 hands out, and they use NCCL in the order of tickets.
    """

    def __init__(self, forced: bool) -> None:
        self._forced = forced
        self._next = self._drawn = 0
        self._why_not: dict[str, str] = {}  # by scope; "" where there is one
        self._made: dict[str, nccl.Communicator] = {}
        self._pool = Pool(HOST)

    def agree(self, task: Task) -> Body:
        """See that all ranks are in the same operation, and give it its ticket. 2 lg p messages.

        Why: NCCL does not notice ranks in different operations; it hangs, or adds up what does not belong together.
        """
        slip = np.zeros(1, np.int64)
        if task.transport.rank == 0:
            slip[0], self._drawn = self._drawn, self._drawn + 1
        yield from execute(tree.ALL_REDUCE, self._notes(task, slip, "max"))
        turn = _Turn(self, int(slip[0]))
        if not turn.done():
            yield turn

    def communicator(self, task: Task, scope: str, members: Sequence[int]) -> Body:
        """The communicator of `members` (ranks, this one among them), or None where it cannot be. Under a turn; by all ranks of the group.

        Raises Impossible where NCCL was forced.
        """
        if scope not in self._why_not:
            facts = yield from self._gather(task, _look(first=members[0] == task.transport.rank))
            self._why_not[scope] = reasons(facts, task.transport.nodes)
            if not self._why_not[scope]:
                connecting = nccl.Connecting(len(members), bytes.fromhex(facts[members[0]].identity), members.index(task.transport.rank))
                try:
                    while not connecting.done():
                        yield connecting
                except BaseException:
                    connecting.cancel()
                    raise
                self._made[scope] = connecting.communicator()
        if self._why_not[scope] and self._forced:
            raise Impossible(f"device path 'nccl' cannot be: {self._why_not[scope]}; cure: mend that, or HPCDL_DEVICE_PATH=auto")
        return self._made.get(scope)

    def pass_on(self) -> None:
        """The holder of the turn needs it no more."""
        self._next += 1

    def turn_of(self, ticket: int) -> bool:
        """Whether it is."""
        return self._next == ticket

    def state(self) -> str:
        """What has been found out: ``nccl``, why it cannot be, or that nobody has asked yet."""
        if self._made:
            return "nccl"
        return next(filter(None, self._why_not.values()), "not tried yet")

    def abort(self) -> None:
        """End what is under way: a rank will not come."""
        for made in self._made.values():
            made.abort()

    def close(self, broken: bool) -> None:
        """Give all back."""
        for made in self._made.values():
            made.abort() if broken else made.close()
        self._made.clear()

    def _gather(self, task: Task, mine: Fact) -> Body:
        """Every rank's fact, in rank order."""
        rank, size = task.transport.rank, task.transport.size
        notes = np.full(size * _NOTE, ord(" "), np.uint8)
        text = np.frombuffer(json.dumps(mine).encode(), np.uint8)
        notes[rank * _NOTE : rank * _NOTE + text.size] = text
        bounds = list(range(0, notes.size + 1, _NOTE))
        yield from execute(ring.ALL_GATHER, self._notes(task, notes, "bit_or", bounds))
        return [Fact(*json.loads(notes[begin : begin + _NOTE].tobytes())) for begin in bounds[:-1]]

    def _notes(self, task: Task, x: Any, op: str, bounds: list[int] | None = None) -> Task:
        """A task on a few numbers of the host, in the place of `task`."""
        how = op_by_name(op), codec_by_name(None)
        return Task(x, *how, task.transport, self._pool, task.tag, task.header, bounds=bounds, met=task.met)


class _Turn:
    """Something to wait for: that all operations with earlier tickets have used NCCL."""

    source = -1
    nbytes = 0

    def __init__(self, links: Links, ticket: int) -> None:
        self._links, self._ticket = links, ticket

    def done(self) -> bool:
        return self._links.turn_of(self._ticket)

    def cancel(self) -> None:
        """Whoever gives a turn up breaks the group: there is nobody to pass it on to."""


def reasons(facts: Sequence[Fact], nodes: Sequence[int]) -> str:
    """Why these ranks cannot use NCCL together, which must be the same on all of them; "" where they can."""
    missing = [(rank, fact.why_not) for rank, fact in enumerate(facts) if fact.why_not]
    if missing:
        alike = [rank for rank, why in missing if why == missing[0][1]]
        return f"{ranks_text(alike)}: {missing[0][1]}"
    if len({fact.version for fact in facts}) > 1:
        return f"ranks have different versions of NCCL: {sorted({fact.version for fact in facts})}"
    together = alone(facts, nodes)
    return f"{ranks_text(together)} use one GPU, {facts[together[0]].gpu}: NCCL needs one for each rank" if together else ""


def alone(facts: Sequence[Fact], nodes: Sequence[int]) -> list[int]:
    """Ranks that use the same GPU; none where each has its own."""
    users: dict[tuple[int, str], list[int]] = {}
    for rank, fact in enumerate(facts):
        users.setdefault((nodes[rank], fact.gpu), []).append(rank)
    return next((ranks for ranks in users.values() if len(ranks) > 1), [])


def _look(first: bool) -> Fact:
    why_not = nccl.why_not()
    if why_not:
        return Fact(why_not[: _NOTE // 8], "", 0)
    return Fact("", nccl.device_address(), nccl.version(), nccl.unique_id().hex() if first else "")
