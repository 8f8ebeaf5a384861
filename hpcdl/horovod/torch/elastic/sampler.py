"""A sampler that deals the samples of an epoch to the ranks, without those that were processed already."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from typing import Any

import torch.utils.data

from ...basics import rank, size

__all__ = ["ElasticSampler"]


class ElasticSampler(torch.utils.data.Sampler[int]):
    """Deals the indices of `dataset` evenly; some are given twice where they do not divide. seed: the same on all ranks.

    Call `record_batch` after each batch, and `set_epoch` at the end of an epoch. Belongs into a `TorchState`.
    """

    def __init__(self, dataset: Any, shuffle: bool = True, seed: int = 0) -> None:
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed
        self.epoch = self.processed_num = 0
        self.reset()

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch: shuffled by its number, nothing processed."""
        self.epoch, self.processed_num = epoch, 0
        self.reset()

    def record_batch(self, batch_idx: int, batch_size: int) -> None:
        """Note that every rank has processed a batch."""
        self.processed_num += batch_size * self.num_replicas

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where `state_dict` was."""
        self.epoch, self.processed_num = state_dict["epoch"], state_dict["processed_num"]
        self.reset()

    def state_dict(self) -> dict[str, int]:
        """Where this sampler is."""
        return {"epoch": self.epoch, "processed_num": self.processed_num}

    def reset(self) -> None:
        """Deal what is left among the ranks there are now."""
        self.num_replicas, self.rank = size(), rank()
        indices = list(range(len(self.dataset)))
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(indices)
        self.remaining_indices = indices[self.processed_num :]
        self.num_samples = math.ceil(len(self.remaining_indices) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas

    def __iter__(self) -> Iterator[int]:
        """This rank's indices."""
        left = self.remaining_indices
        full = left + [left[i % len(left)] for i in range(self.total_size - len(left))]
        return iter(full[self.rank : self.total_size : self.num_replicas])

    def __len__(self) -> int:
        """How many they are."""
        return self.num_samples
