"""A group of ranks that communicate: its transport, its count of operations, and what happens when one of them goes wrong."""

from __future__ import annotations

import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

import numpy as np

from ..arrays import HOST, Arrays
from ..arrays.trouble import explained
from ..errors import CommunicationError, InvalidArgument, ranks_text
from ..transport.base import NamedSums, Pending, Transport, TransportFailure, Truncated
from .backoff import Backoff
from .branch import current
from .buffers import Buffers
from .control import Control, Entry, State, told, whereabouts
from .costs import ASSUMED, Costs
from .crossing import awaited, crosses
from .devices import Devices
from .execute import Disagreement
from .operation import Operation, Signature, chain
from .plan import Plan, plan_for
from .pool import Pool
from .progress import Engine
from .verdict import judge

__all__ = ["Call", "Group"]

_FIRST_PROBE = 2.0  # seconds without progress after which a rank compares notes with its neighbour
_LAST_PROBE = 20.0  # that time doubles, up to so much
_GRACE = 5.0  # seconds that ranks get to answer an alarm
_REMEMBER = 16  # finished operations that a rank can still tell others about

#: Makes the body of an operation from its tag and its header.
Call = Callable[[int, Any], Generator[Pending, None, Any]]


class Group:
    """One rank's end of a group. `label` names it in errors; `timeout` is in seconds."""

    def __init__(self, engine: Engine, transport: Transport, lane: Transport, label: str, timeout: float, costs: Costs = ASSUMED) -> None:
        self.engine, self.transport = engine, transport
        self.label, self.timeout, self.costs = label, timeout, costs
        self.place = f"rank {transport.rank} of {transport.size}"
        self.broken: CommunicationError | None = None
        self.left, self._closed = "", False
        self.lane, self._control = lane, Control(lane)
        self.devices, self.buffers = Devices(transport), Buffers(transport)
        self.plan = plan_for(costs, transport, self.buffers.board is not None)  # what `auto` follows
        self.sums: NamedSums | None = None  # of the library that reduces in place of ours, where one does
        self.recipes: dict[Any, Any] = {}  # what calls of all-reduce amount to, by their arguments
        self._pools: dict[str, Pool] = {}
        self.started = self._history = 0  # the latter of all so far, so that a disagreement that went unnoticed shows in the next one
        self._active: dict[int, Operation] = {}
        self._recent: deque[tuple[int, Signature]] = deque(maxlen=_REMEMBER)
        self.departed: dict[int, State] = {}  # ranks that start nothing more
        self._states: dict[int, State] = {}  # of this episode of trouble
        self._deadline = self._probe_at = self._asked_at = 0.0
        self._alive: set[int] = set()  # ranks that have answered since, at _asked_at, those that have not left were asked
        self.made: Counter[tuple[int, ...]] = Counter()
        self.members: dict[int, frozenset[int]] = {}  # of groups being made, whose operations have negative numbers
        self._made: deque[int] = deque(maxlen=16 * _REMEMBER)  # such operations that have finished here
        engine.add_group(self)

    def carrier(self, library: Arrays) -> Transport:
        """The transport for arrays of `library`."""
        return self.transport if library is HOST else self.devices.carrier

    def pool(self, library: Arrays) -> Pool:
        """Scratch memory of `library`."""
        return self._pools.setdefault(library.name, Pool(library))

    def start(self, signature: Signature, call: Call) -> Operation:
        """Start an operation that all ranks of the group start as their next one."""
        with self.engine.locked():
            self.check_usable()
            branch, fingerprint = current(), signature.fingerprint()
            number, history = self.count(fingerprint) if branch is None else branch.count(self.label, fingerprint)
            header = np.array([number, history], np.int64)
            operation = Operation(self, number, signature, call(number % (self.transport.tags - 1), header))
            self.submit(operation)
        return operation

    def count(self, fingerprint: int) -> tuple[int, int]:
        """The number of this rank's next operation, and the fingerprint of all of them with it."""
        number, self.started = self.started, self.started + 1
        self._history = chain(self._history, fingerprint)
        return number, self._history

    def submit(self, operation: Operation, wake: bool = True) -> None:
        """Hand a counted operation to the progress loop. Under its lock. wake: see `Engine.submit`."""
        self._active[operation.number] = operation
        self.engine.submit(operation, wake)
        if self.departed and not operation.finished:
            self._check_departed()

    def follow(self, costs: Costs, plan: Plan) -> None:
        """Let `auto` follow `plan` from now on, made of `costs`, which groups made of this one begin with. On all ranks alike."""
        self.costs, self.plan = costs, plan
        self.recipes.clear()

    def forget(self, operation: Operation) -> None:
        """Called by an operation that has finished."""
        self._active.pop(operation.number, None)
        if self.members.pop(operation.number, None) and operation.error is None:
            self._made.append(operation.number)
        self.remember(operation.number, operation.signature)

    def remember(self, number: int, signature: Signature) -> None:
        """Note an operation that has finished."""
        self._recent.append((number, signature))

    def trouble(self, operation: Operation, error: BaseException) -> None:
        """Called by the engine when `operation` cannot go on by itself."""
        operation.troubled = True
        if isinstance(error, Disagreement | TransportFailure):
            cause = "mismatch" if isinstance(error, Disagreement | Truncated) else "lost"
            self._alarm(cause, f"in {operation.title}: {error}")
        else:
            line = traceback.extract_tb(error.__traceback__)[-1]
            self._alarm("failed", f"{operation.signature}: {explained(error)} ({line.name}, line {line.lineno})")

    def watch(self, now: float) -> bool:
        """Read the control lane; look for operations that make no progress. Called by the engine now and then."""
        for kind, state in (messages := self._control.read()):
            self._hear(kind, state)
        if self._states and self.broken is None:
            if len({**self.departed, **self._states}) == self.transport.size or now > self._deadline:
                self._fail(judge({**self.departed, **self._states}, self.transport.size, self.label))
        elif self.broken is None:
            for operation in tuple(self._active.values()):
                self._look_at(operation, now)
            if self.left and now - self._asked_at > self.timeout:
                self._ask_who_is_alive(now)
        return bool(messages)

    def leave(self, error: BaseException | None = None) -> None:
        """Tell the others that this rank starts no more operations, and why."""
        with self.engine.locked():
            if not self.left:
                self.left = "ended" if error is None else f"raised {told(error)}"
                self._asked_at = time.monotonic()
                self._alive = set(range(self.transport.size))
                self._control.post("left", self._state())

    def all_left(self) -> bool:
        """Whether every other rank has left, so that nobody will ask this one for anything any more."""
        return not (self._active or self._states) and len(self.departed) == self.transport.size - 1 and self._control.flushed()

    def wait_for_all_to_leave(self, limit: float | None = None) -> None:
        """Wait, cheaply, until every rank has left; at most `limit` seconds, or, without a limit, until the group is broken."""
        backoff, end = Backoff(), time.monotonic() + (limit or 0)
        while not self.all_left() and (time.monotonic() < end if limit is not None else self.broken is None):
            backoff.pause(self.engine.poll())

    def close(self, memory: bool = True) -> None:
        """Give back what the group holds. A group that came to a good end gives back its communicators too.

        And its shared `memory`, if all ranks close this very group now; else that goes when they next make some together, or end.
        """
        if self._closed:
            return
        self._closed = True
        self.recipes.clear()  # they hold views of shared memory
        if memory and self.broken is None and self.all_left():
            self.buffers.close(self.engine, lambda: self.broken is None)
        self.buffers.leave()
        self.devices.close(self.broken is not None or not self.all_left())
        with self.engine.locked():
            self.engine.remove_group(self)
            self._control.close()
            if self.broken is None and self.all_left():
                self.transport.close()
                self.lane.close()

    def check_usable(self) -> None:
        """Raise what makes the group unusable, if anything does."""
        if self.broken is not None:
            raise type(self.broken)(*self.broken.args)
        if self.left:
            raise InvalidArgument(f"{self.place}: {self.label} is closed")

    def _look_at(self, operation: Operation, now: float) -> None:
        idle = now - operation.moved_at
        if idle > (operation.timeout or self.timeout):
            operation.troubled = True
            self._alarm("stalled", f"no progress for {idle:.0f} s in {operation.title}")
        elif idle > _FIRST_PROBE and now > self._probe_at:
            self._probe_at = now + min(idle, _LAST_PROBE)
            self._control.post("probe", self._state(), only=(self.transport.rank + 1) % self.transport.size)

    def _ask_who_is_alive(self, now: float) -> None:
        """This rank has left and waits for the others to do so, for as long as they answer."""
        if dead := set(range(self.transport.size)) - self._alive - set(self.departed) - {self.transport.rank}:
            self._alarm("lost", f"no answer for {self.timeout:g} s from {ranks_text(dead)}, which never ended")
        self._asked_at, self._alive = now, set()
        self._control.post("alive?", self._state())

    def _hear(self, kind: str, state: State) -> None:
        self._alive.add(state.rank)
        if kind == "alive?":
            self._control.post("alive", self._state(), only=state.rank)
        elif kind == "alive":
            return
        elif kind == "left":
            self.departed[state.rank] = state
            self._check_departed()
            if state.started == self.started and state.history != self._history:
                self._alarm("mismatch", f"its {self.started} operations were others than those of rank {state.rank}")
        elif kind == "probe":
            here = self._state()
            mine = {entry.number: entry.fingerprint for entry in [*here.recent, *here.waiting]}
            if any(mine.get(entry.number, entry.fingerprint) != entry.fingerprint for entry in state.waiting):
                self._alarm("mismatch", f"it is in another operation than rank {state.rank}")
            for group, crossed in crosses(self, state):
                group._alarm("crossed", crossed)
        else:
            self._states[state.rank] = state
            self._alarm("", "")

    def _check_departed(self) -> None:
        """Raise the alarm if an operation needs a rank that left before it."""
        for state in self.departed.values():
            if any(state.fails(number, self.members.get(number)) for number in self._active):
                self._alarm("departed", "")

    def _alarm(self, cause: str, detail: str) -> None:
        """Begin or join an episode of trouble: tell everybody this rank's state, once."""
        if self.broken is not None or self.transport.rank in self._states:
            return
        self._deadline = time.monotonic() + _GRACE
        state = self._states[self.transport.rank] = self._state(cause, detail[:2000])
        self._control.post("state", state)

    def _state(self, cause: str = "", detail: str = "") -> State:
        waiting = [Entry.of(number, operation.signature) for number, operation in islice(self._active.items(), _REMEMBER)]
        recent = [Entry.of(number, signature) for number, signature in self._recent]
        where = whereabouts(self.engine.owner), self.started, self._history, self.left, awaited(self.engine)
        return State(self.transport.rank, cause, detail, waiting, recent, *where, list(self._made))

    def _fail(self, error: CommunicationError) -> None:
        self.broken = error
        self.devices.abort()
        for operation in tuple(self._active.values()):
            operation.finish(error=error)
