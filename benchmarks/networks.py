"""The networks whose training steps `train_torch.py` measures: each with a batch of made-up data, a loss and an optimizer.

Data is made up because time does not depend on it; it is the same in each run, and another one on each rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["NETWORKS", "Network"]

Batch = tuple[Tensor, Tensor]


class GPT(nn.Module):
    """Bytes ``(n, length)`` to logits ``(n, length, 256)``: a transformer with learned positions and causal attention."""

    def __init__(self, layers: int, width: int, heads: int, length: int) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The logits of each next byte."""
        found: Tensor = self.head(self.norm(self.blocks(self.bytes(x) + self.places.weight[: x.shape[1]])))
        return found


class Block(nn.Module):
    """Attention, then a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as `x`, ``(n, length, width)``."""
        n, length, width = x.shape
        parts = self.queries_keys_values(self.before(x)).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.join(seen.transpose(1, 2).reshape(n, length, width))
        found: Tensor = x + self.perceptron(self.between(x))
        return found


def _digits() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))


def _convnet() -> nn.Module:
    widths = (3, 32, 64, 128)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 256), nn.ReLU(), nn.Linear(256, 10))


def _wide() -> nn.Module:
    layers = [layer for _ in range(4) for layer in (nn.Linear(1024, 1024, bias=False), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(1024, 10))


def _vectors(*shape: int) -> Callable[[int], Batch]:
    return lambda n: (torch.randn(n, *shape), torch.randint(10, (n,)))


def _text(n: int) -> Batch:
    rows = torch.randint(256, (n, 65))
    return rows[:, :-1], rows[:, 1:]


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(outputs.flatten(0, -2), y.flatten())


@dataclass(frozen=True)
class Network:
    """What is trained: `batch` samples in each step, of a rank or, where they are shared out, of all ranks together."""

    make: Callable[[], nn.Module]
    data: Callable[[int], Batch]
    batch: int
    shared_out: bool = False
    adam: bool = False

    def build(self) -> nn.Module:
        """A module with the same values each time, on every rank."""
        torch.manual_seed(0)
        return self.make()

    def samples(self, ranks: int) -> int:
        """Samples of one rank in a step."""
        return max(1, self.batch // ranks) if self.shared_out else self.batch

    def part(self, rank: int, ranks: int) -> Batch:
        """This rank's samples."""
        torch.manual_seed(1 + rank)
        return self.data(self.samples(ranks))

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """A fresh one for the parameters of `module`."""
        settings: Any = {"lr": 1e-3}
        return torch.optim.AdamW(module.parameters(), **settings) if self.adam else torch.optim.SGD(module.parameters(), **settings)

    def loss(self, module: nn.Module, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch, through `module`, which may be wrapped."""
        return _loss(module(batch[0]), batch[1])


NETWORKS = {
    "digits": Network(_digits, _vectors(64), batch=64, shared_out=True),  # that of `hpcdl demo`
    "convnet": Network(_convnet, _vectors(3, 32, 32), batch=8),
    "gpt": Network(lambda: GPT(layers=4, width=192, heads=6, length=64), _text, batch=4, adam=True),
    "wide": Network(_wide, _vectors(1024), batch=4),  # much to communicate, little to compute
}
