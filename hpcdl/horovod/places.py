"""Places in shared memory where the ranks of a set meet under a name, without a message. For sets whose ranks are all on one node.

A rank writes its arrays into its part of the place and posts; once all have posted, each reads all parts. Rank 0 gives a place to a name
with its first order. Why: a message costs what two cores and four ranks take to wake each other, several times what this costs.

Each meeting takes place for all ranks or for none. For a rank that will not come says so before, and sticks to it: it has joined, and is
away until all have; or it wants something else under the name, and the place is closed for good. Those who wait there then go to rank 0.

Why two sides of each place, used in turn: a rank writes into one again only two meetings later, when all have posted the one between,
which each does after it has read the first. Why counters: see collectives/board.py. An era ends when all ranks have joined; its number is
part of each count, so that a rank which hears of that later takes nothing old for new.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..arrays import Array
from .small import dtype_named
from .wanted import Wanted

__all__ = ["ROOM", "Meeting", "Place", "Places", "Plot"]

ROOM = 1 << 22  # bytes of a rank's part of all places together
_MOST_NAMES = 2047
_BEGIN = 8 * (1 + _MOST_NAMES)  # of the arrays; before them the counters, and first of all the era in which the rank is away
_MOST = 1 << 20  # bytes that a rank reads in one meeting
_LINE = 64
_ERA = 1 << 32

#: Where a place lies: its number, and the offset of its two sides in each rank's part. () is nowhere.
Plot = tuple[int, ...]


class Plan:
    """Rank 0's: who gets which place. First come, first served; what has no room goes by message for good."""

    def __init__(self, size: int, room: int) -> None:
        self._size, self._room = size, room
        self._names, self._end = 0, _BEGIN

    def plot(self, wanted: Wanted) -> Plot:
        """A place for `wanted`, which it is to keep; or none."""
        if "allreduce" not in wanted.kind or wanted.op == "adasum" or wanted.codec != "none":
            return ()
        nbytes = sum(_stride(name, shape) for name, shape in wanted.arrays)
        if not 0 < nbytes * self._size <= _MOST or self._names == _MOST_NAMES or self._end + 2 * nbytes > self._room:
            return ()
        self._names += 1
        self._end += 2 * nbytes
        return self._names, self._end - 2 * nbytes


class Places:
    """One rank's view of all places of a set. `parts`: of the shared memory, by rank; sync: makes what others wrote visible, and ours."""

    def __init__(self, parts: Sequence[Array], rank: int, sync: Callable[[], None]) -> None:
        self.parts, self.rank, self.sync = parts, rank, sync
        self.words = [memoryview(part[:_BEGIN]).cast("q") for part in parts]
        self.era = 1
        self._by_name: dict[str, Place] = {}
        self._seen: dict[str, tuple[int, float]] = {}  # by name: the count that some ranks have reached, and since when
        self._look_at = 0.0

    def add(self, wanted: Wanted, plot: Plot) -> None:
        """From now on all ranks meet there for `wanted`, but for those that want something else by the time."""
        self._by_name[wanted.name] = Place(self, wanted, plot)

    def find(self, wanted: Wanted) -> Place | None:
        """Where to meet for `wanted`, if anywhere. A place that its name outgrew is closed."""
        place = self._by_name.get(wanted.name)
        if place is None or self.words[self.rank][0] >= self.era:
            return None
        if place.wanted == wanted:
            return place
        self.close(place)
        return None

    def close(self, place: Place) -> None:
        """Meet nobody there any more."""
        if self._by_name.get(place.wanted.name) is place:
            del self._by_name[place.wanted.name]
            word = self.words[self.rank]
            word[place.number] = ~word[place.number]
            self.sync()

    def leave(self) -> None:
        """Come to no meeting until all ranks have left."""
        self.sync()
        self.words[self.rank][0] = self.era
        self.sync()

    def all_left(self) -> None:
        """All have; from now on they meet again."""
        self.era += 1

    def late(self, seconds: float) -> Iterator[tuple[Wanted, list[int], list[int]]]:
        """Of each meeting that some ranks have waited for so long: for what, who waits, who is missing. Told once."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + min(1.0, seconds / 4)
        away = [peer for peer, words in enumerate(self.words) if words[0] >= self.era]
        for name, place in self._by_name.items():
            counts = [_count(words[place.number]) for words in self.words]
            first, since = self._seen.get(name, (-1, now))
            most = max(counts)
            if away or first != most or min(counts) == most:
                self._seen[name] = most, now
            elif now - since > seconds:
                self._seen[name] = most, math.inf
                yield place.wanted, [r for r, n in enumerate(counts) if n == most], [r for r, n in enumerate(counts) if n < most]


class Place:
    """Where all ranks meet under one name, again and again."""

    def __init__(self, places: Places, wanted: Wanted, plot: Plot) -> None:
        self.places, self.wanted = places, wanted
        self.number, begin = plot
        self._sides: list[list[list[Array]]] = []  # by side, array, rank
        for _ in range(2):
            side = []
            for name, shape in wanted.arrays:
                dtype = dtype_named(name)
                nbytes = dtype.itemsize * math.prod(shape)
                side.append([part[begin : begin + nbytes].view(dtype).reshape(shape) for part in places.parts])
                begin += _stride(name, shape)
            self._sides.append(side)

    @property
    def closed(self) -> bool:
        """Whether some rank has closed it."""
        return any(words[self.number] < 0 for words in self.places.words)

    def post(self, given: Sequence[Array]) -> Meeting:
        """Tell that this rank is there, with its arrays."""
        places = self.places
        mine = places.words[places.rank]
        count = max(mine[self.number], places.era * _ERA) + 1
        side = self._sides[count & 1]
        for x, everyone in zip(given, side, strict=True):
            everyone[places.rank][...] = x
        places.sync()
        mine[self.number] = count
        return Meeting(self, count, side)


class Meeting:
    """The wait for all ranks to come to a place. sides: then, of each array what each rank has given."""

    source = -1
    nbytes = 0

    def __init__(self, place: Place, count: int, sides: list[list[Array]]) -> None:
        self.place, self.sides = place, sides
        self.off = False  # somebody will never come
        self._count = count
        self._missing = [words for words in place.places.words if words is not place.places.words[place.places.rank]]

    def done(self) -> bool:
        """Whether all have come, or it is `off`."""
        if self._missing and not self.off:
            self._missing = [words for words in self._missing if not self._come(words)]
        if self._missing:
            return self.off
        self.place.places.sync()
        return True

    def cancel(self) -> None:
        """Nothing to give up."""

    def _come(self, words: Any) -> bool:
        number, places = self.place.number, self.place.places
        word = words[number]
        if _count(word) >= self._count:
            return True
        if word >= 0 and words[0] < places.era:
            return False
        places.sync()  # it may have come before it left
        self.off |= _count(words[number]) < self._count
        return not self.off


def _count(word: int) -> int:
    """What a counter says: of a closed place, how far it came."""
    return word if word >= 0 else ~word


def _stride(name: str, shape: Sequence[int]) -> int:
    return -(-dtype_named(name).itemsize * math.prod(shape) // _LINE) * _LINE
