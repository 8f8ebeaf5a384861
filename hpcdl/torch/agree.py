"""Whether all ranks hold the same values: compared by digests, and told by name where they don't."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
import torch

from ..errors import Mismatch, ranks_text
from ..world import World

__all__ = ["compare_values", "digest"]


def digest(x: torch.Tensor) -> int:
    """64 bits that tell contents apart; equal bits give equal digests, and 0.0 differs from -0.0. One pass on the host."""
    flat = x.detach().contiguous().cpu().view(-1)
    data = (torch.view_as_real(flat).view(-1) if flat.is_complex() else flat).view(torch.uint8).numpy()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


def compare_values(world: World, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise the same Mismatch on every rank unless the tensors are bitwise equal on all; it names the first that is not.

    Reads every tensor once; 8 bytes each per rank.
    """
    named = list(tensors)
    mine = np.array([[digest(x) for _, x in named]], np.int64)
    everyone = world.allgather(mine)
    different = (everyone != everyone[0]).any(axis=0)
    if not different.any():
        return
    first = int(np.argmax(different))
    others = ranks_text(int(rank) for rank in np.flatnonzero(everyone[:, first] != everyone[0, first]))
    raise Mismatch(
        f"replicas differ: {named[first][0]!r} is the first of {int(different.sum())} parameters that differ; {others} of {world.size} "
        "hold other values than rank 0; cure: change parameters on all ranks alike, or call model.broadcast_parameters() after it"
    )
