"""The process group: what torch.distributed calls, over two groups of ours."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch._C._distributed_c10d import ProcessGroup as _ProcessGroup

from ...collectives.group import Group
from ...collectives.messages import Messages
from ...collectives.subgroup import subgroup
from .mail import Mail
from .moves import Moves
from .reductions import Reductions
from .work import Work

__all__ = ["ProcessGroup"]

_LEAVING = 2.0  # seconds that a rank waits for the others to destroy the group too


class ProcessGroup(Reductions, Moves, Mail, _ProcessGroup):
    """A process group of torch.distributed over MPI. Made by `init_process_group` and `dist.new_group`.

    Collectives and messages have communicators of their own. Errors are ours, the same on every rank: Mismatch, Stalled, PeerLost.

    Why ProcessGroup and not Backend: torch 2.13 can only subclass that one. All that works is in the parts, which need neither.
    """

    def __init__(self, group: Group, mail: Group, store: Any = None) -> None:
        super().__init__(group.transport.rank, group.transport.size)
        self._group, self._mail, self._messages = group, mail, Messages(mail)
        self._rank, self._size = group.transport.rank, group.transport.size
        self._name, self._desc, self._store = "", "undefined", store
        self._pending: list[Work] | None = None

    @classmethod
    def within(cls, parent: Group, ranks: Sequence[int], name: str, store: Any = None) -> ProcessGroup:
        """The process group of `ranks` of `parent`. Called by those only."""
        label = f"process group {name!r} of ranks {[parent.transport.ranks[rank] for rank in ranks]}"
        group = subgroup(parent, tuple(ranks), label)
        return cls(group, subgroup(parent, tuple(ranks), label, messages_only=True), store)

    def __repr__(self) -> str:
        return f"<hpcdl process group {self._name!r}, rank {self._rank} of {self._size}>"

    def rank(self) -> int:
        """This process's rank in the group."""
        return self._rank

    def size(self) -> int:
        """The number of ranks in the group."""
        return self._size

    def name(self) -> str:
        """The backend's name."""
        return "hpcdl"

    getRank, getSize, getBackendName, _get_backend_name = rank, size, name, name  # noqa: N815

    # Why: torch keeps the names in a backend's own object, which a subclass of ProcessGroup has none of.
    def setGroupName(self, name: str) -> None:  # noqa: N802
        """Called by torch."""
        self._name = name

    def getGroupName(self) -> str:  # noqa: N802
        """Called by torch."""
        return self._name

    def setGroupDesc(self, desc: str) -> None:  # noqa: N802
        """Called by torch."""
        self._desc = desc

    def getGroupDesc(self) -> str:  # noqa: N802
        """Called by torch."""
        return self._desc

    _set_group_name, _set_group_desc = setGroupName, setGroupDesc

    @property
    def group_name(self) -> str:
        """The name that torch has given it."""
        return self._name

    @property
    def group_desc(self) -> str:
        """What it is for."""
        return self._desc

    @property
    def _device_types(self) -> list[torch.device]:
        return [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])

    def _get_backend(self, device: Any) -> ProcessGroup:
        return self

    supports_splitting, supports_coalescing, supports_time_estimate = True, False, False

    def splitGroup(  # noqa: N802
        self,
        ranks: Sequence[int],
        timeout: Any = None,
        opts: Any = None,
        group_name: Any = None,
        group_desc: Any = None,
        devices: Any = None,
    ) -> ProcessGroup | None:
        """The group of `ranks` (of this one); None on ranks that are not among them. Collective over `ranks`."""
        if self._rank not in ranks:
            return None
        made = ProcessGroup.within(self._group, ranks, str(group_name), self._store)
        made.setGroupName(str(group_name))
        made.setGroupDesc(str(group_desc or "undefined"))
        made.set_timeout(timeout or timedelta(seconds=self._group.timeout))
        return made

    split_group = splitGroup

    def eager_connect_single_device(self, device: Any = None) -> None:
        """Called by torch where ranks are bound to devices: connections are there already."""

    perform_nocolor_split = eager_connect_single_device

    def get_group_store(self) -> Any:
        """The store that torch has given it."""
        return self._store

    @property
    def options(self) -> Any:
        """What torch asks a backend for: its time-out and name."""
        from torch._C._distributed_c10d import Backend

        found = Backend.Options("hpcdl", timedelta(seconds=self._group.timeout))
        found.group_name = self._name
        return found

    def set_timeout(self, timeout: timedelta) -> None:
        """Seconds without progress after which an operation raises Stalled on every rank. On all ranks alike."""
        self._group.timeout = self._mail.timeout = timeout.total_seconds()

    _set_default_timeout = set_timeout

    def _set_sequence_number_for_group(self) -> None:
        """Operations are counted from the beginning."""

    def _get_sequence_number_for_group(self) -> int:
        return self._group.started

    def _start_coalescing(self, device: Any) -> None:
        self._pending = []

    def _end_coalescing(self, device: Any) -> Work:
        works, self._pending = self._pending or [], None
        return joined(works)

    def _work(self, *args: Any, **kw: Any) -> Work:
        work = super()._work(*args, **kw)
        if self._pending is not None:
            self._pending.append(work)
        return work

    def shutdown(self) -> None:
        """Leave the group: no more operations from this rank. Waits 2 seconds at most for the others to do so too."""
        for group in (self._group, self._mail):
            group.leave()
        for group in (self._group, self._mail):
            group.wait_for_all_to_leave(_LEAVING)
            group.close(memory=False)  # to give that back at once would wait for all ranks

    def abort(self) -> None:
        """Give up: whoever waits for this rank in the group, or will, gets an error."""
        for group in (self._group, self._mail):
            group.leave(RuntimeError("process group aborted"))


def joined(works: list[Work]) -> Work:
    """Several handles as one."""
    operations = [operation for work in works for operation in work._operations]
    return Work(operations, [x for work in works for x in work._outputs])
