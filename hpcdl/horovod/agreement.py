"""An exponent for each tensor that all ranks agree on before they encode it, in whatever order the ranks come to their tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from ..codecs.common_exponent import PLAIN, exponents_of, headroom
from ..world import World

__all__ = ["Agreement"]

_MARGIN = 6  # powers of two by which a later rank's tensor may be larger than the first one's


@dataclass
class _Settled:
    """An exponent that was settled before all ranks had come, and how many are still to come."""

    exponent: int
    to_come: int


class Agreement:
    """The ranks of `world`, meeting call by call: each call is one small all-reduce (some 10 microseconds within a node).

    Why by count and not by name: whoever waits inside a hook of autograd for the others to come to the same tensor waits for ever, if one
    of them waits there for another tensor. So the n-th calls of all ranks meet, whatever they are about. Where all are about one tensor,
    as they usually are, its exponent is that of the largest magnitude on any rank. Where they are not, because ranks skip different layers,
    they tell each other what they are about, and whoever comes first to a tensor settles its exponent, with a margin of 2^6 for the others.

    Made by all ranks. Each rank must call as often, about the same tensors, before any is called about again, as Horovod demands too.
    """

    def __init__(self, world: World) -> None:
        self.size = world.size
        self._world = world.group(range(world.size))
        self._settled: dict[int, _Settled] = {}

    def exponent(self, name: str, peak: float) -> int:
        """The exponent e for the tensor of this name, whose largest magnitude here is `peak`, so that the sum of all ranks' values times
        2^-e stays below 2^15; 0 where any rank has NaN or infinity."""
        mine = int(exponents_of(np.float32(peak), self.size))
        identity = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=7).digest(), "little")
        told = np.array([identity, -identity, mine], np.int64)
        self._world.allreduce(told, "max", name="exponent of a tensor")
        found = int(told[2]) if told[0] == -told[1] else self._among_several(identity, mine)
        return 0 if found == PLAIN else found

    def _among_several(self, identity: int, mine: int) -> int:
        rows = self._world.allgather(np.array([[identity, mine]], np.int64)).tolist()
        for tensor in dict.fromkeys(tensor for tensor, _ in rows):
            told = [exponent for other, exponent in rows if other == tensor]
            entry = self._settled.setdefault(tensor, _Settled(self._settle(max(told)), self.size))
            entry.to_come -= len(told)
        found = self._settled[identity].exponent
        self._settled = {tensor: entry for tensor, entry in self._settled.items() if entry.to_come > 0}
        return found

    def _settle(self, largest: int) -> int:
        if largest == PLAIN:
            return PLAIN
        nothing = int(exponents_of(np.float32(0), self.size))  # all zero, as where a layer was skipped, says nothing of the others
        return headroom(self.size) if largest == nothing else largest + _MARGIN
