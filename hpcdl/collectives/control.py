"""The control lane: a communicator of its own, used for trouble only.

A rank that finds ranks disagreeing, or makes no progress for the time-out, posts its state here; every rank answers with its own, and
each forms the same verdict from them. On the good path nothing is sent.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from traceback import extract_tb
from typing import Any

import numpy as np

from ..transport.base import Pending, Transport, TransportFailure
from .operation import Signature

__all__ = ["Awaited", "Control", "Entry", "State", "told", "whereabouts"]

_TAG = 0
_CAPACITY = 1 << 15  # bytes of a message
_PACKAGE = str(Path(__file__).resolve().parent.parent)
_INSTALLED = (*{path for name, path in sysconfig.get_paths().items() if name.endswith("lib") or name == "stdlib"}, "<frozen")


@dataclass(frozen=True)
class Entry:
    """An operation, as told to others."""

    number: int
    fingerprint: int
    text: str

    @classmethod
    def of(cls, number: int, signature: Signature) -> Entry:
        """Operation `number`, which does what `signature` says."""
        return cls(number, signature.fingerprint(), str(signature)[:500])


@dataclass(frozen=True)
class Awaited:
    """What a rank's program waits for."""

    group: str
    number: int
    text: str
    started: dict[str, int]  # operations so far, by group


@dataclass
class State:
    """What a rank tells about itself."""

    rank: int
    cause: str = ""  # "" where it only answers; else stalled, mismatch, lost or raised
    detail: str = ""
    waiting: list[Entry] = field(default_factory=list)
    recent: list[Entry] = field(default_factory=list)
    where: str = ""  # line of the user's program
    started: int = 0  # operations started so far
    history: int = 0  # and the fingerprint of all of them
    left: str = ""  # "" while it runs; else "ended" or "raised …"
    awaited: Awaited | None = None
    made: list[int] = field(default_factory=list)  # operations below 0 that made groups, which it has finished

    def fails(self, number: int, members: frozenset[int] | None) -> bool:
        """Whether this rank, which has left, will be missed in operation `number`. Below 0, `members` are those that it needs.

        Where they are not known, as in a message, one that has ended may have done its part; one that raised is missed.
        """
        if number >= 0:
            return number >= self.started
        return self.left.startswith("raised") if members is None else self.rank in members and number not in self.made

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> State:
        """From plain values."""
        entries = {key: [Entry(**entry) for entry in values[key]] for key in ("waiting", "recent")}
        awaited = Awaited(**values["awaited"]) if values["awaited"] else None
        return cls(**{**values, **entries, "awaited": awaited})


_MAY_BE_LOST = ("alive?", "alive")


class Control:
    """Small messages to every rank of a group, from any rank at any time."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._inbox = np.empty(_CAPACITY, np.uint8)
        self._receive: Pending | None = transport.irecv(self._inbox, None, _TAG) if transport.size > 1 else None
        self._sent: list[tuple[Pending, Any, bool]] = []

    def post(self, kind: str, state: State, only: int | None = None) -> None:
        """Tell every other rank (or `only` one). Does not wait for them, and does not mind that some are gone."""
        buf = np.frombuffer(_pack(kind, state), np.uint8)
        for peer in range(self._transport.size):
            if peer != self._transport.rank and only in (None, peer):
                try:
                    self._sent.append((self._transport.isend(buf, peer, _TAG), buf, kind not in _MAY_BE_LOST))
                except TransportFailure:
                    continue

    def read(self) -> list[tuple[str, State]]:
        """What has come since the last call."""
        messages = []
        while self._receive is not None:
            try:
                if not self._receive.done():
                    break
                kind, values = json.loads(self._inbox[: self._receive.nbytes].tobytes())
                messages.append((kind, State.from_json(values)))
                self._receive = self._transport.irecv(self._inbox, None, _TAG)
            except TransportFailure:
                self._receive = None
        return messages

    def flushed(self) -> bool:
        """Whether all that was posted has gone out, but for what somebody who has left may never read."""
        self._sent = [sent for sent in self._sent if not _gone(sent[0])]
        return not any(needed for _, _, needed in self._sent)

    def close(self) -> None:
        """Receive no more."""
        if self._receive is not None:
            self._receive.cancel()
            self._receive = None


def _pack(kind: str, state: State) -> bytes:
    """The message, cut down until it fits: first what is long finished, then long texts."""
    values = state.to_json()
    length = 500
    while True:
        data = json.dumps([kind, values], ensure_ascii=False).encode()
        if len(data) <= _CAPACITY:
            return data
        if values["recent"]:
            values["recent"] = values["recent"][len(values["recent"]) // 2 + 1 :]
            continue
        values["awaited"] = None
        length //= 2
        values["detail"], values["left"], values["where"] = (values[key][:length] for key in ("detail", "left", "where"))
        values["waiting"] = [{**entry, "text": entry["text"][:length]} for entry in values["waiting"]]


def _gone(pending: Pending) -> bool:
    try:
        return pending.done()
    except TransportFailure:
        return True


def told(error: BaseException) -> str:
    """An exception for the other ranks: what, and from where to where, as ``ValueError: no such file (train.py:37 … io.py:112)``."""
    frames = [frame for frame in extract_tb(error.__traceback__) if not frame.filename.startswith(_PACKAGE)]
    ends = dict.fromkeys(f"{Path(frame.filename).name}:{frame.lineno}" for frame in (*frames[:1], *frames[-1:]))
    return f"{type(error).__name__}: {error}"[:1800] + (f" ({' … '.join(ends)})" if ends else "")


def whereabouts(thread: int) -> str:
    """Where `thread` is in the user's program, as ``train.py:37 in main``: its innermost frame outside of all that is installed."""
    frame, inner = sys._current_frames().get(thread), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_PACKAGE) and file != threading.__file__ and "importlib" not in file:
            place = f"{Path(file).name}:{frame.f_lineno} in {frame.f_code.co_name}"
            if not file.startswith(_INSTALLED):
                return place
            inner = inner or place
        frame = frame.f_back
    return inner
