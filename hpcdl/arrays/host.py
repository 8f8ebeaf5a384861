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
    numkong = None

__all__ = ["HOST"]

_NAMES = {np.dtype(np.float32): "float32", np.dtype(np.float16): "float16", BFLOAT16: "bfloat16"}


class _Done:
    def done(self) -> bool:
        return True


_DONE = _Done()


def _fast(x: Array) -> bool:
    return x.dtype in _NAMES and x.flags.aligned


def _keep_nans(source: Array, target: Array) -> None:
    """Make NaN again what was NaN. Why: numkong 7.8 rounds NaNs with a long payload (a GPU's 0x7fffffff) up to zero."""
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        suspicious = not np.isfinite(np.einsum("i,i->", source, source))
    if suspicious:
        nan = np.isnan(source)
        target.view(np.uint16)[nan] = 0x7FC0 | (source.view(np.uint32)[nan] >> 16 & 0x8000).astype(np.uint16)


class _Host:
    """NumPy. Everything is final when the call returns."""

    name = "numpy"
    xp = np
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

    def peaks(self, rows: Array) -> Array:
        return np.maximum(rows.max(axis=1), -rows.min(axis=1))

    def all_between(self, rows: Array, low: float, high: float) -> bool:
        # A row's sum of squares lies between peak^2 and k * peak^2: one pass at memory speed, where max and min take two slow ones.
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            squares = np.einsum("ij,ij->i", rows, rows)
            return bool(squares.min() >= low * low * rows.shape[1] and squares.max() <= high * high)

    def event(self) -> Event:
        return _DONE

    def to_host(self, source: Array, target: Array) -> None:
        np.copyto(target, source)

    def from_host(self, source: Array, target: Array) -> None:
        np.copyto(target, source)

    def pinned(self, nbytes: int) -> Array:
        return np.empty(nbytes, np.uint8)


HOST = _Host()
