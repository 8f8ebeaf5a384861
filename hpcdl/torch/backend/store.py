"""The store that torch.distributed wants: opened by rank 0, told to the others over MPI."""

from __future__ import annotations

import socket
from datetime import timedelta

import numpy as np
from torch.distributed import HashStore, Store, TCPStore

from ...transport.sockets import addresses
from ...world import World

__all__ = ["make_store"]

_TEXT = 1024  # bytes in which rank 0 tells its addresses
_PATIENCE = 3.0  # seconds for a connection to be there


def make_store(world: World, timeout: timedelta) -> Store:
    """A store that all ranks share, without an address or a port from the user. Collective.

    This backend needs none; others beside it do, such as ``dist.new_group(backend="gloo")``. Where the ranks cannot reach rank 0 by TCP,
    each gets one of its own, and only those others fail.
    """
    if world.size == 1:
        return HashStore()
    store: Store | None = None
    told = np.zeros(_TEXT, np.uint8)
    if world.rank == 0:
        store = _open("localhost", 0, world.size, timeout)
        text = f"{store.port} {' '.join(addresses())}".encode() if isinstance(store, TCPStore) else b"0"
        told[: len(text)] = np.frombuffer(text[:_TEXT], np.uint8)
    port, *names = world.broadcast(told).tobytes().rstrip(b"\0").decode().split()
    if world.rank and port != "0":
        near = ["localhost"] if world.node == 0 else []
        address = next((address for address in [*near, *names] if _answers(address, int(port))), None)
        store = _open(address, int(port), world.size, timeout) if address else None
    everybody = world.allreduce(np.array([store is not None], np.int32), "min")
    return store if store is not None and everybody[0] else HashStore()


def _open(address: str, port: int, size: int, timeout: timedelta) -> TCPStore | None:
    try:
        return TCPStore(address, port, size, is_master=port == 0, timeout=timeout, wait_for_workers=False)
    except RuntimeError:  # torch's errors of the network are that
        return None


def _answers(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), _PATIENCE).close()
    except OSError:
        return False
    return True
