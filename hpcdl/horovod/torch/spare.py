"""Memory of results that the program has let go of, kept for the next ones.

Why: memory fresh from the system costs a page fault for every 4 KiB, which is more than to reduce it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque

import numpy as np
import torch

__all__ = ["empty_like"]

_LARGE = 1 << 17  # bytes; smaller blocks the allocator keeps itself
_MOST = 1 << 28  # bytes that are kept for nobody, at most
_OF_A_SIZE = 2  # blocks of one size

_free: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)


def empty_like(tensor: torch.Tensor) -> torch.Tensor:
    """A new tensor like `tensor`, which is contiguous; it may hold anything."""
    if tensor.device.type != "cpu" or tensor.nbytes < _LARGE:
        return torch.empty_like(tensor, requires_grad=False)
    block = _block(tensor.nbytes)
    view = block[:]  # its end is that of the last tensor that lies in it
    weakref.finalize(view, _keep, block).atexit = False
    return torch.from_numpy(view).view(tensor.dtype).view(tensor.shape)


def _block(nbytes: int) -> np.ndarray:
    try:
        return _free[nbytes].pop()
    except IndexError:
        return np.empty(nbytes, np.uint8)


def _keep(block: np.ndarray) -> None:
    """Called in whichever thread lets go of a result; without a lock, since that may be one that holds it."""
    same = _free[block.nbytes]
    if len(same) < _OF_A_SIZE and sum(nbytes * len(blocks) for nbytes, blocks in tuple(_free.items())) + block.nbytes <= _MOST:
        same.append(block)
