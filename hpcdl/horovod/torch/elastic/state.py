"""The state of a PyTorch training: models, optimizers, samplers, and anything else that can be pickled."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ...basics import rank
from ...elastic import ObjectState
from ...objects import broadcast_object
from ..state import broadcast_optimizer_state, broadcast_parameters
from .sampler import ElasticSampler

__all__ = ["TorchState"]


class _Kept:
    """Something with a state_dict, and the copy of it at the last commit."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.save()

    def save(self) -> None:
        self._saved = copy.deepcopy(self.value.state_dict())

    def restore(self) -> None:
        self.value.load_state_dict(copy.deepcopy(self._saved))

    def sync(self) -> None:
        if isinstance(self.value, torch.nn.Module):
            broadcast_parameters(self.value.state_dict(), 0)
        elif isinstance(self.value, torch.optim.Optimizer):
            broadcast_optimizer_state(self.value, 0)
        else:
            self.value.load_state_dict(broadcast_object(self.value.state_dict()))
        self.save()


class TorchState(ObjectState):
    """model, optimizer, and more by name: models, optimizers and ElasticSamplers by their state_dict, the rest as objects."""

    _kept: dict[str, _Kept]

    def __init__(self, model: Any = None, optimizer: Any = None, **kwargs: Any) -> None:
        everything = {"model": model, "optimizer": optimizer, **kwargs}
        kinds = (torch.nn.Module, torch.optim.Optimizer, ElasticSampler)
        self._kept = {name: _Kept(value) for name, value in everything.items() if isinstance(value, kinds)}
        for name, kept in self._kept.items():
            super().__setattr__(name, kept.value)
        rest = {name: value for name, value in everything.items() if name not in self._kept}
        super().__init__(bcast_object=broadcast_object, get_rank=rank, **rest)

    def save(self) -> None:
        """Remember all of it as it is."""
        for kept in self._kept.values():
            kept.save()
        super().save()

    def restore(self) -> None:
        """Come back to the last commit."""
        for kept in self._kept.values():
            kept.restore()
        super().restore()

    def sync(self) -> None:
        """Take over rank 0's state. Collective."""
        for kept in self._kept.values():
            kept.sync()
        super().sync()

    def reset(self) -> None:
        """Deal the samples among the ranks there are now."""
        for kept in self._kept.values():
            if isinstance(kept.value, ElasticSampler):
                kept.value.reset()

    def __setattr__(self, name: str, value: Any) -> None:
        """A model, optimizer or sampler that is set anew is kept in place of the old one."""
        if name in self.__dict__.get("_kept", {}):
            self._kept[name] = _Kept(value)
        super().__setattr__(name, value)
