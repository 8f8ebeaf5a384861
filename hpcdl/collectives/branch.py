"""Operations that callbacks of other operations start: counted apart, so that they match whenever the callbacks run.

Callbacks run when an operation has ended, which on one rank is before its program starts the next operation, and on another after that.
Counted with all others, what they start would meet different operations on different ranks.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from types import TracebackType

from .operation import Operation

__all__ = ["Branch", "current"]

_here = threading.local()


class Branch:
    """Within: what this thread starts belongs to the callbacks of `origin`; all ranks start the same there, in the same order.

    Such operations may not use what all ranks must use in one order: shared memory, and the MPI library's own calls.
    """

    def __init__(self, origin: Operation | None) -> None:
        self._origin = origin
        self._counts: Counter[str] = Counter()
        self._before: list[Branch | None] = []

    def __enter__(self) -> None:
        self._before.append(current())
        _here.branch = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _here.branch = self._before.pop()

    def count(self, group: str, fingerprint: int) -> tuple[int, int]:
        """The number of the next operation in the group of this label, below 0, and the fingerprint of the operation alone."""
        assert self._origin is not None
        self._counts[group] += 1
        name = f"{self._origin.group.label}, {self._origin.number}, {group}, {self._counts[group]}"
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        return -1 - (int.from_bytes(digest, "little") >> 2), fingerprint


def current() -> Branch | None:
    """The branch that this thread is in."""
    branch: Branch | None = getattr(_here, "branch", None)
    return branch
