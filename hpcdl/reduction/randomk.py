"""Few elements drawn by lot, the same on all ranks: only their values travel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import HOST, Array
from ..codecs import noise
from ..collectives.execute import Body
from ..collectives.group import Group
from ..collectives.operation import Operation
from ..errors import InvalidArgument
from .bucket import Bucket
from .compressor import How, Share, start

__all__ = ["RandomK"]


@dataclass(frozen=True)
class RandomK:
    """One element, drawn anew in each step, out of every m = round(1/ratio): the collective's bytes for ceil(n/m) values per parameter of n
    elements; E|x - sent|^2 <= (1 - 1/m) |x|^2.

    Ranks draw alike, by a hash of (seed, step, bucket, group of m), so no place is sent and the values are summed by any collective. The
    error feedback sends the others later (Stich et al. 2018, sec. 2.2). Without it, what is sent is multiplied by m: right on average,
    with a variance m times that of the gradient (Wangni et al. 2018). A group that holds NaN or infinity sends NaN, whichever is drawn.

    Why one of each m, not k of n: every element has the same chance, so the bound is the same, and drawing costs k, without a search.
    """

    ratio: float = 0.01
    seed: int = 0

    error_feedback = True
    exact = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InvalidArgument(f"randomk: ratio must be more than 0 and at most 1, got {self.ratio}")

    @property
    def name(self) -> str:
        return f"randomk:ratio={self.ratio:g}" + (f",seed={self.seed}" if self.seed else "")

    def reduce(self, bucket: Bucket, group: Group, how: How) -> Operation:
        return start(self.name, bucket, group, how, self._reduce)

    def _reduce(self, share: Share) -> Body:
        source, target = share.source, share.target
        drawn, good = self._draw(share)
        values = share.pool.take(drawn.size * source.itemsize).view(source.dtype)
        values[:] = source[drawn]
        share.library.xp.copyto(values, share.library.xp.where(good, values, values.dtype.type(np.nan)))
        yield from share.add_up(values)
        factor = yield from share.factor()
        if share.residual is None:
            factor *= self._width
        elif factor:
            share.residual[drawn] = 0
        target[:] = 0
        if factor:
            values *= values.dtype.type(factor)
            target[drawn] = values
        share.pool.give(values.view("u1"))

    @property
    def _width(self) -> int:
        return round(1 / self.ratio)

    def _draw(self, share: Share) -> tuple[Array, Array]:
        """Places, one in each group, int64 (groups,), and whether all of a group is finite, bool (groups,)."""
        xp, width = share.library.xp, self._width
        parts = [(cut, -(-(cut.stop - cut.start) // width)) for _, cut in share.parameters()]
        stream = noise.key(self.seed, share.how.step, share.how.number)
        drawn = noise.bits(xp, stream, 0, sum(groups for _, groups in parts)).astype("i8")
        good = xp.ones(drawn.size, "?")
        finite = None if share.library.on_host and HOST.all_finite(share.source) else xp.isfinite(share.source)
        end = 0
        for cut, groups in parts:
            whole = (cut.stop - cut.start) // width  # what is left over is a group, too
            for begin, stop, count in (
                (cut.start, cut.start + whole * width, whole),
                (cut.start + whole * width, cut.stop, groups - whole),
            ):
                if count:
                    here = slice(end, end := end + count)
                    drawn[here] *= (stop - begin) // count
                    drawn[here] >>= 32
                    drawn[here] += xp.arange(begin, stop, (stop - begin) // count, dtype=np.int64)
                    if finite is not None:
                        good[here] = finite[begin:stop].reshape(count, -1).all(axis=1)
        return drawn, good
