"""What a reducer's memory goes to, measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..arrays import HOST, Arrays
from ..collectives.group import Group
from .bucket import Bucket

__all__ = ["Memory", "measure"]


@dataclass(frozen=True)
class Memory:
    """Bytes beyond the model. `wires`: the most that operations have had in use at once, for wires and what they are decoded into (buffers
    come in powers of two); the others are what is allocated now. `kept`: what a compressor keeps from step to step. `window`: this rank's
    part of the shared memory through which the ranks of a node exchange what does not lie there already.

    >>> print(Memory(gradients=4096, error_feedback=4096, kept=0, wires=1024, window=0))
    gradients       4,096 bytes
    error feedback  4,096 bytes
    kept            0 bytes
    wires           1,024 bytes
    window          0 bytes
    """

    gradients: int
    error_feedback: int
    kept: int
    wires: int
    window: int

    def by_purpose(self) -> dict[str, int]:
        """The same in words."""
        return {name.replace("_", " "): nbytes for name, nbytes in asdict(self).items()}

    def __str__(self) -> str:
        return "\n".join(f"{name:<15} {nbytes:,} bytes" for name, nbytes in self.by_purpose().items())


def measure(buckets: Sequence[Bucket], group: Group, library: Arrays) -> Memory:
    """The memory of `buckets`, whose operations `group` runs on arrays of `library`."""
    board = group.buffers.board
    return Memory(
        gradients=sum(bucket.flat.nbytes for bucket in buckets),
        error_feedback=sum(bucket.residual.nbytes for bucket in buckets if bucket.residual is not None),
        kept=sum(array.nbytes for bucket in buckets for array in bucket.kept.values()),
        wires=sum(group.pool(there).peak for there in {id(each): each for each in (HOST, library)}.values()),
        window=0 if board is None else board.window.parts[board.rank].nbytes,
    )
