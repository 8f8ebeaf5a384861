"""Adasum: a sum that takes off what two gradients have in common.

Of a and b: (1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b. Orthogonal ones are added, equal ones averaged; over the ranks as a binary tree.

Source: Maleki et al. 2021, "Scaling Distributed Training with Adaptive Summation", sec. 3 and 4.
Why whole vectors are exchanged, lg p times n elements, and not halves: both partners form the same bits from the same operands, and no
further round is needed for the dot products. The paper's halving sends 2n elements in all; it pays from 8 ranks on.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, of
from ..collectives.execute import Body, exchange
from ..collectives.follow import follow
from ..collectives.group import Group
from ..collectives.into import moving
from ..collectives.operation import Operation, Signature

__all__ = ["adasum", "combine"]


def adasum(group: Group, x: Array) -> Operation:
    """Start to reduce `x`, floating, in place, over a group of 2^k ranks. Bitwise equal on all ranks. k messages of n elements per rank."""
    rank, size = group.transport.rank, group.transport.size

    def call(tag: int, header: Any) -> Body:
        flat = x.reshape(-1)
        theirs = of(x).xp.empty_like(flat)
        met: set[tuple[str, int]] = set()
        distance = 1
        while distance < size:
            peer = rank ^ distance
            task = moving(group, flat.view("u1"), tag, header)
            task.met = met
            yield from exchange(task, {peer: flat.view("u1")}, {peer: theirs.view("u1")})
            low, high = (flat, theirs) if rank < peer else (theirs, flat)
            flat[...] = combine(low, high)
            distance *= 2
        return x

    return group.start(Signature("adasum", dtype=np.dtype(x.dtype), shape=x.shape), follow(of(x), call))


def combine(a: Array, b: Array) -> Any:
    """Two vectors to one. Dot products in float64; a vector of zeros adds nothing.

    >>> combine(np.array([1.0, 0.0]), np.array([0.0, 2.0])).tolist(), combine(np.array([1.0, 3.0]), np.array([1.0, 3.0])).tolist()
    ([1.0, 2.0], [1.0, 3.0])
    """
    xp = of(a).xp
    wide = [x.astype(np.float64) for x in (a, b)]
    dot, aa, bb = (float(xp.dot(one, other)) for one, other in ((wide[0], wide[1]), (wide[0], wide[0]), (wide[1], wide[1])))
    of_a, of_b = (1 - dot / (2 * square) if square else 1.0 for square in (aa, bb))
    return (wide[0] * of_a + wide[1] * of_b).astype(a.dtype)
