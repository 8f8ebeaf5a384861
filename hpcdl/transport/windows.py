"""Memory that the ranks of a node share, through MPI; and which ranks are on which node. Used by `mpi` only."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from ..arrays import Array
from .base import Pending, Window, renumber
from .keep import keep

__all__ = ["allocate", "free_all", "nodes_of"]

_FOLDER = "/dev/shm"  # where MPI libraries on Linux keep such memory
#: Windows that were not freed, oldest first: the same order on all ranks that share one, since making one is collective.
_open: list[_Window] = []
_made: Counter[tuple[int, ...]] = Counter()  # windows so far, by the world ranks that share them
_SPARE = 16 << 20  # bytes to leave there: a page that is touched where none is left ends the process (SIGBUS)


def nodes_of(comm: Any) -> tuple[int, ...]:
    """The node of each rank of `comm`, numbered in the order of their first ranks. Collective.

    ``HPCDL_NODES=k`` (rank 0's environment) makes k equal runs of ranks behave as if each were a node: to try on one machine what is
    meant for several.
    """
    pretended = comm.bcast(os.environ.get("HPCDL_NODES", ""))
    if pretended.isdigit() and int(pretended):
        return renumber(rank * int(pretended) // comm.Get_size() for rank in range(comm.Get_size()))
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.Get_rank())
    first = node.bcast(comm.Get_rank())
    node.Free()
    return renumber(comm.allgather(first))


class _Memory:
    """One rank's part, as NumPy sees it. Arrays made from it keep it alive, which tells whether the window may go."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.__array_interface__ = {"data": (address, False), "shape": (nbytes,), "typestr": "|u1", "version": 3}


class _Window:
    """One window of MPI."""

    def __init__(self, comm: Any, win: Any, nbytes: int) -> None:
        self.comm, self._win = comm, win
        self.ranks = _world_ranks(comm)
        _made[self.ranks] += 1
        #: Which window it is, the same number on all its ranks.
        self.identity = int.from_bytes(hashlib.blake2b(repr((self.ranks, _made[self.ranks])).encode(), digest_size=7).digest(), "little")
        self._left = False
        win.Lock_all(MPI.MODE_NOCHECK)  # the epoch in which Sync may be called (MPI 4.1, sec. 12.5.3)
        memories = [_Memory(win.Shared_query(rank)[0].address, nbytes) for rank in range(comm.Get_size())]
        self._held = [weakref.ref(memory) for memory in memories]
        self.parts: tuple[Array, ...] = tuple(np.asarray(memory) for memory in memories)
        self.parts[comm.Get_rank()][:] = 0  # touched while there is room for it; by its owner, so that it lies in memory near to it
        self.sync = win.Sync
        comm.Barrier()
        _open.append(self)

    def leave(self) -> None:
        self.parts, self._left = (), True

    @property
    def idle(self) -> bool:
        """Whether this rank has left it, and nothing here looks at it any more."""
        return self._left and not self._in_use()

    def close(self) -> Pending:
        self.parts = ()
        return _Closing(self, self._in_use())

    def _in_use(self) -> bool:
        return any(held() is not None for held in self._held)

    def keep(self) -> Callable[[], None]:
        """What puts this rank's part back, once it is gone, if anybody holds it."""
        mine = self._held[self.comm.Get_rank()]()
        return keep(mine.address, mine.nbytes) if mine is not None else lambda: None

    def free(self) -> None:
        """Give it back. Waits for the other ranks of the node."""
        _open.remove(self)
        self._win.Unlock_all()
        self._win.Free()
        self.comm.Free()


class _Closing:
    """The ranks of a node agree that nobody uses a window any more.

    Why not just Win.Free: it waits for the other ranks, and one that is in trouble needs an answer first.
    """

    source = -1
    nbytes = 0

    def __init__(self, window: _Window, in_use: bool) -> None:
        self._window = window
        self._users = np.array([in_use], np.int32)
        self._asked = window.comm.Iallreduce(MPI.IN_PLACE, self._users, MPI.SUM)

    def done(self) -> bool:
        if self._asked is None:
            return True
        if not self._asked.Test():
            return False
        self._asked = None
        if self._users[0]:
            self._window.leave()
        else:
            self._window.free()
        return True

    def cancel(self) -> None:
        """Nothing to give up: a collective call cannot be cancelled (MPI 4.1, sec. 6.12)."""


def allocate(comm: Any, node: int, nbytes: int) -> Window | None:
    """See `Transport.window`. `node` is the number of this rank's node."""
    neighbours = comm.Split(node, comm.Get_rank())
    size = neighbours.Get_size()
    _free_idle(neighbours)
    enough = np.array([nbytes > 0 and _room() > size * nbytes + _SPARE], np.int32)
    comm.Allreduce(MPI.IN_PLACE, enough, MPI.LAND)  # not mpi4py's allreduce of objects, which takes a communicator more for good
    if not enough[0]:
        neighbours.Free()
        return None
    info = MPI.Info.Create()
    info.Set("alloc_shared_noncontig", "true")
    win = MPI.Win.Allocate_shared(nbytes, 1, info, neighbours)
    info.Free()
    return _Window(neighbours, win, nbytes)  # MPI may give more than was asked for


def _free_idle(neighbours: Any) -> None:
    """Give back the windows that all their ranks have left, where all of these are among `neighbours`. Collective over these.

    Why only when another window is made: to give one back waits for its ranks, which are at one place at the same time only here.
    """
    idle = {window.identity: window for window in _open if window.idle}
    most = np.array([len(idle)], np.int64)
    neighbours.Allreduce(MPI.IN_PLACE, most, MPI.MAX)
    if not most[0]:
        return
    mine, everyone = np.zeros(most[0], np.int64), np.zeros((neighbours.Get_size(), most[0]), np.int64)
    mine[: len(idle)] = list(idle)
    neighbours.Allgather(mine, everyone)
    told = dict(zip(_world_ranks(neighbours), map(set, everyone.tolist()), strict=True))
    for identity in sorted(idle):  # in one order on all ranks
        window = idle[identity]
        if all(identity in told.get(rank, ()) for rank in window.ranks):
            window.free()


def _world_ranks(comm: Any) -> tuple[int, ...]:
    ranks = list(range(comm.Get_size()))
    return tuple(MPI.Group.Translate_ranks(comm.Get_group(), ranks, MPI.COMM_WORLD.Get_group()))


def free_all() -> None:
    """Give back all memory, once all ranks have come to their end. Arrays that somebody still holds keep their values.

    Why not leave it to MPI_Finalize: Open MPI 5 frees windows there one after the other, waiting for all ranks of each, in an order that
    may be another on each rank.
    """
    for window in tuple(_open):
        put_back = window.keep()
        window.free()
        put_back()


def _room() -> float:
    """Bytes that shared memory may still grow by, as far as can be told."""
    try:
        found = os.statvfs(_FOLDER)
    except OSError:
        return float("inf")
    return float(found.f_bavail * found.f_frsize)
