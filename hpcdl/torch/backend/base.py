"""What the parts of the process group share: its groups, and how operations become a handle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...collectives.group import Group
from ...collectives.messages import Messages
from ...collectives.operation import Operation
from ...errors import InvalidArgument
from .memory import Restore
from .work import Work, seconds

__all__ = ["Part", "only"]


class Part:
    """A part of the process group. It never looks at torch's own base class, so that either of torch's two can stand beside it."""

    _group: Group  # for collectives
    _mail: Group  # for messages
    _messages: Messages
    _rank: int
    _size: int

    def _work(
        self, operations: Sequence[Operation], outputs: list[torch.Tensor], restores: Sequence[Restore] = (), opts: Any = None
    ) -> Work:
        """The handle of `operations`; at their end `restores` are called. opts: may bring a time-out."""
        timeout = seconds(getattr(opts, "timeout", None))
        if timeout is not None:
            for operation in operations:
                operation.timeout = timeout
        wanted = [restore for restore in restores if restore is not None]

        def last() -> None:
            for restore in wanted:
                restore()

        return Work(operations, outputs, last if wanted else None)


def only(given: Sequence[Any], what: str) -> Any:
    """The one element of `given`: torch.distributed has lists of tensors for several devices of a process, of which there is one here."""
    if len(given) != 1:
        raise InvalidArgument(f"{what}: a process has one tensor here, got a list of {len(given)}")
    return given[0]
