"""One rank of `versus.py`: hpcdl and its peers, timed on command. Not started by hand.

A job plays one of two roles. `together`: MPI.Allreduce, torch gloo and hpcdl, which coexist in one process: they do nothing while they are
not called. `horovod`: Horovod alone, because its thread wakes in every cycle, called or not, and its cycle time is fixed at its start.

How a rank is started and told what to time: job.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from job import serve
from numpy.typing import NDArray

import hpcdl
from hpcdl.bench.record import versions
from hpcdl.bench.timing import one_round
from hpcdl.launch.mpiexec import recognise

SMALL = 1 << 16  # asynchronous calls are timed up to here
IN_A_ROW = 50  # calls of small arrays

Floats = NDArray[np.float32]
Actions = dict[str, tuple[Callable[[], Any], Floats]]  # what is called, and the array that is filled before


class Together:
    """MPI, gloo and hpcdl on the same arrays."""

    def __init__(self, folder: Path) -> None:
        self.world = hpcdl.init()
        from mpi4py import MPI

        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        self.missing = {} if hasattr(self.world, "buffer") else {"hpcdl bucket": "this version has no world.buffer"}
        self.missing |= {} if find_spec("horovod") else {"Horovod": "horovod is not installed"}
        self.torch: Any = None
        if not find_spec("torch"):
            self.missing |= {"torch gloo": "torch is not installed", "Horovod": "torch, which it is measured with, is not installed"}
            return
        import torch
        import torch.distributed as dist

        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.FileStore(str(folder / "gloo"), self.comm.size)
        dist.init_process_group("gloo", store=store, rank=self.comm.rank, world_size=self.comm.size)
        self.torch = torch

    def actions(self, nbytes: int) -> Actions:
        """Everything that is timed at this size, on fresh arrays."""
        world, comm, mpi = self.world, self.comm, self.mpi
        own, copied = np.empty(nbytes // 4, np.float32), np.empty(nbytes // 4, np.float32)
        found: Actions = {
            "copy": (lambda: np.copyto(copied, own), own),
            "MPI.Allreduce": (lambda: comm.Allreduce(mpi.IN_PLACE, own, mpi.SUM), own),
            "hpcdl own": (lambda: world.allreduce(own), own),
        }
        if hasattr(world, "buffer"):
            bucket = world.buffer(own.shape, own.dtype)
            found["hpcdl bucket"] = (lambda: world.allreduce(bucket), bucket)
        if nbytes <= SMALL:
            found["hpcdl async"] = (lambda: world.allreduce_async(own).wait(), own)
            found["MPI.Iallreduce"] = (lambda: comm.Iallreduce(mpi.IN_PLACE, own, mpi.SUM).Wait(), own)
        if self.torch is not None:
            tensor = self.torch.from_numpy(own)
            found["torch gloo"] = (lambda: self.torch.distributed.all_reduce(tensor), own)
        return found

    def end(self) -> None:
        """Leave in good order."""
        if self.torch is not None:
            self.torch.distributed.destroy_process_group()


class Horovod:
    """Horovod by itself, on MPI."""

    def __init__(self, folder: Path) -> None:
        import horovod.torch as hvd
        import torch

        self.missing: dict[str, str] = {}
        self.hvd, self.torch = hvd, torch
        hvd.init()
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False  # Horovod has started MPI and ends it
        from mpi4py import MPI

        self.mpi, self.comm = MPI, MPI.COMM_WORLD
        if hvd.size() != self.comm.size:
            sys.exit(f"Horovod has a world of {hvd.size()}, MPI one of {self.comm.size}: it was built with another MPI library")

    def actions(self, nbytes: int) -> Actions:
        """Its all-reduce in place; always by the same name, so that it is negotiated once."""
        own = np.empty(nbytes // 4, np.float32)
        tensor = self.torch.from_numpy(own)
        return {"Horovod": (lambda: self.hvd.allreduce_(tensor, op=self.hvd.Sum, name=f"{nbytes} bytes"), own)}

    def end(self) -> None:
        """Leave in good order."""
        self.hvd.shutdown()


def timed(side: Together | Horovod, nbytes: int, repeat: int) -> dict[str, list[float]]:
    """Seconds of each action on this rank: fill the array anew, barrier, call; once more than told, and the first is not counted.

    Small arrays are called many times in a row, as OSU's benchmarks do, and are zeros, which stay zeros: what is called once after
    something else tells of caches and of the scheduler, not of the call.
    """
    found = side.actions(nbytes)
    times = IN_A_ROW if nbytes <= SMALL else 1
    source = np.random.default_rng(side.comm.rank).standard_normal(nbytes // 4, np.float32) * np.float32(0.01 if times == 1 else 0)

    def again(call: Callable[[], Any]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(times):
                call()

        return calls

    calls = {name: again(call) for name, (call, _) in found.items()}
    rows = [one_round(calls, side.comm.Barrier, lambda name: np.copyto(found[name][1], source), number) for number in range(repeat + 1)]
    return {name: [row[i] / times for row in rows[1:]] for i, name in enumerate(found)}


def main() -> None:
    """`peers.py ROLE SOCKET`."""
    role, path = sys.argv[1], Path(sys.argv[2])
    side = Together(path.parent) if role == "together" else Horovod(path.parent)
    library = str(recognise(side.mpi.Get_library_version()))
    hello = {"rank": side.comm.rank, "versions": versions(library, ["torch", "horovod"]), "missing": side.missing}
    serve(str(path), hello, {"time": lambda nbytes, repeat: timed(side, nbytes, repeat)})
    side.end()


if __name__ == "__main__":
    main()
