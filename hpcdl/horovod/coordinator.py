"""Who decides the common order: one rank hears what each wants, and tells all what to do next. Pure logic, no messages."""

from __future__ import annotations

import time
from typing import NamedTuple

from ..errors import ranks_text
from .places import Plan
from .wanted import Verdict, Wanted, judge

__all__ = ["Coordinator", "Order", "lateness"]

_MOST = 4096  # verdicts that are remembered under a number

#: A name, and the number of the call where the name is not the user's own (else -1).
Key = tuple[str, int]


class Order(NamedTuple):
    """Do it now. code: the number under which the verdict is known, if it is; new: whether the ranks hear it for the first time.

    parts: the bytes of small arrays, by rank, where all ranks that take part have sent theirs.
    """

    verdict: Verdict
    number: int
    code: int
    new: bool
    parts: dict[int, bytes]


class Coordinator:
    """The table of a process set. An operation is ordered as soon as all ranks that have not joined want it; first come, first served."""

    def __init__(self, names: tuple[int, ...], room: int = 0) -> None:
        self._names, self._size = names, len(names)
        self._plan = Plan(self._size, room)
        self._wishes: dict[Key, dict[int, Wanted]] = {}
        self._data: dict[Key, dict[int, bytes]] = {}
        self._since: dict[Key, float] = {}
        self._warned: set[Key] = set()
        self._joined: dict[int, int] = {}  # rank -> number of its call
        self._codes: dict[tuple[Wanted | None, ...], tuple[int, Verdict]] = {}
        self._ready: list[Order] = []

    def hear(self, rank: int, wanted: Wanted, number: int, data: bytes = b"") -> None:
        """`rank` is ready for what it wants; data: of small arrays."""
        if wanted.kind == "join":
            self._joined[rank] = number
            for key in [key for key, wishes in self._wishes.items() if len(wishes.keys() | self._joined.keys()) == self._size]:
                self._order(key)
            if len(self._joined) == self._size:
                self._joined.clear()
                self._ready.append(Order(Verdict(wanted, last=rank), -1, -1, True, {}))
            return
        key = (wanted.name, number)
        wishes = self._wishes.setdefault(key, {})
        wishes[rank] = wanted
        if data:
            self._data.setdefault(key, {})[rank] = data
        if len(wishes) == self._size or (self._joined and len(wishes.keys() | self._joined.keys()) == self._size):
            self._order(key)
        elif len(wishes) == 1:
            self._since[key] = time.monotonic()

    def orders(self) -> list[Order]:
        """What has become ready since the last call, in the order for all ranks."""
        ready, self._ready = self._ready, []
        return ready

    def late(self, seconds: float) -> list[str]:
        """Of each operation that some ranks have waited for so long: its name and who is missing. Told once."""
        limit, found = time.monotonic() - seconds, []
        for key, since in self._since.items():
            if since < limit and key not in self._warned:
                self._warned.add(key)
                wishes = self._wishes[key]
                missing = [rank for rank in range(self._size) if rank not in wishes and rank not in self._joined]
                found.append(lateness(next(iter(wishes.values())), list(wishes), missing, self._names))
        return found

    def _order(self, key: Key) -> None:
        wishes, parts = self._wishes.pop(key), self._data.pop(key, {})
        if parts.keys() != wishes.keys():
            parts = {}
        self._since.pop(key, None)
        self._warned.discard(key)
        absent = {rank: number for rank, number in self._joined.items() if rank not in wishes}
        together = tuple(wishes.get(rank) for rank in range(self._size))
        known = self._codes.get(together)
        if known is not None:
            self._ready.append(Order(known[1], key[1], known[0], False, {} if known[1].error else parts))
            return
        verdict = judge(wishes, absent, self._names)
        code = len(self._codes) if len(self._codes) < _MOST else -1
        if code >= 0 and key[1] < 0 and not (absent or verdict.error):
            verdict = verdict._replace(plot=self._plan.plot(verdict.wanted))
        if code >= 0:
            self._codes[together] = code, verdict
        self._ready.append(Order(verdict, key[1], code, True, {} if verdict.error else parts))


def lateness(wanted: Wanted, ready: list[int], missing: list[int], names: tuple[int, ...]) -> str:
    """That some ranks wait for others, by their `names`."""
    who, whom = ranks_text(names[rank] for rank in ready), ranks_text(names[rank] for rank in missing)
    return f"{wanted.name!r} ({wanted}): {who} ready, waiting for {whom}"
