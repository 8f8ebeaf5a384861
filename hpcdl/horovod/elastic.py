"""State that is committed, restored and synchronised, for training that goes on after an error.

What comes with a later piece of work: going on with other ranks than before. Until then an error says so.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from ..errors import HpcdlError
from .basics import job
from .errors import HorovodInternalError, HostsUpdatedInterrupt

__all__ = ["ObjectState", "State", "run"]

Result = TypeVar("Result")
_LATER = (
    "going on with a changed set of ranks comes with a later version of hpcdl; until then start the job again, from the last checkpoint"
)


class State:
    """What a rank must know to go on. bcast_object: sends an object from rank 0 to all; get_rank: this rank's number."""

    def __init__(self, bcast_object: Callable[[Any], Any], get_rank: Callable[[], int]) -> None:
        self._bcast_object, self._rank = bcast_object, get_rank
        self._reset_callbacks: list[Callable[[], None]] = []

    def register_reset_callbacks(self, callbacks: Iterable[Callable[[], None]]) -> None:
        """Call these after a reset."""
        self._reset_callbacks.extend(callbacks)

    def on_reset(self) -> None:
        """After a reset: forget what belonged to the ranks before."""
        self.reset()
        for callback in self._reset_callbacks:
            callback()

    def commit(self) -> None:
        """Remember the state as it is; `restore` comes back to it."""
        self.save()
        self.check_host_updates()

    def check_host_updates(self) -> None:
        """Look whether hosts have come or gone. Here they never do."""

    def save(self) -> None:
        """Remember the state as it is."""
        raise NotImplementedError

    def restore(self) -> None:
        """Come back to the last commit."""
        raise NotImplementedError

    def sync(self) -> None:
        """Take over rank 0's state. Collective."""
        raise NotImplementedError

    def reset(self) -> None:
        """After a reset, before the state is synchronised."""


class ObjectState(State):
    """Python objects, given by name; they become attributes."""

    def __init__(self, bcast_object: Callable[[Any], Any], get_rank: Callable[[], int], **kwargs: Any) -> None:
        super().__init__(bcast_object, get_rank)
        self._saved_state = kwargs
        self._set_attrs()

    def save(self) -> None:
        """Remember the attributes as they are; what may be changed in place is copied."""
        self._saved_state = {name: copy.deepcopy(getattr(self, name)) for name in self._saved_state}

    def restore(self) -> None:
        """Come back to the last commit."""
        self._set_attrs()

    def sync(self) -> None:
        """Take over rank 0's last commit. Collective."""
        if self._saved_state:
            self._saved_state = self._bcast_object(self._saved_state)
            self._set_attrs()

    def _set_attrs(self) -> None:
        for name, value in self._saved_state.items():
            setattr(self, name, copy.deepcopy(value))


def run(func: Callable[..., Result]) -> Callable[..., Result]:
    """`func(state, …)`, begun with rank 0's state, and begun again from the last commit after a HorovodInternalError.

    Raises the error itself where the ranks cannot go on together: one was lost, or came too late.
    """

    @functools.wraps(func)
    def wrapper(state: State, *args: Any, **kwargs: Any) -> Result:
        while True:
            try:
                state.sync()
                return func(state, *args, **kwargs)
            except HorovodInternalError as error:
                if not _usable():
                    raise type(error)(f"{error}; {_LATER}") from error
                state.restore()
            except HostsUpdatedInterrupt as error:
                raise HpcdlError(f"the hosts of this job have changed; {_LATER}") from error
            state.on_reset()

    return wrapper


def _usable() -> bool:
    """Whether the ranks can still communicate."""
    found = job()
    return found is not None and found.usable()
