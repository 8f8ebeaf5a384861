"""The plan from one run to the next: in the same place `auto` chooses as it did before, so that sums keep their order, bit for bit."""

from __future__ import annotations

import json
from typing import Any

from .costs import Costs
from .group import Group
from .plan import plan_for

__all__ = ["differs", "kept", "take"]


def kept(group: Group) -> dict[str, Any]:
    """What the plans of `group` and of those made of it follow from, and where that holds. For JSON, without loss."""
    return {**_place(group), "costs": json.loads(group.costs.to_json())}


def differs(group: Group, saved: dict[str, Any]) -> str:
    """Why `saved` does not hold here; nothing, if it does."""
    for name, here in _place(group).items():
        if saved.get(name) != here:
            return f"{name}: {saved.get(name)} then, {here} now"
    try:
        _costs(saved)
    except (ValueError, KeyError, TypeError) as error:
        return f"its costs are of another version ({type(error).__name__}: {error})"
    return ""


def take(group: Group, saved: dict[str, Any]) -> None:
    """Let `group`, and those there are of some of its ranks, follow `saved`, which does not differ. Called by all its ranks."""
    costs = _costs(saved)
    for each in group.engine.groups():
        if set(each.transport.ranks) <= set(group.transport.ranks):
            each.follow(costs, plan_for(costs, each.transport, each.buffers.board is not None))


def _place(group: Group) -> dict[str, Any]:
    """Not the hosts' names: a job that is queued again gets other nodes, and is to go on as it would have."""
    shared = "shared memory" if group.buffers.board is not None else "messages"
    return {
        "nodes": list(group.transport.nodes),
        "MPI library": group.engine.library,
        "engine": "hpcdl" if group.sums is None else "another",
        "within nodes": shared,
        "collectives": list(group.costs.names),
    }


def _costs(saved: dict[str, Any]) -> Costs:
    return Costs.from_json(json.dumps(saved["costs"]))
