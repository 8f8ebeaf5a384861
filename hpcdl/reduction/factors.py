"""Arithmetic on thin factors that gives the same bits on every processor and device.

Why not BLAS and LAPACK: they round differently from one processor to the next, and replicas on unlike nodes would drift apart. Here are
only element-wise operations, which IEEE 754 rounds alike everywhere, and sums by halves; but for `subtract`, which is for a rank's own. On
GPUs CuPy takes subnormal numbers for zero: replicas agree among GPUs and among processors, but not between the two where gradients are so
small.
"""

from __future__ import annotations

from ..arrays import Array, Arrays
from ..collectives.pool import Pool

__all__ = ["multiply", "next_start", "orthonormalise", "subtract"]

_PIECE = 1 << 15  # elements of a product computed at a time, within the cache
_DEPENDENT = 1e-5  # a row of which less than this is left is a combination of those before


def orthonormalise(library: Arrays, rows: Array) -> None:
    """Make the rows of (r, n) orthonormal, in place: Gram-Schmidt, each row twice. A row that depends on those before becomes zero.

    NaN and infinity stay what they are, or become NaN.
    """
    xp = library.xp
    rows *= _powers(library, rows)
    for k in range(rows.shape[0]):
        row = rows[k]
        before = xp.sqrt(_dot(row, row))
        for j in (*range(k), *range(k)):
            row -= rows[j] * _dot(rows[j], row)
        norm = xp.sqrt(_dot(row, row))
        nothing = norm <= before * before.dtype.type(_DEPENDENT)
        row[:] = xp.where(nothing, row.dtype.type(0), row / norm)


def multiply(library: Arrays, pool: Pool, left: Array, right: Array, out: Array) -> None:
    """out (n, m) = left' right, for left (r, n) and right (r, m)."""
    xp = library.xp
    height = max(1, _PIECE // out.shape[1])
    scratch = pool.take(min(height, out.shape[0]) * out.shape[1] * out.itemsize).view(out.dtype).reshape(-1, out.shape[1])
    for begin in range(0, out.shape[0], height):
        part = out[begin : begin + height]
        term = scratch[: part.shape[0]]
        xp.multiply(left[0, begin : begin + height, None], right[0][None, :], out=part)
        for k in range(1, left.shape[0]):
            xp.multiply(left[k, begin : begin + height, None], right[k][None, :], out=term)
            xp.add(part, term, out=part)
    pool.give(scratch.reshape(-1).view("u1"))


def subtract(library: Arrays, pool: Pool, left: Array, right: Array, x: Array) -> None:
    """x (n, m) -= left' right, through BLAS: rounded as this processor does it."""
    height = max(1, 4 * _PIECE // x.shape[1])
    scratch = pool.take(min(height, x.shape[0]) * x.shape[1] * x.itemsize).view(x.dtype).reshape(-1, x.shape[1])
    for begin in range(0, x.shape[0], height):
        part = x[begin : begin + height]
        part -= library.xp.matmul(left[:, begin : begin + height].T, right, out=scratch[: part.shape[0]])
    pool.give(scratch.reshape(-1).view("u1"))


def next_start(library: Arrays, rows: Array, fresh: Array) -> Array:
    """What to multiply by in the next step: the rows (r, m), each times a power of two so that squares of small gradients do not vanish.

    A row that is zero or not finite is replaced by that of `fresh`: from zero, nothing would ever come back.
    """
    xp = library.xp
    peaks = abs(rows).max(axis=1)
    good = xp.isfinite(peaks) & (peaks > 0)
    return xp.where(good[:, None], rows * _powers(library, rows), fresh)


def _powers(library: Arrays, rows: Array) -> Array:
    """Of each row (r, m), the power of two that brings its peak to 0.5 … 1: (r, 1); 1 for a row that is zero or not finite."""
    xp = library.xp
    peaks = abs(rows).max(axis=1)
    one = rows.dtype.type(1)
    _, exponents = xp.frexp(xp.where(xp.isfinite(peaks) & (peaks > 0), peaks, one))
    return xp.ldexp(one, xp.clip(-exponents, -126, 126))[:, None]


def _dot(one: Array, other: Array) -> Array:
    """Inner product of (n,) and (n,), as (1,): summed by halves."""
    products = one * other
    left = products.size
    while left > 1:
        half = -(-left // 2)
        products[: left - half] += products[half:left]
        left = half
    return products[:1]
