"""Dtypes: which are known, of what kind they are, and in which one their sums are kept."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from ..errors import InvalidArgument

__all__ = ["BFLOAT16", "accumulator", "dtype_of", "is_floating", "kind_of"]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_FLOATING = {np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64)}
_VALID = "float16, bfloat16, float32, float64, int8 … int64, uint8 … uint64, bool"


def dtype_of(dtype: Any) -> np.dtype[Any]:
    """The NumPy dtype for `dtype`; raises InvalidArgument for one that collectives don't take (complex, object, …)."""
    found: np.dtype[Any] = np.dtype(dtype)
    kind_of(found)
    if not found.isnative:
        raise InvalidArgument(f"dtype {found} is not in this machine's byte order; convert with x.astype(x.dtype.newbyteorder('='))")
    return found


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether `dtype` is one of the four floating dtypes."""
    return dtype in _FLOATING


def kind_of(dtype: np.dtype[Any]) -> str:
    """``floating``, ``integer`` or ``bool``."""
    if dtype in _FLOATING:
        return "floating"
    if dtype.kind in "iu":
        return "integer"
    if dtype.kind == "b":
        return "bool"
    raise InvalidArgument(f"dtype {dtype} is not supported; valid: {_VALID}")


def accumulator(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that sums of `dtype` are kept in: float32 for the short floats, itself for all others.

    Why: four ranks of float16 60000 have the mean 60000, but a float16 sum is infinite on the way there.
    """
    return np.dtype(np.float32) if dtype in _FLOATING and dtype.itemsize < 4 else dtype
