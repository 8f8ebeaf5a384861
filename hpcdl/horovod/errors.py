"""The errors of this door: Horovod's names, and at the same time this package's own kinds.

HorovodInternalError    (also CommunicationError)  an operation that cannot be done; the same text on every rank
├── Disagreed           (also Mismatch)            ranks want different things under one name; later operations go on
├── Lost                (also PeerLost)            a rank left, raised or died
├── Late                (also Stalled)             a rank did not come within the time-out
└── Refused             (also InvalidArgument)     the call itself is wrong; raised at once, on the rank that made it
HostsUpdatedInterrupt                              the set of hosts has changed (elastic training)
NotInitialized          (also ValueError)          a call before `init`
"""

from __future__ import annotations

from ..errors import CommunicationError, InvalidArgument, Mismatch, PeerLost, Stalled

__all__ = ["Disagreed", "HorovodInternalError", "HostsUpdatedInterrupt", "Late", "Lost", "NotInitialized", "Refused", "translated"]


class HorovodInternalError(CommunicationError):
    """An operation failed, on every rank."""


class Disagreed(HorovodInternalError, Mismatch):
    """Ranks want different things under one name. The others of their operations are not touched by it."""


class Lost(HorovodInternalError, PeerLost):
    """A rank that others wait for has left, raised or died."""


class Late(HorovodInternalError, Stalled):
    """An operation made no progress within the time-out."""


class Refused(HorovodInternalError, InvalidArgument):
    """The call itself is wrong: raised at once, on the rank that made it."""


class HostsUpdatedInterrupt(RuntimeError):
    """The set of hosts in the job has changed. skip_sync: whether the state need not be synchronised."""

    def __init__(self, skip_sync: bool) -> None:
        super().__init__("the hosts of this job have changed")
        self.skip_sync = skip_sync


class NotInitialized(InvalidArgument):
    """A call before `init`, or after `shutdown`."""

    def __init__(self) -> None:
        super().__init__("Horovod has not been initialized; use hvd.init().")


def translated(error: CommunicationError) -> HorovodInternalError:
    """The same error under the names of this door."""
    if isinstance(error, HorovodInternalError):
        return error
    kinds = {Mismatch: Disagreed, PeerLost: Lost, Stalled: Late}
    kind = next((kind for known, kind in kinds.items() if isinstance(error, known)), HorovodInternalError)
    return kind(*error.args)
