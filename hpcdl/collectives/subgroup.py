"""Groups of some of the ranks of a group."""

from __future__ import annotations

import zlib

import numpy as np

from ..arrays import HOST
from ..codecs import by_name as codec_by_name
from ..transport.subset import Subset
from . import tree
from .execute import execute
from .group import Group
from .operation import Operation, Signature
from .ops import by_name as op_by_name
from .task import Task

__all__ = ["subgroup"]


def subgroup(group: Group, members: tuple[int, ...], label: str, messages_only: bool = False, kind: type[Group] = Group) -> Group:
    """A group of `members` (ranks of `group`), with communicators of its own. Called by the members only, by all of them.

    messages_only: it has neither shared memory nor the MPI library's own calls. kind: its class.

    Where another library reduces for `group`, it does for a plain group of all its ranks in their order; for any other, this package does.

    Members first agree through the progress loop that they are all here, so that the blocking calls into MPI which follow cannot hang.
    """
    subset = Subset(group.transport, members)
    same = tuple(sorted(members))
    group.made[same] += 1
    identity = zlib.crc32(repr((same, group.made[same])).encode())
    signature = Signature("group", extra=f"members {list(members)}")
    with group.engine.locked():
        group.check_usable()
        header = np.array([identity, signature.fingerprint()], np.int64)
        nothing = np.empty(0, np.uint8)
        task = Task(nothing, op_by_name("bit_or"), codec_by_name(None), subset, group.pool(HOST), group.transport.tags - 1, header)
        operation = Operation(group, -1 - identity, signature, execute(tree.ALL_REDUCE, task))
        group.members[operation.number] = frozenset(members)
        group.submit(operation)
    operation.wait()
    with group.engine.locked():
        transport = group.transport.group(members, 2 * identity)
        if messages_only:
            transport = Subset(transport, tuple(range(len(members))))
        lane = group.lane.group(members, 2 * identity + 1)
        made = kind(group.engine, transport, lane, label, group.timeout, group.costs)
        made.devices.follow(group.devices.path)
        if group.sums is not None and kind is Group and members == tuple(range(group.transport.size)) and not messages_only:
            made.sums = group.sums.within(f"{label} ({identity:x})")
        return made
