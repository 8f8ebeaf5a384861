"""From all ranks' states to one error, the same on every rank."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from ..errors import CommunicationError, Mismatch, PeerLost, Stalled, ranks_text
from .control import State

__all__ = ["judge"]

_SAME = "all ranks must call the same operations in the same order, with the same shape, dtype, op, codec and collective"


def judge(states: Mapping[int, State], size: int, group: str) -> CommunicationError:
    """The error that `states` (by rank; silent ranks are missing) amount to. A pure function of them."""
    raised = [state for state in states.values() if state.left.startswith("raised")]
    if raised:
        told = "; ".join(f"rank {state.rank} of {size} {state.left}" for state in _sorted(raised))
        return PeerLost(f"{told}; meanwhile {_who_waits(states, size)}")
    different = _different(states)
    if different is not None:
        return Mismatch(f"ranks disagree on operation {different[0]} of {group}: {different[1]}; cure: {_SAME}")
    causes = {state.cause: state for state in _sorted(states.values()) if state.cause}
    if "mismatch" in causes:
        state = causes["mismatch"]
        told = f"rank {state.rank} of {size}: {state.detail}; {_who_waits(states, size)}"
        return Mismatch(f"ranks disagree in {group}: {told}; cure: {_SAME}")
    if "crossed" in causes:
        told, cure = (
            causes["crossed"].detail,
            "all ranks must call the same, so they need as many batches, which hpcdl's loaders and shards see to",
        )
        return Mismatch(f"ranks wait for each other in different operations: {told}; cure: {cure}")
    if "failed" in causes:
        state = causes["failed"]
        return CommunicationError(f"rank {state.rank} of {size} failed inside {group}: {state.detail}; {_who_waits(states, size)}")
    if "lost" in causes:
        state = causes["lost"]
        return PeerLost(f"rank {state.rank} of {size} lost a peer in {group}: {state.detail}; {_who_waits(states, size)}")
    gone = [state.rank for state in _sorted(states.values()) if state.left]
    if gone:
        cure = "every rank must take part in each operation until the last one"
        return PeerLost(f"{ranks_text(gone)} of {size} ended already; meanwhile {_who_waits(states, size)}; cure: {cure}")
    detail = causes["stalled"].detail if "stalled" in causes else "no progress"
    idle = len(states) < size or any(not (state.waiting or state.awaited) for state in states.values())
    cure = "look at the ranks that do not wait" if idle else "all wait, not all for the same: all ranks must call the same, as often"
    cure += "; a longer time-out is init(timeout=…) or HPCDL_TIMEOUT"
    return Stalled(f"{group}: {detail}; {_who_waits(states, size)}; cure: {cure}")


def _different(states: Mapping[int, State]) -> tuple[int, str] | None:
    """The first operation whose fingerprint differs between ranks: its number, and who calls what."""
    variants: dict[int, dict[int, tuple[str, list[int]]]] = defaultdict(dict)
    for state in _sorted(states.values()):
        for entry in {entry.number: entry for entry in [*state.recent, *state.waiting]}.values():
            variants[entry.number].setdefault(entry.fingerprint, (entry.text, []))[1].append(state.rank)
    for number in sorted(variants):
        if len(variants[number]) > 1:
            told = "; ".join(f"{ranks_text(ranks)}: {text}" for text, ranks in variants[number].values())
            return number, told
    return None


def _who_waits(states: Mapping[int, State], size: int) -> str:
    """Who of those that have not left waits in what, and who does not: ``ranks 0-2 in operation 7, …; rank 3 in no operation, at …``."""
    waiting: dict[str, list[int]] = defaultdict(list)
    for rank in range(size):
        state = states.get(rank)
        if state is None:
            waiting["did not answer (stuck outside Python, or dead)"].append(rank)
        elif state.left:
            continue
        elif state.waiting:
            first = state.waiting[0]
            waiting[f"in {first.text}" if first.number < 0 else f"in operation {first.number}, {first.text}"].append(rank)
        elif state.awaited:
            waiting[f"in {state.awaited.text}, at {state.where or 'an unknown place'}"].append(rank)
        else:
            waiting[f"in no operation, at {state.where or 'an unknown place'}"].append(rank)
    return "; ".join(f"{ranks_text(ranks)} {text}" for text, ranks in waiting.items()) or "nobody waits"


def _sorted(states: Iterable[State]) -> list[State]:
    return sorted(states, key=lambda state: state.rank)
