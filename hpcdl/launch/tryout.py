"""One rank of a trial start: is the world as large as the launcher was asked to make it, and does it know which ranks share a node?

    LAUNCHER … python -m hpcdl.launch.tryout RANKS

Ends with code 0 on all ranks where it is that large and all of them can talk. Rank 0 then prints MARK, in how many parts that share memory
the world falls, and the names of the nodes.
"""

from __future__ import annotations

import os
import sys

__all__ = ["MARK", "main"]

MARK = "hpcdl-tryout: "


def main(ranks: int) -> int:
    """Be one rank of `ranks`; returns the exit code. Collective."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    if world.size != ranks:
        name = MPI.Get_library_version().strip("\0\n ").splitlines()[0].split(", package:")[0]
        print(f"a world of {world.size} in place of {ranks} ({name})", file=sys.stderr, flush=True)
        return 1
    node = world.Split_type(MPI.COMM_TYPE_SHARED)
    found = world.gather((os.environ.get("SLURMD_NODENAME") or MPI.Get_processor_name(), node.rank == 0))
    if found is not None:
        print(f"{MARK}{sum(first for _, first in found)} {' '.join(dict.fromkeys(name for name, _ in found))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
