"""This machine's cores and memory, as far as this process may use them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["THREAD_VARIABLES", "cores", "memory_bytes", "thread_shares"]

# OMP_NUM_THREADS first: the libraries behind the others follow it where they have no variable of their own.
THREAD_VARIABLES = (*(f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR")), "VECLIB_MAXIMUM_THREADS")


def cores() -> int:
    """Cores that this process may use: its affinity mask, and the container's quota where there is one."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        count = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return count


def memory_bytes() -> int | None:
    """Bytes of memory, limited by the container where it has a limit; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        return min(total, int(limit)) if limit.isdigit() else total
    except OSError:
        return total


def thread_shares(ranks: int, environ: dict[str, str]) -> dict[str, str]:
    """Thread counts for one of `ranks` ranks: a fair share of the cores, at least 1; nothing that the user has set."""
    if "OMP_NUM_THREADS" in environ:
        return {}
    share = str(max(1, cores() // ranks))
    return {name: share for name in THREAD_VARIABLES if name not in environ}
