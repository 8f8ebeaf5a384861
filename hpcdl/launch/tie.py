"""Tie a process to its parent, so that no orphan is left even after ``kill -9``."""

from __future__ import annotations

import ctypes
import signal
import sys

__all__ = ["tie_to_parent"]

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: nothing may be imported between fork and exec


def tie_to_parent() -> None:
    """Let the kernel kill this process when its parent dies. Linux only; elsewhere it does nothing. Survives exec, not fork."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
