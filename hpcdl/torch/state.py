"""Values of many tensors from one rank to all, in few messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from ..world import World
from .streams import in_order
from .tensors import as_array

__all__ = ["broadcast", "bytes_of", "start_broadcast"]

_PACK_BYTES = 16 << 20


def broadcast(world: World, tensors: Iterable[torch.Tensor], root: int = 0) -> None:
    """Overwrite `tensors` with rank `root`'s, in place and unseen by autograd. Same shapes and dtypes on all ranks; any strides."""
    for pack in _packs(tensors):
        start_broadcast(world, pack, root)()


def start_broadcast(world: World, tensors: Iterable[torch.Tensor], root: int = 0) -> Callable[[], None]:
    """The same without waiting; call the result to wait."""
    found = list(tensors)
    if not found:
        return lambda: None
    dtypes = sorted({x.dtype: None for x in found}, key=lambda dtype: -dtype.itemsize)  # the widest first: all lie aligned
    by_dtype = {dtype: [x for x in found if x.dtype == dtype] for dtype in dtypes}
    flat = torch.cat([bytes_of(x) for same in by_dtype.values() for x in same])
    with in_order(flat):
        operation = world.broadcast_async(as_array(flat), root) if len(flat) else None

    def finish() -> None:
        if operation is None:
            return
        with in_order(flat):
            operation.wait()
        begin = 0
        for same in by_dtype.values():
            for x in same:
                end = begin + x.numel() * x.element_size()
                if world.rank != root:
                    x.data.copy_(flat[begin:end].view(x.dtype).view(x.shape))
                begin = end

    return finish


def bytes_of(x: torch.Tensor) -> torch.Tensor:
    """The values of `x` in order, as a flat tensor of bytes; its own memory where it is contiguous."""
    return x.detach().contiguous().view(-1).view(torch.uint8)


def _packs(tensors: Iterable[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    pack: list[torch.Tensor] = []
    size = 0
    for x in tensors:
        if pack and size + x.numel() * x.element_size() > _PACK_BYTES:
            yield pack
            pack, size = [], 0
        pack.append(x)
        size += x.numel() * x.element_size()
    if pack:
        yield pack
