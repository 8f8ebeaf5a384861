"""NumPy on the host, with casts at memory speed through numkong (SIMD).

Why numkong: NumPy converts float32 to float16 at 1-2 GB/s, which makes fp16 a loss on any modern network; numkong's
float16 and bfloat16 results equal NumPy's and ml_dtypes' bit for bit (a test compares all of them), at 20-50 GB/s.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .dtypes import BFLOAT16
from .library import Array, Event

try:
    import numkong
except ImportError:  # no wheel for this processor: NumPy's casts, slower and otherwise the same
    numkong = None  # type: ignore[assignment]

__all__ = ["HOST", "Host"]

_SAMPLE, _SPARE = 4096, 16  # enough of an array to know about where its k-th largest magnitude lies
_ROW = 128  # short enough that BLAS does not start threads for it

_NAMES: dict[np.dtype[Any], Any] = {np.dtype(np.float32): "float32", np.dtype(np.float16): "float16", BFLOAT16: "bfloat16"}


class _Done:
    def done(self) -> bool:
        return True


_DONE = _Done()


def _fast(x: Array) -> bool:
    return x.dtype in _NAMES and x.flags.aligned


def _keep_nans(source: Array, target: Array) -> None:
    """Make NaN again what was NaN. Why: numkong 7.8 rounds NaNs with a long payload (a GPU's 0x7fffffff) up to zero."""
    whole = source.size // _ROW * _ROW
    sums = np.append(_square_sums(source[:whole].reshape(-1, _ROW)), _square_sums(source[whole:].reshape(1, -1)))
    if not np.isfinite(sums).all():
        nan = np.isnan(source)
        target.view(np.uint16)[nan] = 0x7FC0 | (source.view(np.uint32)[nan] >> 16 & 0x8000).astype(np.uint16)


def _square_sums(rows: Array) -> Array:
    """Sum of squares of each row, (m, k) -> (m,), infinite where it overflows. One pass at memory speed."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return np.vecdot(rows, rows)


class Host:
    """NumPy. Everything is final when the call returns. Beside what all libraries offer: what codecs do on the host."""

    name = "numpy"
    xp: Any = np
    on_host = True

    def empty(self, n: int, dtype: Any) -> Array:
        return np.empty(n, dtype)

    def cast(self, source: Array, target: Array) -> None:
        if numkong is None or not source.size or source.dtype == target.dtype or not (_fast(source) and _fast(target)):
            with np.errstate(over="ignore", invalid="ignore"):
                np.copyto(target, source, casting="unsafe")
            return
        numkong.astype(source, _NAMES[target.dtype], out=target)
        if target.dtype == BFLOAT16:
            _keep_nans(source, target)

    def round_to_int8(self, source: Array, target: Array) -> None:
        """target[:] = source, float32 to int8, to nearest, ties to even, saturating; NaN becomes 0."""
        if numkong is not None and source.size:
            numkong.astype(source, "int8", out=target)
        else:
            with np.errstate(invalid="ignore"):
                np.copyto(target, np.nan_to_num(np.clip(np.rint(source), -128, 127)), casting="unsafe")

    def peaks(self, rows: Array) -> Array:
        """Largest magnitude of each row of a float32 matrix (m, k) -> (m,); NaN where a row holds one."""
        # Magnitudes order as integers, NaN above all: one fast pass where max and min of floats take two slow ones.
        return (rows.view(np.uint32) & 0x7FFFFFFF).max(axis=1).view(np.float32)

    def largest(self, x: Array, k: int) -> Array:
        """Where the k largest magnitudes of float32 `x` (n,) are, ascending: uint32 (k,). NaN counts as largest; ties: lowest index."""
        sizes = x.view(np.uint32) & 0x7FFFFFFF
        some = sizes[:: max(1, x.size // _SAMPLE)]
        rough = np.partition(some, place)[place] if (place := some.size - 2 * k * some.size // max(x.size, 1) - _SPARE) > 0 else 0
        candidates = np.flatnonzero(sizes >= rough)
        if candidates.size < k:  # the sample was not like the rest
            candidates = np.arange(x.size)
        chosen = sizes[candidates]
        least = np.partition(chosen, chosen.size - k)[chosen.size - k] if 0 < k < chosen.size else 0
        above, tied = np.flatnonzero(chosen > least), np.flatnonzero(chosen == least)
        picked = candidates[np.sort(np.concatenate([above, tied[: k - above.size]]))] if k else candidates[:0]
        return picked.astype(np.uint32)

    def all_between(self, rows: Array, low: float, high: float) -> bool:
        """True only if each row's largest magnitude lies in [low, high]; may say False for one that does. One pass over `rows`."""
        # A row's sum of squares lies between peak^2 and k * peak^2: one pass at memory speed, where max and min take two slow ones.
        squares = _square_sums(rows)
        return bool(squares.min() >= low * low * rows.shape[1] and squares.max() <= high * high)

    def all_finite(self, x: Array) -> bool:
        """Whether `x` holds neither NaN nor infinity."""
        return bool(np.isfinite(x).all())

    def note_finite(self, x: Array, flag: Array) -> None:
        flag[...] = self.all_finite(x)

    def event(self) -> Event:
        return _DONE

    def to_host(self, source: Array, target: Array) -> None:
        np.copyto(target, source)

    def from_host(self, source: Array, target: Array) -> None:
        np.copyto(target, source)

    def pinned(self, nbytes: int) -> Array:
        return np.empty(nbytes, np.uint8)


HOST = Host()
