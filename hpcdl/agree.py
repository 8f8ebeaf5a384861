"""What all ranks must give alike, compared before anything goes wrong because of it: models by their lines, settings by their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from itertools import zip_longest
from operator import index
from typing import Any, TypeVar

import numpy as np

from .errors import CommunicationError, HpcdlError, InvalidArgument, Mismatch, ranks_text
from .world import World

__all__ = ["agree", "all_or_none", "compare", "count", "gather_texts"]

_SAME_MODEL = "build the same model on every rank (the values may differ, rank 0's are broadcast)"
_SHOWN = 5  # differences that an error lists
_T = TypeVar("_T")


def compare(world: World, lines: Sequence[str], what: str, cure: str = _SAME_MODEL) -> None:
    """Raise the same Mismatch on every rank unless all have the same `lines`; it lists the first differences. 8 bytes a rank if they have.

    Each line is "name: what it is"; `what` names the whole.
    """
    text = "\n".join(lines).encode()
    mine = np.frombuffer(blake2b(text, digest_size=8).digest(), np.int64)
    if len(set(world.allgather(mine).tolist())) == 1:
        return
    texts = [each.split("\n") for each in gather_texts(world, text.decode())]
    found = [line for rank in range(1, world.size) for line in _differences(texts[0], texts[rank], rank)]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise Mismatch(f"{what} differ between the {world.size} ranks: {'; '.join(found[:_SHOWN])}{more}; cure: {cure}")


def gather_texts(world: World, text: str) -> list[str]:
    """Every rank's text, in rank order. Collective; two all-gathers."""
    data = text.encode()
    lengths = world.allgather(np.array([len(data)], np.int64))
    everything = world.allgather(np.frombuffer(data, np.uint8).copy()).tobytes()
    ends = np.cumsum(lengths)
    return [everything[end - length : end].decode() for end, length in zip(ends, lengths, strict=True)]


def all_or_none(world: World, what: str, act: Callable[[], _T], raises: type[HpcdlError]) -> _T:
    """What `act` returns on this rank; where it fails on any, `raises`, the same on every rank, which says what, which rank, and why.

    Collective; one all-gather of a byte if all is well.
    """
    result: list[_T] = []
    problem, cause = "", None
    try:
        result.append(act())
    except CommunicationError:
        raise
    except Exception as error:
        problem, cause = str(error) if isinstance(error, raises) else f"{type(error).__name__}: {error}", error
    if world.allgather(np.array([cause is not None], np.uint8)).any():
        rank, text = next((rank, text) for rank, text in enumerate(gather_texts(world, problem)) if text)
        raise raises(f"{what}: rank {rank} of {world.size}: {text}") from cause
    return result[0]


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


def count(name: str, value: Any) -> int:
    """A whole number that the user has given. Raises InvalidArgument for anything else."""
    try:
        return index(value)
    except TypeError:
        raise InvalidArgument(f"{name} must be a whole number, got {value!r}") from None


def agree(world: World, settings: Mapping[str, int], cures: Mapping[str, str] | None = None) -> None:
    """Raise InvalidArgument, the same on every rank, unless all ranks give the same whole numbers. Collective; one all-gather.

    >>> agree(World.solo(), {"samples": 5})
    """
    row = np.array([[value & 0x7FFF_FFFF_FFFF_FFFF if value >= 0 else -1 for value in map(int, settings.values())]], np.int64)
    table = world.allgather(row)
    for name, column in zip(settings, table.T, strict=True):
        if (column != column[0]).any():
            found = {int(value): np.flatnonzero(column == value).tolist() for value in column}
            told = ", ".join(f"{value} on {ranks_text(ranks)}" for value, ranks in found.items())
            cure = (cures or {}).get(name, "give the same on every rank")
            raise InvalidArgument(f"the ranks' loaders differ in {name}: {told}; {cure}")
