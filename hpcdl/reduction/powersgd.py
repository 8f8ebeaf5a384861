"""Gradients as products of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ..arrays import Array
from ..codecs import noise
from ..collectives.execute import Body
from ..collectives.group import Group
from ..collectives.operation import Operation
from ..errors import InvalidArgument
from .bucket import Bucket
from .compressor import How, Share, start
from .factors import multiply, next_start, orthonormalise, subtract

__all__ = ["PowerSGD"]


class _Matrix(NamedTuple):
    parameter: int
    cut: slice
    rows: int
    columns: int
    rank: int
    left: slice  # of the left factor among all that is summed first
    right: slice  # of the right factor among all that is summed second


@dataclass(frozen=True)
class PowerSGD:
    """Rank-r factors by one step of power iteration: the collective's bytes for r(n + m) values per n x m matrix, in two all-reduces.

    A parameter is the matrix (first dimension) x (the others). Where its factors would not halve the bytes, vectors included, it is summed
    as it is. Assumption, no bound: gradients are near a matrix of rank r, and what is not is sent later by the error feedback.

    Each rank multiplies its share S by the last step's right factor Q; the sum P of these is made orthonormal; each multiplies its share by
    P; the sum of shares is about P times the sum of the S'P (Vogels et al. 2019, alg. 1 and 2). A rank's residual is S - P P'S.

    Factors and product are computed by operations that are rounded alike everywhere, so that ranks on different processors agree bitwise;
    only a rank's own share goes through BLAS. NaN or infinity makes the whole parameter NaN.
    """

    rank: int = 4
    seed: int = 0

    error_feedback = True
    exact = False

    def __post_init__(self) -> None:
        if not (isinstance(self.rank, int) and self.rank >= 1):
            raise InvalidArgument(f"powersgd: rank must be a whole number of at least 1, got {self.rank}")

    @property
    def name(self) -> str:
        return f"powersgd:rank={self.rank}" + (f",seed={self.seed}" if self.seed else "")

    def reduce(self, bucket: Bucket, group: Group, how: How) -> Operation:
        return start(self.name, bucket, group, how, self._reduce)

    def _reduce(self, share: Share) -> Body:
        xp, source, pool = share.library.xp, share.source, share.pool
        matrices = list(self._matrices(share))
        factored = {m.parameter for m in matrices}
        plain = [cut for i, cut in share.parameters() if i not in factored]
        ends = [matrices[-1].left.stop if matrices else 0]
        for cut in plain:
            ends.append(ends[-1] + cut.stop - cut.start)
        first = pool.take(ends[-1] * source.itemsize).view(source.dtype)
        for m in matrices:
            xp.matmul(self._start(share, m), source[m.cut].reshape(m.rows, m.columns).T, out=first[m.left].reshape(m.rank, m.rows))
        for cut, begin in zip(plain, ends[:-1], strict=True):
            first[begin : begin + cut.stop - cut.start] = source[cut]
        yield from share.add_up(first)

        second = pool.take((matrices[-1].right.stop if matrices else 0) * source.itemsize).view(source.dtype)
        factor = yield from share.factor()
        for m in matrices:
            left, right = first[m.left].reshape(m.rank, m.rows), second[m.right].reshape(m.rank, m.columns)
            orthonormalise(share.library, left)
            x = source[m.cut].reshape(m.rows, m.columns)
            xp.matmul(left, x, out=right)
            if share.residual is not None and factor:
                subtract(share.library, pool, left, right, x)
        if share.residual is not None and factor:
            for cut in plain:
                share.residual[cut] = 0
        yield from share.add_up(second)

        share.target[:] = 0
        if factor:
            for m in matrices:
                left, right = first[m.left].reshape(m.rank, m.rows), second[m.right].reshape(m.rank, m.columns)
                share.bucket.kept[m.parameter] = next_start(share.library, right, self._random(share, m))
                right *= right.dtype.type(factor)
                multiply(share.library, pool, left, right, share.target[m.cut].reshape(m.rows, m.columns))
            for cut, begin in zip(plain, ends[:-1], strict=True):
                xp.multiply(first[begin : begin + cut.stop - cut.start], first.dtype.type(factor), out=share.target[cut])
        pool.give(second.view("u1"))
        pool.give(first.view("u1"))

    def _matrices(self, share: Share) -> Iterator[_Matrix]:
        """The bucket's parameters that are worth it, and where their factors lie."""
        left = right = 0
        for index, cut in share.parameters():
            shape = share.bucket.layout.shapes[index]
            rows, columns = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
            rank = min(self.rank, rows, columns)
            if 0 < 2 * rank * (rows + columns) <= rows * columns:
                ends = left + rank * rows, right + rank * columns
                yield _Matrix(index, cut, rows, columns, rank, slice(left, ends[0]), slice(right, ends[1]))
                left, right = ends

    def _start(self, share: Share, m: _Matrix) -> Array:
        """The right factor to begin with: the last step's, at first a random one."""
        found = share.bucket.kept.get(m.parameter)
        return self._random(share, m) if found is None else found

    def _random(self, share: Share, m: _Matrix) -> Array:
        stream = noise.key(self.seed, share.how.step, m.parameter)
        drawn = noise.uniform(share.library.xp, stream, 0, m.rank * m.columns) - 0.5
        return drawn.astype(share.source.dtype).reshape(m.rank, m.columns)
