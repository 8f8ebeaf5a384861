"""What the doctor runs on 2 ranks: ``python -m hpcdl.launch.probe mpi|selftest``. Rank 0 prints one line of JSON.

Apart, in its own processes: a broken MPI hangs or crashes here, not in the doctor.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ..transport.awareness import kinds

MARK = "hpcdl-probe:"


def main() -> None:
    """Run the part that is named on the command line."""
    parts = {"mpi": mpi, "selftest": selftest}
    rank, found = parts[sys.argv[1]]()
    if rank == 0:
        print(MARK + json.dumps(found), flush=True)


def mpi() -> tuple[int, dict[str, Any]]:
    """What the MPI library can do, seen through mpi4py."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    levels = {
        MPI.THREAD_SINGLE: "SINGLE",
        MPI.THREAD_FUNNELED: "FUNNELED",
        MPI.THREAD_SERIALIZED: "SERIALIZED",
        MPI.THREAD_MULTIPLE: "MULTIPLE",
    }
    found: dict[str, Any] = {"size": comm.size, "thread": levels.get(MPI.Query_thread(), "?"), "standard": MPI.Get_version()}
    comm.allreduce(1)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    found["on_node"] = node.size
    found["windows"] = _windows(MPI, node)
    found["aware"] = kinds()
    found["ulfm"] = _ulfm(MPI, comm)
    comm.Barrier()
    return comm.rank, found


def _windows(mpi4py: Any, node: Any) -> str:
    """Whether ranks of a node see each other's memory: "" or what went wrong."""
    try:
        window = mpi4py.Win.Allocate_shared(8, 1, comm=node)
        window.Lock_all()
        mine, _ = window.Shared_query(node.rank)
        mine[0:1] = bytes([node.rank + 1])
        window.Sync()
        node.Barrier()
        window.Sync()
        values = [window.Shared_query(rank)[0][0] for rank in range(node.size)]
        seen = [value if isinstance(value, int) else value[0] for value in values]
        window.Unlock_all()
        node.Barrier()
        window.Free()
        return "" if seen == list(range(1, node.size + 1)) else f"wrong values {seen}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def _ulfm(mpi4py: Any, comm: Any) -> bool:
    """Whether a communicator can be revoked, the first step to go on without a dead rank."""
    copy = comm.Dup()
    copy.Set_errhandler(mpi4py.ERRORS_RETURN)
    try:
        copy.Revoke()
        return bool(copy.Is_revoked())
    except (NotImplementedError, AttributeError, mpi4py.Exception):
        return False


def selftest() -> tuple[int, dict[str, Any]]:
    """A sum over the ranks with hpcdl itself, checked, and timed roughly."""
    import numpy as np

    from hpcdl.start import init

    world = init()
    count = 1 << 20
    x = np.arange(count, dtype=np.float32) % 1024 + world.rank
    expected = world.size * (np.arange(count, dtype=np.float32) % 1024) + world.size * (world.size - 1) / 2
    world.allreduce(x.copy(), op="sum")
    world.barrier()
    begin = time.perf_counter()
    world.allreduce(x, op="sum")
    seconds = time.perf_counter() - begin
    wrong = int((x != expected).sum())
    return world.rank, {
        "size": world.size,
        "wrong": wrong,
        "count": count,
        "seconds": seconds,
        "device": str(world.device),
        "nodes": world.nodes,
        "plan": world.plan.to_lists(),
        "costs": world.costs.to_json(),
    }


if __name__ == "__main__":
    main()
