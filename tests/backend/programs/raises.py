"""Rank 2 raises while the others wait: in a collective, in C++ in the middle of backward, or for a message."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

import hpcdl.torch as ht

ht.init_process_group()


def prepare(x: torch.Tensor) -> torch.Tensor:
    if dist.get_rank() == 2:
        raise ValueError("a bad sample")
    return x


if sys.argv[1] == "collective":
    dist.all_reduce(prepare(torch.ones(3)))
elif sys.argv[1] == "backward":
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 3)), bucket_cap_mb=0.01)
    out = model(torch.ones(2, 300))
    out.register_hook(prepare)
    out.sum().backward()
else:
    prepare(torch.ones(3))
    dist.recv(torch.ones(3), (dist.get_rank() + 1) % dist.get_world_size())
