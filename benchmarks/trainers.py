"""One rank of `train_torch.py`: the same network trained in several ways, timed on command. Not started by hand.

A job plays one of two roles. `together`: whatever coexists in one process, since it does nothing while it is not called: `hpcdl.torch`, DDP
over gloo, DDP over hpcdl's backend, and the step without communication. `horovod`: Horovod alone, whose thread wakes in every cycle.

How a rank is started and told what to time: job.py.
"""

from __future__ import annotations

import gc
import math
import re
import sys
import zlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, NamedTuple

import torch
from job import serve
from networks import NETWORKS, Network
from torch import nn

from hpcdl.bench.record import versions
from hpcdl.launch.mpiexec import recognise

WARM = 3  # steps before anything is timed: connections, and DDP arranges its buckets anew after the first

Made = tuple[nn.Module, torch.optim.Optimizer]
Make = Callable[[Network, nn.Module, int], Made]  # network, bare module, bytes of a bucket -> wrapped module, optimizer


class Way(NamedTuple):
    """How gradients are reduced. `family`: alone, door 1, door 2, or peer; `wire`: none, fp16 or int8."""

    family: str
    wire: str
    make: Make


class Together:
    """What lives side by side in one process."""

    def __init__(self) -> None:
        import torch.distributed as dist

        import hpcdl.torch as ht
        from hpcdl.bench.ddp import join_gloo

        self.world = ht.init()
        from mpi4py import MPI

        self.mpi, self.comm, self.nodes = MPI, MPI.COMM_WORLD, self.world.nodes
        self.missing = {} if find_spec("horovod") else {"Horovod": "horovod is not installed"}
        join_gloo(self.comm, self.nodes)
        self.dist, gloo = dist, dist.group.WORLD
        self.ways = {
            "no communication": Way("alone", "none", _alone),
            "door 1": Way("door 1", "none", partial(_door_1, None)),
            "door 1, fp16": Way("door 1", "fp16", partial(_door_1, "fp16")),
            "door 1, int8": Way("door 1", "int8", partial(_door_1, "int8")),
            "DDP over gloo": Way("peer", "none", partial(_ddp, gloo, None)),
            "DDP over gloo, default buckets": Way("peer", "none", partial(_ddp, gloo, None, default=True)),
            "DDP over gloo, fp16 hook": Way("peer", "fp16", partial(_ddp, gloo, _fp16_hook)),
        }
        if hasattr(ht, "init_process_group"):
            ours = dist.new_group(backend="hpcdl")
            self.ways["DDP over hpcdl"] = Way("door 2", "none", partial(_ddp, ours, None))
            if hasattr(ht, "comm_hook"):
                hook = partial(_our_hook, ht.comm_hook)
                self.ways["DDP over hpcdl, fp16 hook"] = Way("door 2", "fp16", partial(_ddp, ours, hook))
        else:
            self.missing["DDP over hpcdl"] = "this version has no backend for torch.distributed"

    def settle(self) -> None:
        """All ranks are here."""
        self.comm.Barrier()

    def end(self) -> None:
        """Leave in good order."""
        self.dist.destroy_process_group()


class Horovod:
    """Horovod by itself, on MPI."""

    def __init__(self) -> None:
        import horovod.torch as hvd

        hvd.init()
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False  # Horovod has started MPI and ends it
        from mpi4py import MPI

        self.hvd, self.mpi, self.comm = hvd, MPI, MPI.COMM_WORLD
        if hvd.size() != self.comm.size:
            sys.exit(f"Horovod has a world of {hvd.size()}, MPI one of {self.comm.size}: it was built with another MPI library")
        self.nodes = hvd.cross_size()
        self.missing: dict[str, str] = {}
        self.ways = {
            "Horovod": Way("peer", "none", partial(horovod, hvd, "none")),
            "Horovod, fp16": Way("peer", "fp16", partial(horovod, hvd, "fp16")),
        }

    def settle(self) -> None:
        """All ranks are here."""
        self.comm.Barrier()

    def end(self) -> None:
        """Leave in good order."""
        self.hvd.shutdown()


def _alone(network: Network, module: nn.Module, bucket: int) -> Made:
    del bucket
    return module, network.optimizer(module)


def _door_1(codec: str | None, network: Network, module: nn.Module, bucket: int) -> Made:
    import hpcdl.torch as ht

    model = ht.DistributedDataParallel(module, codec, bucket_bytes=bucket)
    return model, network.optimizer(model)


def _ddp(group: Any, hook: Callable[[Any], None] | None, network: Network, module: nn.Module, bucket: int, default: bool = False) -> Made:
    """torch's own at its best: gradients are views of buckets."""
    size = None if default else bucket / (1 << 20)
    model = nn.parallel.DistributedDataParallel(module, process_group=group, bucket_cap_mb=size, gradient_as_bucket_view=True)
    if hook is not None:
        hook(model)
    return model, network.optimizer(model)


def _fp16_hook(model: Any) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model.register_comm_hook(None, fp16_compress_hook)


def _our_hook(make: Callable[[str], Any], model: Any) -> None:
    """`hpcdl.torch.comm_hook`, which knows the group that it works on from its state."""
    model.register_comm_hook(model.process_group, make("fp16"))


_count = iter(range(sys.maxsize))


