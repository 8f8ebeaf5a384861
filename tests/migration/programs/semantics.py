"""One list of calls, for the real Horovod and for this package under its name; each rank tells what each call gave."""

from __future__ import annotations

import json
import os
from typing import Any

import horovod.torch as hvd
import torch

hvd.init()
RANK, SIZE = hvd.rank(), hvd.size()
DTYPES = (torch.float16, torch.float32, torch.float64, torch.int32, torch.int64)


def told(x: Any) -> Any:
    """A result as JSON takes it."""
    if isinstance(x, torch.Tensor):
        values = x.double() if x.dtype.is_floating_point else x
        return [str(x.dtype), list(x.shape), [round(v, 5) if isinstance(v, float) else v for v in values.flatten().tolist()]]
    if isinstance(x, (list, tuple)):
        return [told(one) for one in x]
    return x if isinstance(x, (int, float, str, bool, type(None))) else type(x).__name__


def call(name: str, function: Any, /, *arguments: Any, **named: Any) -> None:
    """Its result, or the built-in kind of its error."""
    try:
        found = told(function(*arguments, **named))
    except hvd.HorovodInternalError:
        found = "HorovodInternalError"
    except (ValueError, NotImplementedError) as error:
        found = "ValueError" if isinstance(error, ValueError) else "NotImplementedError"
    os.write(1, f"\n@{json.dumps([name, RANK, found])}\n".encode())


def numbers(n: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.arange(n) * 3 - 4 + RANK).to(dtype)


for op in ("Average", "Sum", "Min", "Max", "Product"):
    for dtype in DTYPES:
        for scales in ((1.0, 1.0), (0.5, 3.0)):
            how = {"op": getattr(hvd, op), "prescale_factor": scales[0], "postscale_factor": scales[1]}
            call(f"allreduce {op} {dtype} {scales}", hvd.allreduce, numbers(5, dtype), name="x", **how)
    call(f"grouped {op}", hvd.grouped_allreduce, [numbers(3), numbers(4, torch.float64)], name="g", op=getattr(hvd, op))
