"""What an argument of a collective must be; everything that can be told without asking the other ranks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..arrays import HOST, Array, dtype_of, is_array, is_floating, of
from ..arrays.trouble import elsewhere
from ..codecs import Codec
from ..errors import InvalidArgument
from .group import Group
from .ops import Op

__all__ = ["SUMMED", "cannot_sum", "check_array", "check_codec", "check_out", "check_residual", "check_summed", "check_timeout"]

SUMMED = ("none", "fp16")  # codecs whose wire Horovod can sum
_DEFAULT_TIMEOUT = 600.0  # seconds without progress


def check_array(group: Group, x: Array, write: bool = False, numbers: bool = True) -> np.dtype[Any]:
    """Raise InvalidArgument unless `x` is a contiguous array, writeable where it will be written; gives its dtype."""
    if of(x) is not HOST and (wrong := elsewhere(x)):
        raise InvalidArgument(f"{group.place}: {wrong}")
    if isinstance(x, np.ma.MaskedArray | np.matrix):
        raise InvalidArgument(f"{group.place}: a {type(x).__name__} is more than its numbers; pass numpy.asarray of what you mean")
    if not x.flags.c_contiguous:
        raise InvalidArgument(f"{group.place}: the array of shape {x.shape} is not contiguous; pass numpy.ascontiguousarray(x)")
    if write and not getattr(x.flags, "writeable", True):
        raise InvalidArgument(f"{group.place}: the array of shape {x.shape} is read-only; pass a copy, or out=")
    if numbers:
        return dtype_of(x.dtype)
    if x.dtype.hasobject:
        raise InvalidArgument(f"{group.place}: dtype {x.dtype} holds Python objects, which have no bytes to send")
    found: np.dtype[Any] = np.dtype(x.dtype)
    return found


def check_out(group: Group, x: Array, out: Array) -> None:
    """Raise InvalidArgument unless `out` can take the place of `x`."""
    if not is_array(out) or not is_array(x) or of(out) is not of(x) or out.shape != x.shape or out.dtype != x.dtype:
        what = f"shape {x.shape} and dtype {x.dtype}" if is_array(x) else "the input's shape and dtype; the input is no array"
        raise InvalidArgument(f"{group.place}: out must be an array of {what}")
    for array in (x, out):
        if of(array) is not HOST and (wrong := elsewhere(array)):
            raise InvalidArgument(f"{group.place}: {wrong}")


def check_codec(group: Group, codec: Codec, dtype: np.dtype[Any]) -> None:
    """Raise InvalidArgument where a lossy codec meets a dtype that is no float."""
    if not codec.exact and not is_floating(dtype):
        raise InvalidArgument(f"{group.place}: codec {codec.name!r} needs a floating dtype, got {dtype}; use codec='none'")


def cannot_sum(codec: str, op: Op) -> str:
    """What is wrong with this codec where Horovod reduces."""
    valid = "codecs none, and fp16 for sum and mean"
    return f"Horovod cannot sum the wire of codec {codec!r} with op {op.name!r}; valid: {valid}; with collective='ring' this package does"


def check_summed(group: Group, x: Array, op: Op, codec: Codec, work: np.dtype[Any], feedback: bool) -> None:
    """Raise InvalidArgument unless Horovod can reduce arrays like `x`, of which `work` is summed, with this codec."""
    if group.sums is None:
        cure = "init(engine='horovod'), and a group of all ranks in their order"
        raise InvalidArgument(f"{group.place}: collective 'horovod' is not there in {group.label}; it needs {cure}")
    if codec.name not in SUMMED or (not codec.exact and op.mpi != "SUM"):
        raise InvalidArgument(f"{group.place}: {cannot_sum(codec.name, op)}")
    if feedback:
        why = "error feedback does not see what Horovod's own sums in float16 lose"
        raise InvalidArgument(f"{group.place}: {why}; use error_feedback=None, or a collective of this package")
    if of(x) is not HOST or not group.sums.takes(op.by_mpi(work), work):
        what = f"{op.name} of {work}" + ("" if of(x) is HOST else " on a device")
        valid = "sum, mean and product of float16, bfloat16, float32, float64, int32 and int64 in host memory"
        raise InvalidArgument(f"{group.place}: Horovod cannot reduce {what}; valid: {valid}; with collective='auto' this package does")


def check_residual(group: Group, residual: Array, x: Array, op: Op, codec: Codec, work: np.dtype[Any]) -> None:
    """Raise InvalidArgument unless `residual` can take what `codec` loses of `x`."""
    if of(residual) is not of(x) or residual.shape != x.shape or residual.dtype != work or not residual.flags.c_contiguous:
        raise InvalidArgument(f"{group.place}: error_feedback must be a contiguous {work} array of shape {x.shape} beside the data")
    if of(x) is not HOST and (wrong := elsewhere(residual)):
        raise InvalidArgument(f"{group.place}: error_feedback: {wrong}")
    if not getattr(residual.flags, "writeable", True) or (isinstance(x, np.ndarray) and np.shares_memory(x, residual)):
        raise InvalidArgument(f"{group.place}: error_feedback must be writeable memory of its own, beside the data")
    if op.name not in ("sum", "mean") or codec.exact:
        raise InvalidArgument(f"{group.place}: error feedback is for op sum or mean with a lossy codec, not {op.name} with {codec.name}")


def check_timeout(timeout: float | None) -> float:
    """The time-out in seconds; None: what HPCDL_TIMEOUT says, else the default. Raises InvalidArgument unless it is more than 0."""
    if timeout is None:
        text = os.environ.get("HPCDL_TIMEOUT", str(_DEFAULT_TIMEOUT))
        try:
            timeout = float(text)
        except ValueError:
            raise InvalidArgument(f"HPCDL_TIMEOUT must be a number of seconds, got {text!r}") from None
    if not timeout > 0:
        raise InvalidArgument(f"timeout must be more than 0 seconds, got {timeout}")
    return timeout
