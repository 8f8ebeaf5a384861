"""Ranks that wait for each other in different groups: none of them will ever come.

As where ranks have different numbers of batches: some are in a reducer, the others in the world's all-reduce after the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .control import Awaited, State, whereabouts

if TYPE_CHECKING:
    from .group import Group
    from .progress import Engine

__all__ = ["awaited", "crosses"]


def awaited(engine: Engine) -> Awaited | None:
    """What this rank's program waits for, in whichever group, and what it has started in all of them."""
    operation = engine.awaited
    if operation is None or operation.finished:
        return None
    group = operation.group
    started = {_key(other): other.started for other in engine.groups()}
    return Awaited(_key(group), operation.number, f"{operation.title} of {group.label}", started)


def crosses(group: Group, state: State) -> list[tuple[Group, str]]:
    """If the rank of `state` waits in `group` for this one, and this one in another group for that: both groups, and who waits where.

    Sure to last: both programs stand in a wait without an end, each for an operation that the other has not started.
    """
    theirs, mine, operation = state.awaited, awaited(group.engine), group.engine.awaited
    if theirs is None or mine is None or operation is None or operation.group is group:
        return []
    peer = group.transport.ranks[state.rank]
    comes = theirs.group != _key(group) or theirs.number < group.started or peer not in operation.group.transport.ranks
    if comes or min(theirs.number, mine.number) < 0 or theirs.started.get(mine.group, 0) > mine.number:
        return []
    here = group.transport.ranks[group.transport.rank]
    told = (
        f"rank {here} waits in {mine.text}, at {whereabouts(group.engine.owner)}, and rank {peer} in {theirs.text}, at {state.where}: "
        "neither has called what the other waits for"
    )
    return [(group, told), (operation.group, told)]


def _key(group: Group) -> str:
    """Tells groups apart, on all ranks alike: groups of other ranks may have the same name."""
    return f"{group.label}/{hash(group.transport.ranks)}"