call("default", lambda: hvd.allreduce(numbers(3)))
call("average", lambda: hvd.allreduce(numbers(3), average=False))
call("average and op", lambda: hvd.allreduce(numbers(3), average=False, op=hvd.Sum))
call("scalar", lambda: hvd.allreduce(torch.tensor(2.5 + RANK)))
call("empty", lambda: hvd.allreduce(torch.zeros(0)))
call("fp16", lambda: hvd.allreduce(numbers(4), compression=hvd.Compression.fp16))
call("adasum", lambda: hvd.allreduce(torch.tensor([1.0 + RANK, 2.0, -RANK]), op=hvd.Adasum))
call("adasum of integers", lambda: hvd.allreduce(numbers(3, torch.int32), op=hvd.Adasum))
call("allgather", lambda: hvd.allgather(torch.full((RANK + 1, 2), RANK)))
call("allgather of nothing", lambda: hvd.allgather(torch.zeros(0, 2)))
call("grouped allgather", lambda: hvd.grouped_allgather([numbers(2), torch.full((RANK, 1), 7)]))
call("broadcast", lambda: hvd.broadcast(numbers(3), 1))
call("broadcast of a scalar", lambda: hvd.broadcast(torch.tensor(RANK), 1))
call("broadcast from nobody", lambda: hvd.broadcast(numbers(3), 17))
call("alltoall", lambda: hvd.alltoall(torch.arange(2 * SIZE) + 10 * RANK))
call("alltoall with splits", lambda: hvd.alltoall(torch.arange(SIZE * (SIZE + 1) // 2), splits=list(range(1, SIZE + 1))))
call("alltoall that does not divide", lambda: hvd.alltoall(torch.arange(2 * SIZE + 1)))
call("alltoall with too much", lambda: hvd.alltoall(torch.arange(2), splits=[5] * SIZE))
call("reducescatter", lambda: hvd.reducescatter(numbers(2 * SIZE + 1)))
call("reducescatter of rows", lambda: hvd.reducescatter(torch.ones(SIZE + 1, 3) * RANK, op=hvd.Sum))
call("reducescatter of integers", lambda: hvd.reducescatter(numbers(2 * SIZE + 1, torch.int64)))
call("reducescatter of few", lambda: hvd.reducescatter(numbers(1)))
call("reducescatter minimum", lambda: hvd.reducescatter(numbers(4), op=hvd.Min))
call("reducescatter of a scalar", lambda: hvd.reducescatter(torch.tensor(1.0)))
call("grouped reducescatter", lambda: hvd.grouped_reducescatter([numbers(4), numbers(5)], op=hvd.Sum))
call("shape", lambda: hvd.allreduce(torch.zeros(2 + RANK), name="m"))
call("dtype", lambda: hvd.allreduce(torch.zeros(2, dtype=DTYPES[1 + RANK % 2]), name="m"))
call("op", lambda: hvd.allreduce(torch.zeros(2), name="m", op=hvd.Sum if RANK else hvd.Min))
call("root", lambda: hvd.broadcast(torch.zeros(2), RANK, name="m"))
call("scale", lambda: hvd.allreduce(torch.zeros(2), name="m", prescale_factor=1.0 + RANK))
call("transposed", lambda: hvd.allreduce(torch.zeros(4, 4).t()[1:]))
call("complex", lambda: hvd.allreduce(torch.zeros(4, dtype=torch.complex64)))
call("unknown handle", lambda: hvd.synchronize(99_999))
call("polling it", lambda: hvd.poll(99_999))
handle = hvd.allreduce_async(numbers(2))
call("handle", lambda: [type(handle).__name__, hvd.synchronize(handle), hvd.synchronize(handle)])
call("objects", lambda: [hvd.broadcast_object([RANK], 1, "o"), hvd.allgather_object(RANK, "o")])
x = torch.ones(RANK + 2, requires_grad=True)
call("derivative of allgather", lambda: [hvd.allgather(x).mul(RANK + 1).sum().backward(), x.grad][1])
y = torch.ones(SIZE + 1, requires_grad=True)
call("derivative of reducescatter", lambda: [hvd.reducescatter(y, op=hvd.Sum).mul(RANK + 1).sum().backward(), y.grad][1])
z = torch.ones(2, requires_grad=True)
call("derivative of broadcast", lambda: [hvd.broadcast(z, 1).mul(RANK + 1).sum().backward(), z.grad][1])
w = torch.ones(2, requires_grad=True)
call("derivative of allreduce", lambda: [hvd.allreduce(w, op=hvd.Sum, prescale_factor=2.0).mul(RANK + 1).sum().backward(), w.grad][1])
call("process set", lambda: hvd.add_process_set([0]))
call("ops", lambda: [hvd.Average, hvd.Sum, hvd.Adasum, hvd.Min, hvd.Max, hvd.Product])
call("built", lambda: [hvd.mpi_built(), hvd.mpi_enabled(), hvd.gloo_built(), hvd.gloo_enabled(), hvd.ddl_built(), hvd.ccl_built()])
call("where", lambda: [hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size(), str(hvd.global_process_set)])
hvd.barrier()
if RANK == 0:
    call("join", lambda: hvd.join() in range(1, SIZE))
else:
    for op in ("Average", "Sum", "Min", "Max", "Product"):
        call(f"{op} with one that joined", hvd.allreduce, torch.tensor([4.0]), name="j", op=getattr(hvd, op))
    call("allgather with one that joined", lambda: hvd.allgather(torch.tensor([4.0]), name="k"))
    call("broadcast with one that joined", lambda: hvd.broadcast(torch.tensor([4.0]), 1, name="k"))
    hvd.join()
call("after", lambda: hvd.allreduce(torch.tensor([4.0 + RANK]), name="after"))
hvd.shutdown()