def horovod(hvd: Any, wire: str, network: Network, module: nn.Module, bucket: int) -> Made:
    """By Horovod's interface, whoever gives it. Names are told apart by a number: Horovod remembers what has been agreed on by name."""
    del bucket  # it fuses what is ready in a cycle
    hvd.broadcast_parameters(module.state_dict(), root_rank=0)
    number = next(_count)
    named = [(f"{number}.{name}", p) for name, p in module.named_parameters()]
    return module, hvd.DistributedOptimizer(network.optimizer(module), named, getattr(hvd.Compression, wire))


class Trainer:
    """One network, trained in one way."""

    def __init__(self, comm: Any, network: Network, make: Make, bucket: int) -> None:
        self.bare = network.build()
        self.model, self.optimizer = make(network, self.bare, bucket)
        self.network, self.batch = network, network.part(comm.rank, comm.size)

    def step(self) -> None:
        """What is timed."""
        self.optimizer.zero_grad()
        self.network.loss(self.model, self.batch).backward()
        self.optimizer.step()

    def norm(self) -> float:
        """Euclidean norm of the gradient, as the optimizer has seen it."""
        return math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.bare.parameters() if p.grad is not None))

    def digest(self) -> int:
        """The same where the parameters are bitwise equal."""
        found = 0
        for p in self.bare.parameters():
            found = zlib.crc32(p.detach().numpy(), found)
        return found

    def close(self) -> None:
        """Give back what is not freed with the last reference."""
        if hasattr(self.model, "close"):
            self.model.close()


class Timer:
    """What the driver asks for."""

    def __init__(self, side: Together | Horovod) -> None:
        self.side = side
        self.trainers: dict[str, Trainer] = {}

    def prepare(self, network: str, bucket: int) -> dict[str, Any]:
        """Make all trainers of a network, and take the first steps. For each way: what it is, and what shows that it does its work."""
        found = {}
        for name, way in self.side.ways.items():
            self.trainers[name] = trainer = Trainer(self.side.comm, NETWORKS[network], way.make, bucket)
            trainer.step()
            norm = trainer.norm()
            for _ in range(WARM - 1):
                trainer.step()
            found[name] = {"family": way.family, "wire": way.wire, "gradient": norm, "digest": trainer.digest()}
        return found

    def time(self, steps: int, number: int) -> dict[str, tuple[float, float]]:
        """Seconds and CPU seconds of this rank per step, by way: `steps` in a row of each; way `number` begins.

        Where steps are short, one before them is not counted: it finds the caches as another way has left them.
        """
        found = {}
        names = list(self.trainers)
        for place in range(len(names)):
            name = names[(number + place) % len(names)]
            step = self.trainers[name].step
            if steps > 1:
                step()
            self.side.settle()
            cpu, begin = process_time(), perf_counter()
            for _ in range(steps):
                step()
            found[name] = ((perf_counter() - begin) / steps, (process_time() - cpu) / steps)
        return found

    def drop(self) -> None:
        """End all trainers."""
        for trainer in self.trainers.values():
            trainer.close()
        self.trainers.clear()
        gc.collect()

    def memory(self, name: str, network: str, bucket: int) -> tuple[int, int] | None:
        """Bytes by which training in this way lets this process grow, parameters included: at most, and at most in a later step.

        For a process that has done nothing yet. Shared memory counts in parts: a page that four processes use, a fourth. What is loaded or
        opened once does not count: a small network is trained in this way before, and the network itself without communication. None
        where the system does not tell.
        """
        way = self.side.ways[name]
        small = Trainer(self.side.comm, NETWORKS["digits"], way.make, bucket)
        for trainer in (small, Trainer(self.side.comm, NETWORKS[network], _alone, bucket)):
            for _ in range(WARM):
                trainer.step()
        del trainer
        gc.collect()
        _peak(self.side.settle)
        before = _peak(self.side.settle)  # nothing has happened since: what is held now
        grown = Trainer(self.side.comm, NETWORKS[network], way.make, bucket)
        peaks: list[int] = []
        for _ in range(WARM + 2):
            grown.step()
            peaks.append(_peak(self.side.settle) or 0)
        return None if before is None else (max(peaks) - before, peaks[-1] - before)


def _peak(settle: Callable[[], None]) -> int | None:
    """The most bytes that this process has held since the last call."""
    settle()
    try:
        status, shared = Path("/proc/self/status").read_text(), Path("/proc/self/smaps_rollup").read_text()
        most, mapped, part = (_kib(text, key) for text, key in ((status, "VmHWM"), (status, "RssShmem"), (shared, "Pss_Shmem")))
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    except (OSError, LookupError):
        return None
    finally:
        settle()  # what is shared by how many is read while all are there
    return (most - mapped + part) << 10


def _kib(text: str, key: str) -> int:
    match = re.search(rf"^{key}:\s+(\d+) kB$", text, re.MULTILINE)
    if match is None:
        raise LookupError(key)
    return int(match[1])


def main() -> None:
    """`trainers.py ROLE SOCKET`."""
    role, path = sys.argv[1:3]
    torch.set_num_threads(1)
    side = Together() if role == "together" else Horovod()
    timer = Timer(side)
    library = str(recognise(side.mpi.Get_library_version()))
    hello = {"rank": side.comm.rank, "nodes": side.nodes, "versions": versions(library, ["torch", "horovod"]), "missing": side.missing}
    ways = {name: way.wire for name, way in side.ways.items()}
    serve(path, {**hello, "ways": ways}, {name: getattr(timer, name) for name in ("prepare", "time", "drop", "memory")})
    timer.drop()
    side.end()


if __name__ == "__main__":
    main()
