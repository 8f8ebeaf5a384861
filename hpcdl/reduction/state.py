"""What a reducer carries from step to step, as plain values for a checkpoint: by parameter, so that it survives other buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..arrays import Array, Arrays
from ..errors import DataError
from .bucket import Bucket

__all__ = ["kept_of", "residuals_of", "take_kept", "take_residuals"]


def kept_of(buckets: Sequence[Bucket], names: Sequence[str]) -> dict[str, Array]:
    """What compressors keep, by number and name of the parameter."""
    return {_key(i, names): array for bucket in buckets for i, array in sorted(bucket.kept.items())}


def take_kept(buckets: Sequence[Bucket], names: Sequence[str], saved: Mapping[str, Any], library: Arrays) -> None:
    """The reverse."""
    numbers = {_key(i, names): i for bucket in buckets for i in bucket.members}
    if strange := [key for key in saved if key not in numbers]:
        raise DataError(f"the state of a reducer of other parameters: {strange[0]!r} is none of them")
    for bucket in buckets:
        bucket.kept = {numbers[key]: library.xp.asarray(x) for key, x in saved.items() if numbers[key] in bucket.members}


def residuals_of(residuals: Sequence[Array] | None, names: Sequence[str]) -> dict[str, Array]:
    """What codecs have dropped, by number and name of the parameter."""
    return {_key(i, names): x for i, x in enumerate(residuals or ())}


def take_residuals(
    residuals: Sequence[Array] | None, names: Sequence[str], saved: Sequence[Mapping[str, Any]], ranks: int, library: Arrays
) -> None:
    """The sum of what was `saved`, shared by `ranks`. Without error feedback, here or there, there is nothing to take."""
    mine = residuals_of(residuals, names)
    for key in mine:
        found = [x for state in saved if (x := state.get(key)) is not None]
        if any(x.shape != mine[key].shape for x in found):
            raise DataError(
                f"the state of a reducer of other parameters: {key!r} is {mine[key].shape} here, and {found[0].shape} was saved"
            )
        total = sum(found) if found else np.zeros(mine[key].shape)
        mine[key][...] = library.xp.asarray(total if ranks == 1 else total / ranks, dtype=mine[key].dtype)


def _key(i: int, names: Sequence[str]) -> str:
    return f"{i} {names[i]}"
