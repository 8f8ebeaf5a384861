"""What a rank wants under a name, and what all ranks' wishes amount to. Pure data, pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import ranks_text

__all__ = ["Verdict", "Wanted", "judge"]

Shape = tuple[int, ...]

#: Kinds in which a rank that has joined takes part, with zeros.
WITH_JOINED = ("allreduce", "grouped allreduce", "barrier")
_JOIN_HINT = "; in a DistributedOptimizer these are sparse gradients: pass sparse_as_dense=True"


class Wanted(NamedTuple):
    """One rank's part in a named operation. `arrays`: dtype and shape of each; `splits`: rows for each rank, or ranks of a new set;
    `feedback`: whether what the codec drops is carried over."""

    kind: str
    name: str
    arrays: tuple[tuple[str, Shape], ...] = ()
    op: str = ""
    root: int = -1
    scales: tuple[float, float] = (1.0, 1.0)
    codec: str = "none"
    splits: tuple[int, ...] = ()
    feedback: bool = False

    @classmethod
    def from_json(cls, values: list[Any]) -> Wanted:
        """From what JSON makes of it."""
        kind, name, arrays, op, root, scales, codec, splits, feedback = values
        shapes = tuple((dtype, tuple(shape)) for dtype, shape in arrays)
        return cls(kind, name, shapes, op, root, (float(scales[0]), float(scales[1])), codec, tuple(splits), feedback)

    def __str__(self) -> str:
        few = [f"{dtype} of shape {list(shape)}" for dtype, shape in self.arrays[:3]]
        parts = [", ".join(few) + (f" and {len(self.arrays) - 3} more" if len(self.arrays) > 3 else "")]
        parts += [f"op {self.op}"] if self.op else []
        parts += [f"root rank {self.root}"] if self.root >= 0 else []
        parts += [f"prescale {self.scales[0]:g}, postscale {self.scales[1]:g}"] if self.scales != (1.0, 1.0) else []
        parts += [f"codec {self.codec}{' with error feedback' if self.feedback else ''}"] if self.codec != "none" else []
        parts += [f"ranks {list(self.splits)}"] if "process set" in self.kind else []
        return f"{self.kind}({', '.join(filter(None, parts))})"

    def alike(self) -> tuple[Any, ...]:
        """What must be the same on all ranks: first dimensions of what is gathered, and splits, may differ."""
        free = self.kind in ("allgather", "grouped allgather", "alltoall")
        arrays = tuple((dtype, shape[1:]) for dtype, shape in self.arrays) if free else self.arrays
        return self._replace(arrays=arrays, splits=() if free else self.splits)


class Verdict(NamedTuple):
    """What all ranks are to do under a name: `error`, or the operation.

    wanted: what the first of the ranks said. rows: by array, then by rank, the first dimension. splits: by rank. last: who joined last.
    plot: where they meet from now on, if anywhere (`places.Plot`).
    """

    wanted: Wanted
    error: str = ""
    rows: tuple[Shape, ...] = ()
    splits: tuple[Shape, ...] = ()
    last: int = -1
    plot: Shape = ()

    @classmethod
    def from_json(cls, values: list[Any]) -> Verdict:
        """From what JSON makes of it."""
        wanted, error, rows, splits, last, plot = values
        return cls(Wanted.from_json(wanted), error, tuple(map(tuple, rows)), tuple(map(tuple, splits)), last, tuple(plot))


def judge(wishes: Mapping[int, Wanted], joined: Mapping[int, int], names: tuple[int, ...]) -> Verdict:
    """What `wishes`, by rank of the set, amount to, when all other ranks have `joined`. names: the ranks' numbers in the world."""
    first = wishes[min(wishes)]
    variants: dict[Any, list[int]] = {}
    for rank in sorted(wishes):
        variants.setdefault(wishes[rank].alike(), []).append(rank)
    if len(variants) > 1:
        told = "; ".join(f"{ranks_text(names[r] for r in ranks)}: {wishes[ranks[0]]}" for ranks in variants.values())
        cure = "all ranks must want the same under a name, or use different names"
        return Verdict(first, f"ranks disagree on {first.name!r}: {told}; cure: {cure}")
    if joined and first.kind not in WITH_JOINED:
        hint = _JOIN_HINT if "allgather" in first.kind else ""
        gone = ranks_text(names[rank] for rank in joined)
        return Verdict(first, f"{first.kind} {first.name!r} is not supported with join at this time: {gone} joined{hint}")
    ranks = range(len(names))
    if first.kind in ("allgather", "grouped allgather"):
        return Verdict(first, rows=tuple(tuple(wishes[r].arrays[i][1][0] for r in ranks) for i in range(len(first.arrays))))
    if first.kind == "alltoall":
        return Verdict(first, splits=tuple(wishes[r].splits for r in ranks))
    return Verdict(first)
