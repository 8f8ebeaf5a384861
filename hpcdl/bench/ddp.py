"""The peer of the overlap measurement: torch's DistributedDataParallel over gloo. The only place here that imports torch."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from importlib.util import find_spec
from itertools import pairwise
from time import perf_counter
from typing import Any

from ..launch.machine import cores

__all__ = ["DDP", "close", "join_gloo", "missing"]

_ADDRESS_OF = 0x8915  # ioctl SIOCGIFADDR


def missing(comm: Any) -> str:
    """Why it cannot be measured on these ranks; "" where it can. Collective."""
    here = find_spec("torch") is not None
    there = comm.allgather(here)
    return "" if all(there) else f"left out, torch is not installed on {there.count(False)} of {len(there)} ranks"


def join_gloo(comm: Any, nodes: int) -> None:
    """Start torch.distributed over gloo on the ranks of `comm`, with neither address nor port from the user. Collective.

    Rank 0 opens a store on a free port and tells where by MPI. Each rank gives gloo the interface on its route there: on one node the
    loopback, which always works; on several the names of the hosts must resolve to addresses that the others reach.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns where a host has no name server
    import torch.distributed as dist

    names = comm.allgather(socket.gethostname())
    address = _address(names) if comm.rank == 0 and nodes > 1 else "127.0.0.1"
    store = dist.TCPStore(address, 0, comm.size, is_master=True, wait_for_workers=False) if comm.rank == 0 else None
    address, port = comm.bcast((address, store.port) if store is not None else None)
    interface = _interface(address)
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if store is None:
        store = dist.TCPStore(address, port, comm.size, is_master=False)
    dist.init_process_group("gloo", store=store, rank=comm.rank, world_size=comm.size)


def _address(names: list[str]) -> str:
    """An address of this host that other hosts reach: the one on the route to the first other host."""
    other = next((name for name in names if name != names[0]), names[0])
    return _route(other)


def _route(address: str) -> str:
    """This host's own address on the way to `address`; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))
        return str(probe.getsockname()[0])


def _interface(address: str) -> str | None:
    """The interface that bears this host's address on the way to `address`."""
    wanted = _route(address)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                reply = fcntl.ioctl(probe.fileno(), _ADDRESS_OF, struct.pack("256s", name.encode()[:15]))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(reply[20:24]) == wanted:
                return name
    return None


class DDP:
    """The same MLP in torch, wrapped in DDP with the same size of buckets."""

    name = "torch DDP, gloo"

    def __init__(self, comm: Any, sizes: tuple[int, ...], bucket: int, local_size: int, nodes: int) -> None:
        join_gloo(comm, nodes)
        import torch
        from torch.nn.parallel import DistributedDataParallel

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", max(1, cores() // local_size))))
        self.torch, self.sizes = torch, sizes
        torch.manual_seed(0)
        layers = [layer for pair in pairwise(sizes) for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())][:-1]
        model = torch.nn.Sequential(*layers)
        self.model = DistributedDataParallel(model, bucket_cap_mb=bucket / (1 << 20), gradient_as_bucket_view=True)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-6)
        self.loss = torch.nn.MSELoss()
        elements = sum(parameter.numel() for parameter in self.model.parameters())
        self.buckets = [torch.zeros(min(bucket // 4, elements - begin)) for begin in range(0, elements, bucket // 4)]
        self.x = self.y = torch.empty(0)

    def prepare(self, batch: int) -> None:
        self.x, self.y = self.torch.randn(batch, self.sizes[0]), self.torch.randn(batch, self.sizes[-1])

    def backward(self) -> float:
        with self.model.no_sync():
            return self._pass()

    def compute(self) -> float:
        seconds = self.backward()
        self.optimizer.step()
        return seconds

    def communication(self) -> None:
        pending = [self.torch.distributed.all_reduce(bucket, async_op=True) for bucket in self.buckets]
        for work in pending:
            work.wait()

    def step(self) -> None:
        self._pass()
        self.optimizer.step()

    def _pass(self) -> float:
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.x), self.y)
        begin = perf_counter()
        loss.backward()
        return perf_counter() - begin


def close() -> None:
    """Leave gloo. Collective."""
    import torch.distributed as dist

    dist.destroy_process_group()
