"""A training by each of two doors, with the engine that HPCDL_ENGINE names; rank 0 prints what came out. Arguments: codec."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

import hpcdl
import hpcdl.torch as ht
from hpcdl.numpy import MLP, Trainer

codec = sys.argv[1]
world = ht.init(seed=0)
x = np.random.default_rng(3).standard_normal((240, 20)).astype("f4")
y = (x[:, :3].sum(axis=1) > 0).astype("i8")

perceptron = MLP([20, 48, 2], seed=1)
Trainer(world, perceptron, codec=codec, bucket_bytes=2048).fit(x, y, batch_size=48, epochs=3)

torch.manual_seed(1)
module = torch.nn.Sequential(torch.nn.Linear(20, 48), torch.nn.ReLU(), torch.nn.Linear(48, 2))
model = ht.DDP(module, codec, bucket_bytes=2048)
optimizer = torch.optim.Adam(model.parameters(), 1e-2)
part = slice(world.rank, None, world.size)
for _ in range(15):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(torch.from_numpy(x[part])), torch.from_numpy(y[part])).backward()
    optimizer.step()
model.check_replicas()

weights = [
    np.concatenate([p.ravel() for p in perceptron.parameters]),
    torch.cat([p.detach().flatten() for p in module.parameters()]).numpy(),
]
replicas = world.allgather(np.concatenate(weights)[None])
assert (replicas == replicas[0]).all(), "the replicas differ"
if world.rank == 0:
    print("@" + json.dumps({"engine": world.engine, "numpy": weights[0].tolist(), "torch": weights[1].tolist()}), flush=True)
assert hpcdl.init() is world
