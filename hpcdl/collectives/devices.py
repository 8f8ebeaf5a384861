"""How a group moves arrays on devices: the path that all its ranks take, and what that needs."""

from __future__ import annotations

from dataclasses import dataclass

from ..transport.aware import Aware
from ..transport.base import Transport
from ..transport.staged import Staged
from .links import Links

__all__ = ["PATHS", "STAGED", "DevicePath", "Devices"]

#: What a user can ask for. auto: the first of the others that can be.
PATHS = ("auto", "nccl", "aware", "staged")


@dataclass(frozen=True)
class DevicePath:
    """The path of all ranks of a job: what was asked for, and whether every rank's MPI library takes device memory."""

    asked: str = "auto"
    aware: bool = False

    @property
    def messages(self) -> str:
        """How messages go: what NCCL does not do goes by the next best path."""
        return "aware" if self.aware and self.asked != "staged" else "staged"

    @property
    def nccl(self) -> bool:
        """Whether NCCL is wanted, where it can be."""
        return self.asked in ("auto", "nccl")


#: What every library can do; until the ranks have agreed on more.
STAGED = DevicePath("staged")


class Devices:
    """One group's way with device memory."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.follow(STAGED)

    def follow(self, path: DevicePath) -> None:
        """Take `path` from now on. On all ranks alike, while nothing is under way."""
        self.path = path
        self.links = Links(forced=path.asked == "nccl") if path.nccl else None
        self.carrier: Transport = Aware(self._transport) if path.messages == "aware" else Staged(self._transport)

    def abort(self) -> None:
        """End what is under way: the group is broken."""
        if self.links is not None:
            self.links.abort()

    def close(self, broken: bool) -> None:
        """Give back what the path needed; broken: without waiting for other ranks."""
        if self.links is not None:
            self.links.close(broken)
