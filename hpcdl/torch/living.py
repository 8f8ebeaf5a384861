"""The distributed models of this process, so that no parameter belongs to two of them."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import TYPE_CHECKING

import torch

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from .ddp import DistributedDataParallel

__all__ = ["add", "discard", "has", "retire_others"]

_living: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()
_lock = threading.RLock()


def add(model: DistributedDataParallel) -> None:
    """It reduces gradients from now on."""
    with _lock:
        _living.add(model)


def discard(model: DistributedDataParallel) -> None:
    """It does not any more."""
    with _lock:
        _living.discard(model)


def has(model: DistributedDataParallel) -> bool:
    """Whether it does."""
    return model in _living


def retire_others(module: torch.nn.Module) -> None:
    """Let the last wrapper win if `module` was wrapped before; raise InvalidArgument where another one has some of its parameters."""
    with _lock:  # all the time: a thread that looked through them would keep them alive
        if any(other.module is not module for other, _ in _sharing(module)):
            gc.collect()  # one that nobody uses any more may still be there
        for other, name in _sharing(module):
            if other.module is not module:
                raise InvalidArgument(
                    f"parameter {name!r} belongs to another DistributedDataParallel already, and only one can reduce its gradient; cure: "
                    "distribute one module that holds all, or close() the other first"
                )
            _living.discard(other)
            other.retire()


def _sharing(module: torch.nn.Module) -> list[tuple[DistributedDataParallel, str]]:
    """Who else reduces a parameter of `module`, and its name."""
    mine = {id(p): name for name, p in module.named_parameters()}
    return [(other, mine[id(p)]) for other in list(_living) for p in other.module.parameters() if id(p) in mine]
