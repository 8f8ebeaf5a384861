"""What each rank of `gpu.py` does: all-reduces of device memory, or steps of a GPT. Rank 0 writes what was measured into a file.

hpcdl run -n 2 benchmarks/gpu_ranks.py answer.json allreduce 50 1048576
hpcdl run -n 2 benchmarks/gpu_ranks.py answer.json gpt 30 cuda
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hpcdl.arrays.gpu import Gpu
from hpcdl.bench.record import summary
from hpcdl.bench.timing import one_round, slowest
from hpcdl.start import init
from hpcdl.world import World

CODECS = ("none", "fp16", "int8")
Row = dict[str, Any]


def allreduces(world: World, repeat: int, sizes: list[int]) -> list[Row]:
    """Each size with each codec, beside MPI's own staged by hand, and NCCL where each rank has a GPU of its own. All in turn."""
    from mpi4py import MPI

    from hpcdl import device_path

    rows: list[Row] = []
    with Gpu(world.local_rank) as gpu:
        xp = gpu.xp
        for nbytes in sizes:
            x = xp.ones(nbytes // 4, "f4")
            host = np.frombuffer(xp.cuda.alloc_pinned_memory(nbytes), "f4", count=nbytes // 4)
            todo: dict[str, Callable[[], Any]] = {f"hpcdl {codec}": _ours(world, x, codec) for codec in CODECS}
            todo["MPI.Allreduce staged by hand"] = _by_hand(MPI.COMM_WORLD, x, host, xp)
            if world.local_size <= gpu.count and world.nodes == 1:
                todo["NCCL"] = _nccl(MPI.COMM_WORLD, x, xp)
            calls = {name: _finished(call, xp) for name, call in todo.items()}
            for call in calls.values():
                call()
            seconds = slowest(MPI.COMM_WORLD, np.array([one_round(calls, world.barrier, first=number) for number in range(repeat)]))
            path = device_path.now(world)
            for name, each in zip(calls, seconds.T, strict=True):
                took = path if name.startswith("hpcdl") else "-"
                rows.append({"ranks": world.size, "who": name, "path": took, "bytes": nbytes, "seconds": summary(each.tolist())})
    return rows


def _finished(call: Callable[[], Any], xp: Any) -> Callable[[], None]:
    def run() -> None:
        call()
        xp.cuda.get_current_stream().synchronize()

    return run


def _ours(world: World, x: Any, codec: str) -> Callable[[], Any]:
    return lambda: world.allreduce(x, "mean", codec)


def _by_hand(comm: Any, x: Any, host: Any, xp: Any) -> Callable[[], Any]:
    """What one writes without a library: down, all-reduce, up; through pinned memory."""
    from mpi4py import MPI

    def run() -> None:
        stream = xp.cuda.get_current_stream()
        x.get(stream=stream, out=host, blocking=True)
        comm.Allreduce(MPI.IN_PLACE, host)
        host[:] *= np.float32(1 / comm.size)
        x.set(host, stream=stream)

    return run


def _nccl(comm: Any, x: Any, xp: Any) -> Callable[[], Any]:
    from cupy.cuda import nccl

    made = nccl.NcclCommunicator(comm.size, comm.bcast(nccl.get_unique_id()), comm.rank)

    def run() -> None:
        made.allReduce(x.data.ptr, x.data.ptr, x.size, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, xp.cuda.get_current_stream().ptr)
        x.__imul__(np.float32(1 / comm.size))

    return run


def gpt(steps: int, device: str) -> list[Row]:
    """Steps of a GPT of 25 million parameters, with each codec."""
    import torch
    from networks import GPT
    from torch.nn import functional

    import hpcdl.torch as ht

    world = ht.init()
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch has no CUDA here")
    place = world.device if device == "cuda" else "cpu"
    rows = []
    for codec in CODECS:
        torch.manual_seed(0)
        model = ht.DDP(GPT(layers=8, width=512, heads=8, length=256).to(place), codec)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        torch.manual_seed(1 + world.rank)
        text = torch.randint(256, (8, 257)).to(place)
        seconds, loss = [], torch.zeros(())
        for step in range(steps + 3):
            world.barrier()
            begin = perf_counter()
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(text[:, :-1]).flatten(0, -2), text[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            if step >= 3:  # the first ones make buckets and compile
                seconds.append(perf_counter() - begin)
        model.check_replicas()
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        last = float(loss.detach())
        rows.append({"ranks": world.size, "device": name, "codec": codec, "seconds": summary(seconds), "loss": last})
        model.close()
    return rows


def main() -> None:
    """``FILE allreduce REPEAT SIZE…`` or ``FILE gpt STEPS DEVICE``."""
    path, part, number, *rest = sys.argv[1:]
    if part == "gpt":
        rows = gpt(int(number), rest[0])
        world = init()
    else:
        import cupy  # noqa: F401  (before the world, which then knows its device)

        world = init()
        rows = allreduces(world, int(number), [int(size) for size in rest])
    if world.rank == 0:
        Path(path).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
