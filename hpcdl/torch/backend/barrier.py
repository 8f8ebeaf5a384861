"""A barrier that says who is missing."""

from __future__ import annotations

from datetime import timedelta

import torch.distributed as dist

from ...errors import InvalidArgument
from .group import ProcessGroup

__all__ = ["monitored_barrier"]


def monitored_barrier(group: dist.ProcessGroup | None = None, timeout: float | timedelta | None = None) -> None:
    """Return once every rank of `group` (default: all) has come here.

    timeout: seconds (or a timedelta) after which every rank, those that come later too, raises Stalled, which names the ranks that are
    missing and the line where each of them is; default: the group's. The group is unusable then.

    Why not torch's own `monitored_barrier`: it works with gloo only. Every barrier here names who is missing; this one has a time-out.
    """
    found = dist.distributed_c10d._get_default_group() if group is None else group
    if not isinstance(found, ProcessGroup):
        raise InvalidArgument(f"monitored_barrier needs a process group of the backend 'hpcdl', got {found!r}")
    if timeout is not None and not isinstance(timeout, timedelta):
        timeout = timedelta(seconds=timeout)
    if timeout is not None and timeout <= timedelta(0):
        raise InvalidArgument(f"timeout must be more than 0 seconds, got {timeout}")
    found.barrier(timeout=timeout).wait()
