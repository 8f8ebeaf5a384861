"""Proves a schedule by running it on sets instead of numbers, prices it on a network, and draws it."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from typing import NamedTuple

from .schedule import Recv, Schedule, Send, Step

__all__ = ["Disproved", "Network", "draw", "price", "prove"]


Values = Counter[int]  # rank -> how often its value is in the sum


class Disproved(AssertionError):
    """A schedule that does not do what its kind promises. The message says where."""


class Network(NamedTuple):
    """Costs of the alpha-beta model: seconds per message, per byte sent, per byte reduced."""

    alpha: float
    beta: float
    gamma: float = 0.0


class _Rank:
    """What one rank of the simulation holds: for each chunk, how often each rank's value is in it."""

    def __init__(self, schedule: Schedule, rank: int, size: int) -> None:
        self.name = f"{schedule.name} {schedule.kind}, {size} ranks: rank {rank}"
        self.rank = rank
        self.steps = schedule.steps(rank, size)
        self.step: Step | None = ()
        self.open = 0  # actions of the present step whose other end has not come yet
        empty = (schedule.kind == "broadcast" and rank != 0) or schedule.kind == "all_gather"
        self.holds: list[Values] = [Counter() if empty else Counter({rank: 1}) for _ in range(schedule.chunks(size))]
        if schedule.kind == "all_gather":
            self.holds[rank] = Counter({rank: 1})
        self.encoded: set[int] = set()
        self.final: set[int] = set()

    def encode(self, send: Send) -> list[Values]:
        """The values of the chunks of `send`, as they are now."""
        if not 0 <= send.lo < send.hi <= len(self.holds):
            raise Disproved(f"{self.name}: {send}: there are chunks 0 to {len(self.holds) - 1} only")
        for chunk in range(send.lo, send.hi):
            if send.final and chunk in self.final:
                continue  # its wire is there already and goes on verbatim
            if chunk in self.encoded:
                raise Disproved(f"{self.name}: {send}: chunk {chunk} is encoded a second time")
            self.encoded.add(chunk)
            if send.final:
                self.final.add(chunk)
        return [self.holds[chunk].copy() for chunk in range(send.lo, send.hi)]

    def receive(self, recv: Recv, values: list[Values]) -> None:
        """Add or take over what has come."""
        for chunk, value in zip(range(recv.lo, recv.hi), values, strict=True):
            if chunk in self.final:
                raise Disproved(f"{self.name}: {recv}: chunk {chunk} is final already")
            if recv.reduce:
                self.holds[chunk] += value
            else:
                self.holds[chunk] = value
                self.final.add(chunk)


class _Channel:
    """Messages from one rank to another, in order. A send is done when it is received, so nothing relies on buffering."""

    def __init__(self) -> None:
        self.sends: deque[tuple[Send, list[Values]]] = deque()
        self.recvs: deque[Recv] = deque()
        self.arrived: deque[list[Values]] = deque()

    def match(self, sender: _Rank, receiver: _Rank) -> bool:
        """Bring the two ends of the next message together, if both are there."""
        if not (self.sends and self.recvs):
            return False
        (send, values), recv = self.sends.popleft(), self.recvs.popleft()
        if (send.lo, send.hi) != (recv.lo, recv.hi) or send.final == recv.reduce:
            raise Disproved(f"{receiver.name}: {recv} meets {send}: same chunks, and either final or reduced, were expected")
        self.arrived.append(values)
        sender.open -= 1
        receiver.open -= 1
        return True


def prove(schedule: Schedule, size: int) -> None:
    """Raise Disproved unless `schedule` is right for `size` ranks.

    Proved: every chunk ends where its kind says, with each rank's value reduced into it exactly once; nobody waits for ever, even where
    a send waits for its receive; both ends of a message name the same chunks; a chunk is encoded at most once per rank, and never
    reduced into once it is final.
    """
    ranks = [_Rank(schedule, rank, size) for rank in range(size)]
    channels: dict[tuple[int, int], _Channel] = defaultdict(_Channel)
    moved = True
    while moved:
        moved = False
        for state in ranks:
            if state.step is not None and not state.open:
                _finish_step(state, channels)
                _start_step(state, channels)
                moved = True
        for (sender, receiver), channel in channels.items():
            while channel.match(ranks[sender], ranks[receiver]):
                moved = True
    stuck = {state.rank: state.step for state in ranks if state.step is not None}
    unmet = {pair: channel.sends for pair, channel in channels.items() if channel.sends}
    if stuck or unmet:
        raise Disproved(f"{schedule.name} {schedule.kind}, {size} ranks: nobody can go on; stuck: {stuck}; never received: {unmet}")
    for state in ranks:
        _check_result(schedule, state, size)


def _start_step(state: _Rank, channels: dict[tuple[int, int], _Channel]) -> None:
    state.step = next(state.steps, None)
    for action in state.step or ():
        state.open += 1
        if isinstance(action, Send):
            channels[state.rank, action.peer].sends.append((action, state.encode(action)))
        else:
            channels[action.peer, state.rank].recvs.append(action)


def _finish_step(state: _Rank, channels: dict[tuple[int, int], _Channel]) -> None:
    for action in state.step or ():
        if isinstance(action, Recv):
            state.receive(action, channels[action.peer, state.rank].arrived.popleft())


def _check_result(schedule: Schedule, state: _Rank, size: int) -> None:
    all_once = Counter(range(size))
    for chunk, holds in enumerate(state.holds):
        wanted = {
            "allreduce": all_once,
            "broadcast": Counter({0: 1}),
            "all_gather": Counter({chunk: 1}),
            "reduce_scatter": all_once if chunk == state.rank else holds,
        }[schedule.kind]
        if holds != wanted:
            raise Disproved(f"{schedule.name} {schedule.kind}, {size} ranks: rank {state.rank} ends with chunk {chunk} = {dict(holds)}")


def price(schedule: Schedule, size: int, nbytes: float, network: Network) -> float:
    """Predicted seconds for `nbytes` over `size` ranks: a step costs its slowest direction. Walks a few ranks only, so 100,000 is fine."""
    chunk = nbytes / schedule.chunks(size)
    return max(sum(_cost(step, chunk, network) for step in schedule.steps(rank, size)) for rank in {0, 1 % size, size // 2, size - 1})


def _cost(step: Step, chunk: float, network: Network) -> float:
    out = sum((a.hi - a.lo) * chunk for a in step if isinstance(a, Send))
    back = sum((a.hi - a.lo) * chunk for a in step if isinstance(a, Recv))
    reduced = sum((a.hi - a.lo) * chunk for a in step if isinstance(a, Recv) and a.reduce)
    messages = max(sum(isinstance(a, Send) for a in step), sum(isinstance(a, Recv) for a in step))
    return messages * network.alpha + max(out, back) * network.beta + reduced * network.gamma


def draw(schedule: Schedule, size: int) -> str:
    """The schedule as text, a line per rank and step: ``0: 1>[0:1) 3+[2:3)`` sends, adds (+) or replaces (=)."""
    lines = [f"{schedule.name} {schedule.kind}, {size} ranks, {schedule.chunks(size)} chunks"]
    for rank in range(size):
        for number, step in enumerate(schedule.steps(rank, size)):
            lines.append(f"  rank {rank} step {number}: {' '.join(map(_sketch, step))}")
    return "\n".join(lines)


def _sketch(action: Send | Recv) -> str:
    if isinstance(action, Send):
        return f"{action.peer}>[{action.lo}:{action.hi}){'!' if action.final else ''}"
    return f"{action.peer}{'+' if action.reduce else '='}[{action.lo}:{action.hi})"
