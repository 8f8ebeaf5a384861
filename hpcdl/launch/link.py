"""The network, where the doctor itself runs on several nodes: ``mpirun -n 2 --host a,b hpcdl doctor``; and the plan for these ranks."""

from __future__ import annotations

import statistics
import time
from typing import Any

from ..collectives.costs import Layout
from .env import Place, check_world
from .facts import Row
from .plan_facts import plan_rows

__all__ = ["measure"]

TOPIC = "network"
_LARGE = 4 << 20  # bytes
_SECONDS = 2.0  # per measurement at most


def measure(here: Place) -> list[Row]:
    """Ping-pong between the first ranks of the first two nodes, and the plan. Collective; the rows are rank 0's. Ends MPI."""
    from mpi4py import MPI

    from ..start import init

    comm = MPI.COMM_WORLD
    check_world(comm.size, comm.rank, MPI.Get_library_version().strip("\0").splitlines()[0])
    nodes: dict[str, int] = {}
    for rank, name in enumerate(comm.allgather(MPI.Get_processor_name())):
        nodes.setdefault(name, rank)
    rows = [Row(TOPIC, "nodes", f"{len(nodes)}: {', '.join(nodes)}; {here.size} ranks")]
    if len(nodes) > 1:
        names, ends = list(nodes)[:2], list(nodes.values())[:2]
        latency, bandwidth = _ping_pong(comm, ends, 8, 1000), _ping_pong(comm, ends, _LARGE, 50)
        if comm.rank == 0:
            found = f"latency {latency * 1e6:.1f} us, bandwidth {_LARGE / bandwidth / 1e6:,.1f} MB/s"
            rows.append(Row(TOPIC, f"{names[0]} - {names[1]}", found))
    comm.Barrier()
    world = init()
    if comm.rank == 0:
        rows += plan_rows(world.plan, world.costs, Layout(world.costs.nodes))
    MPI.Finalize()
    return rows


def _ping_pong(comm: Any, ends: list[int], nbytes: int, times: int) -> float:
    """Seconds for one way of a message of `nbytes` bytes, the median; known on rank 0."""
    seconds, message = 0.0, bytearray(nbytes)
    if comm.rank == ends[0]:
        samples: list[float] = []
        begin = time.perf_counter()
        while not message[0]:
            start = time.perf_counter()
            message[0] = len(samples) >= times or start - begin > _SECONDS  # tells the other end that this is the last one
            comm.Send(message, ends[1], 1)
            comm.Recv(message, ends[1], 1)
            samples.append((time.perf_counter() - start) / 2)
        seconds = statistics.median(samples[len(samples) // 10 :])
    elif comm.rank == ends[1]:
        while not message[0]:
            comm.Recv(message, ends[0], 1)
            comm.Send(message, ends[0], 1)
    return float(comm.bcast(seconds, root=ends[0]))
