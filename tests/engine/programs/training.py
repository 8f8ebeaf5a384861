"""Trainings by each door, with the engine that HPCDL_ENGINE names, and by a real Horovod's own optimizer where that is the engine.

Rank 0 prints the engine and what came out, by codec and door.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import numpy as np
import torch

import hpcdl
import hpcdl.torch as ht
from hpcdl.numpy import MLP, Trainer

STEPS, WIDTHS = 10, [20, 48, 2]

world = ht.init(seed=0)
x = np.random.default_rng(3).standard_normal((240, 20)).astype("f4")
y = (x[:, :3].sum(axis=1) > 0).astype("i8")
part = slice(world.rank, None, world.size)


def flat(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


def by_numpy(codec: str) -> np.ndarray:
    perceptron = MLP(WIDTHS, seed=1)
    Trainer(world, perceptron, codec=codec, bucket_bytes=2048).fit(x, y, batch_size=48, epochs=2)
    return flat(perceptron.parameters)


def trained(module: torch.nn.Module, optimizer: torch.optim.Optimizer, model: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.from_numpy(x[part])), torch.from_numpy(y[part])).backward()
        optimizer.step()
    return flat(p.detach().numpy() for p in module.parameters())


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(20, 48), torch.nn.ReLU(), torch.nn.Linear(48, 2))


def by_torch(codec: str) -> np.ndarray:
    module = network()
    model = ht.DDP(module, codec, bucket_bytes=2048)
    found = trained(module, torch.optim.Adam(model.parameters(), 1e-2), model)
    model.check_replicas()
    return found


def by_keras(codec: str) -> np.ndarray:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    import hpcdl.keras as hk

    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(48, activation="relu"), keras.layers.Dense(2)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(hk.DistributedOptimizer(keras.optimizers.Adam(1e-2), codec, bucket_bytes=2048), loss)
    model.fit(hk.shard(x, y, batch_size=48), epochs=2, verbose=0, callbacks=[hk.BroadcastVariables()])
    return flat(model.get_weights())


def by_its_own(codec: str) -> np.ndarray:
    import horovod.torch as hvd

    import hpcdl.horovod

    module, compression = network(), hpcdl.horovod.compression(codec)
    named = [(f"{codec} {name}", p) for name, p in module.named_parameters()]
    return trained(module, hvd.DistributedOptimizer(torch.optim.Adam(module.parameters(), 1e-2), named, compression), module)


doors = {"numpy": by_numpy, "torch": by_torch}
if find_spec("keras"):
    doors["keras"] = by_keras
if world.engine == "horovod":
    doors["its own"] = by_its_own
found = {codec: {door: train(codec) for door, train in doors.items()} for codec in ("none", "fp16")}
replicas = world.allgather(flat(weights for by_door in found.values() for weights in by_door.values())[None])
assert (replicas == replicas[0]).all(), "the replicas differ"
if world.rank == 0:
    told = {codec: {door: weights.tolist() for door, weights in by_door.items()} for codec, by_door in found.items()}
    print("@" + json.dumps([world.engine, told]), flush=True)
assert hpcdl.init() is world
