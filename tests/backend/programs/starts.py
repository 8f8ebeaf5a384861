"""The ways to begin; each ends in a sum over the ranks."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

import hpcdl
import hpcdl.torch as ht

way, file = sys.argv[1:3]
if way == "ours":
    ht.init_process_group(timeout=45)
elif way == "plain":
    dist.init_process_group("hpcdl")
elif way == "url":
    dist.init_process_group("hpcdl", init_method="hpcdl://", timeout=timedelta(seconds=45))
elif way == "file":
    world = hpcdl.init()
    dist.init_process_group("hpcdl", init_method=f"file://{file}", rank=world.rank, world_size=world.size)
else:  # torch's ranks in another order than MPI's
    world = hpcdl.init()
    dist.init_process_group("hpcdl", init_method=f"file://{file}", rank=world.size - 1 - world.rank, world_size=world.size)
    assert dist.get_rank() == world.size - 1 - world.rank
rank, size = dist.get_rank(), dist.get_world_size()
everyone = torch.zeros(size)
dist.all_gather_single(everyone, torch.full((1,), float(rank)))
assert everyone.tolist() == list(range(size))
if way == "ours":
    assert os.environ["RANK"] == str(rank) and os.environ["WORLD_SIZE"] == str(size) and "LOCAL_RANK" in os.environ
    assert dist.group.WORLD.options._timeout == timedelta(seconds=45)
pair = dist.new_group(backend="gloo") if way in ("ours", "plain", "url") else dist.new_group()
dist.all_reduce(everyone, group=pair)
assert everyone.tolist() == [rank * size for rank in range(size)]
dist.destroy_process_group()
ht.init_process_group()  # and once more
dist.all_reduce(everyone)
dist.destroy_process_group()
os.write(1, f"{way}: {size} ranks\n".encode())
