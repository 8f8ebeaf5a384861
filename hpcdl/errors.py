"""Every error this package raises on purpose.

    HpcdlError
    ├── InvalidArgument      (also ValueError)    the call itself is wrong
    │   └── UnknownName                           a name that no registry knows; lists the known ones
    ├── DataError            (also ValueError)    a file is broken: truncated, wrong magic, sizes that lie
    ├── NonFinite            (also ArithmeticError)  NaN or infinity where `check_finite` was asked for
    ├── OutOfMemory          (also MemoryError)   a device has no room for the smallest buckets; the same text on every rank
    ├── LaunchError                               no launcher, a wrong one, or N worlds of one rank
    ├── WaitTimeout          (also TimeoutError)  `wait(timeout=…)` ran out; the operation goes on
    └── CommunicationError                        the same text on every rank of the world
        ├── Mismatch                              ranks disagree on shape, dtype, order, codec, …
        ├── Stalled          (also TimeoutError)  no progress within the time-out
        └── PeerLost                              a rank left, raised or died beside a collective

A message says which rank, what, the valid values and the cure:
``rank 3 of 8: unknown codec 'fp8'; known: bf16, fp16, int8, int8-stochastic, none``.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "REQUEUE",
    "CommunicationError",
    "DataError",
    "HpcdlError",
    "InvalidArgument",
    "LaunchError",
    "Mismatch",
    "NonFinite",
    "OutOfMemory",
    "PeerLost",
    "Stalled",
    "UnknownName",
    "WaitTimeout",
]

#: Exit code of a training that has saved and asks to be started again: none of the shell's, of sysexits.h's or of signals'.
REQUEUE = 85


class HpcdlError(RuntimeError):
    """Base of all errors of this package."""


class InvalidArgument(HpcdlError, ValueError):
    """The call itself is wrong, whatever the other ranks do."""


class UnknownName(InvalidArgument):
    """A name that no registry knows. The message lists the known ones."""


class DataError(HpcdlError, ValueError):
    """A file is not what it says it is."""


class NonFinite(HpcdlError, ArithmeticError):
    """NaN or infinity in a value that was to be checked."""


class OutOfMemory(HpcdlError, MemoryError):
    """A device has no room for what is needed at least."""


class LaunchError(HpcdlError):
    """The job was started in a way that cannot work."""


class WaitTimeout(HpcdlError, TimeoutError):
    """`wait(timeout=…)` ran out. The operation goes on and can be waited for again."""


class CommunicationError(HpcdlError):
    """Ranks cannot go on together. The world is unusable after it."""


class Mismatch(CommunicationError):
    """Ranks called different operations where they must call the same."""


class Stalled(CommunicationError, TimeoutError):
    """An operation made no progress within the time-out."""


class PeerLost(CommunicationError):
    """A rank that others wait for has left, raised or died."""


def ranks_text(ranks: Iterable[int]) -> str:
    """How an error names ranks.

    >>> ranks_text([3]), ranks_text([5, 0, 1, 2])
    ('rank 3', 'ranks 0-2, 5')
    """
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and spans[-1][1] == rank - 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    alone = len(spans) == 1 and spans[0][0] == spans[0][1]
    return f"rank {text}" if alone else f"ranks {text}"
