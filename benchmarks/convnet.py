"""A small convolutional network on scikit-learn's digits, in PyTorch, trained through an `hpcdl.Reducer`."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import hpcdl
from hpcdl.demo.data import load
from hpcdl.numpy import Shards

__all__ = ["train"]


def train(world: hpcdl.World, codec: str, seed: int, epochs: int) -> tuple[float, float]:
    """Train for `epochs` by plain SGD, batch 64 over all ranks; gives test accuracy in per cent, and bytes sent per step."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    data = load(world, None, seed)
    (x, y), (test_x, test_y) = [
        (torch.from_numpy(pixels).reshape(-1, 1, 8, 8), torch.from_numpy(labels))
        for pixels, labels in ((data.train_x, data.train_y), (data.test_x, data.test_y))
    ]
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 64), nn.ReLU(), nn.Linear(64, data.classes))
    parameters, names = list(model.parameters()), [name for name, _ in model.named_parameters()]
    reducer = hpcdl.Reducer(world, [p.shape for p in parameters], codec=codec, collective="ring", names=names, bucket_bytes=1 << 15)
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.from_numpy(reducer.views[i])  # backward writes where the reducer reads
        parameter.register_post_accumulate_grad_hook(lambda _, i=i: reducer.ready(i))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    shards = Shards(len(y), 64, world.rank, world.size, seed)
    before = world.bytes_sent
    for epoch in range(epochs):
        for shard in shards.epoch(epoch):
            optimizer.zero_grad(set_to_none=False)
            reducer.begin(len(shard))
            if len(shard):
                nn.functional.cross_entropy(model(x[shard]), y[shard]).backward()
            reducer.wait()
            optimizer.step()
    sent = world.bytes_sent - before
    reducer.close()
    with torch.no_grad():
        right = np.mean((model(test_x).argmax(1) == test_y).numpy())
    return 100 * float(right), sent / (epochs * len(shards))
