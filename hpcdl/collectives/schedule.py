"""A collective over point-to-point messages, as data: who sends which chunk to whom, in which step.

Nothing here knows of MPI, dtypes, devices or codecs. The same generator is proved, priced and drawn (simulate), and executed (execute).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["Kind", "Recv", "Schedule", "Send", "Step", "Steps"]

Kind = Literal["allreduce", "broadcast", "all_gather", "reduce_scatter"]


class Send(NamedTuple):
    """Send chunks [lo, hi) to `peer`.

    `final` says that they will not change any more: the rank that holds a final chunk first encodes it once and takes the decoded values
    itself; the others forward its wire verbatim. So all replicas decode the same bytes.
    """

    peer: int
    lo: int
    hi: int
    final: bool = False


class Recv(NamedTuple):
    """Receive chunks [lo, hi) from `peer`: add to what is there (`reduce`), or replace it."""

    peer: int
    lo: int
    hi: int
    reduce: bool


Step = tuple[Send | Recv, ...]  # all actions of a step are under way at once; receives are reduced in the order written
Steps = Callable[[int, int], Iterator[Step]]  # (rank, size) -> steps


@dataclass(frozen=True)
class Schedule:
    """A named schedule of one kind. `chunks` is the number of chunks for a given size.

    broadcast: from rank 0. all_gather and reduce_scatter: chunk r belongs to rank r. In every kind, `size` chunks or fewer.
    """

    name: str
    kind: Kind
    steps: Steps
    chunks: Callable[[int], int]
