"""Whether all ranks hold the same model: compared by digests, and told by name where they don't."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import zip_longest

import numpy as np
import torch

from ..errors import Mismatch, ranks_text
from ..world import World
from .tensors import as_array

__all__ = ["compare", "compare_values", "digest"]

_SHOWN = 5  # differences that an error lists


def digest(x: torch.Tensor) -> int:
    """64 bits that tell contents apart; equal bits give equal digests, and 0.0 differs from -0.0. One pass on the host."""
    flat = x.detach().contiguous().cpu().view(-1)
    data = as_array(torch.view_as_real(flat).view(-1) if flat.is_complex() else flat).view(np.uint8)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little", signed=True)


def compare(world: World, lines: Sequence[str], what: str) -> None:
    """Raise the same Mismatch on every rank unless all have the same `lines`; it lists the first differences. 8 bytes a rank if they have.

    Each line is "name: what it is"; `what` names the whole.
    """
    text = "\n".join(lines).encode()
    mine = np.frombuffer(blake2b(text, digest_size=8).digest(), np.int64)
    if len(set(world.allgather(mine).tolist())) == 1:
        return
    lengths = world.allgather(np.array([len(text)], np.int64))
    everything = world.allgather(np.frombuffer(text, np.uint8).copy()).tobytes()
    ends = np.cumsum(lengths)
    texts = [everything[end - length : end].decode().split("\n") for end, length in zip(ends, lengths, strict=True)]
    found = [line for rank in range(1, world.size) for line in _differences(texts[0], texts[rank], rank)]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise Mismatch(
        f"{what} differ between the {world.size} ranks: {'; '.join(found[:_SHOWN])}{more}; cure: build the same model on every rank "
        "(the values may differ, rank 0's are broadcast)"
    )


def _differences(first: list[str], second: list[str], rank: int) -> list[str]:
    here, there = dict(map(_split, first)), dict(map(_split, second))
    found = [
        f"{name!r} is {kind} on rank 0 and {there[name]} on rank {rank}" for name, kind in here.items() if there.get(name, kind) != kind
    ]
    found += [f"{name!r} is on rank 0, but not on rank {rank}" for name in here if name not in there]
    found += [f"{name!r} is on rank {rank}, but not on rank 0" for name in there if name not in here]
    if not found:
        places = enumerate(zip_longest(here, there))
        found = [f"number {i} is {a!r} on rank 0 and {b!r} on rank {rank}" for i, (a, b) in places if a != b][:1]
    return found


def _split(line: str) -> tuple[str, str]:
    name, _, kind = line.partition(": ")
    return name, kind


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
