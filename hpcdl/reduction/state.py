"""What a reducer carries from step to step, as plain values for a checkpoint: by parameter, so that it survives other buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..arrays import Array, Arrays
from ..errors import DataError
from .bucket import Bucket

__all__ = ["kept_of", "residuals_of", "shared_out", "take_kept", "take_residuals"]


def kept_of(buckets: Sequence[Bucket], names: Sequence[str]) -> dict[str, Array]:
    """What compressors keep, by name of the parameter."""
    keys = _keys(names)
    return {keys[i]: array for bucket in buckets for i, array in sorted(bucket.kept.items())}


def take_kept(buckets: Sequence[Bucket], names: Sequence[str], saved: Mapping[str, Any], library: Arrays) -> None:
    """The reverse."""
    numbers = {key: i for i, key in enumerate(_keys(names))}
    if strange := [key for key in saved if key not in numbers]:
        raise DataError(f"the state of a reducer of other parameters: {strange[0]!r} is none of them")
    for bucket in buckets:
        bucket.kept = {numbers[key]: library.xp.asarray(x) for key, x in saved.items() if numbers[key] in bucket.members}


def residuals_of(residuals: Sequence[Array] | None, names: Sequence[str]) -> dict[str, Array]:
    """What codecs have dropped, by name of the parameter."""
    return dict(zip(_keys(names), residuals or (), strict=False))


def take_residuals(residuals: Sequence[Array] | None, names: Sequence[str], saved: Mapping[str, Any], library: Arrays) -> None:
    """The reverse. Without error feedback, here or there, there is nothing to take."""
    for key, mine in residuals_of(residuals, names).items():
        x = saved.get(key)
        if x is not None and x.shape != mine.shape:
            raise DataError(f"the state of a reducer of other parameters: {key!r} is {mine.shape} here, and {x.shape} was saved")
        mine[...] = 0 if x is None else library.xp.asarray(x, dtype=mine.dtype)


def shared_out(states: Sequence[Mapping[str, Any]], ranks: int) -> dict[str, Any]:
    """The states of all ranks of another number as that of each of `ranks`: each has an equal share of the sum of what was dropped."""
    first = states[0]
    residuals = {key: sum(state["residuals"][key] for state in states) / ranks for key in first.get("residuals", ())}
    return {**first, "residuals": residuals}


def _keys(names: Sequence[str]) -> list[str]:
    """The names, with numbers where they are not unique."""
    return list(names) if len(set(names)) == len(names) else [f"{i} {name}" for i, name in enumerate(names)]
