"""How fast is all-reduce? Each collective with each codec, beside `MPI.Allreduce` of the same library.

    hpcdl run -n 4 benchmarks/allreduce.py --json benchmarks/results/allreduce.jsonl
    mpirun -n 4 python benchmarks/allreduce.py --sizes 1KiB 1MiB --codecs none fp16 --collectives ring native

In place, float32, sum. Everything is timed in turn. A repetition: fill the array anew, barrier, call; the slowest rank's time counts.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import bench
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import hpcdl
from hpcdl.codecs import codecs
from hpcdl.collectives.collective import collectives
from hpcdl.launch.mpiexec import recognise

COMM = MPI.COMM_WORLD
PEER = "MPI.Allreduce"
SIZES = [1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26]
MOST, LEAST = 300, 5  # repetitions

Floats = NDArray[np.float32]
Key = tuple[str, str]  # collective, codec


def actions(world: hpcdl.World, x: Floats, pairs: list[Key]) -> dict[Key, Callable[[], Any]]:
    """Everything that is timed on `x`: the peer first."""
    timed: dict[Key, Callable[[], Any]] = {(PEER, "none"): lambda: COMM.Allreduce(MPI.IN_PLACE, x, MPI.SUM)}
    for collective, codec in pairs:
        timed[collective, codec] = lambda codec=codec, collective=collective: world.allreduce(x, codec=codec, collective=collective)  # type: ignore[misc]
    return timed


def one_round(timed: dict[Key, Callable[[], Any]], source: Floats, x: Floats) -> list[float]:
    """Seconds of each action, once, on this rank."""
    seconds = []
    for action in timed.values():
        np.copyto(x, source)
        COMM.Barrier()
        begin = perf_counter()
        action()
        seconds.append(perf_counter() - begin)
    return seconds


def measure(world: hpcdl.World, nbytes: int, pairs: list[Key], repeat: int | None, seconds: float) -> list[dict[str, Any]]:
    """The results for one size, the same on every rank."""
    source = np.random.default_rng(COMM.rank).standard_normal(nbytes // 4, np.float32) * np.float32(0.01)
    x = np.empty_like(source)
    timed = actions(world, x, pairs)
    one_round(timed, source, x)  # the first of all touches fresh memory and opens connections
    begin = perf_counter()
    one_round(timed, source, x)
    wanted = repeat or max(LEAST, min(MOST, int(seconds / (perf_counter() - begin))))
    rounds = COMM.bcast(wanted)  # rank 0 decides
    mine = np.array([one_round(timed, source, x) for _ in range(rounds)])
    slowest = np.empty_like(mine)
    COMM.Allreduce(mine, slowest, MPI.MAX)
    return [
        {"collective": collective, "codec": codec, "bytes": nbytes, **bench.summary(column.tolist())}
        for (collective, codec), column in zip(timed, slowest.T, strict=True)
    ]


def _show(runs: list[list[dict[str, Any]]], title: str) -> None:
    rows = []
    for row in zip(*runs, strict=True):
        cells = []
        for found, run in zip(row, runs, strict=True):
            times = "/".join(f"{1e3 * found[part]:.3g}" for part in ("median", "min", "max"))
            cells.append(f"{times} {found['median'] / run[0]['median']:.3g}x")
        rows.append([f"{row[0]['collective']} {row[0]['codec']}", *cells])
    bench.show(title, ["", *(bench.size_name(run[0]["bytes"]) for run in runs)], rows)


def main() -> None:
    """Measure what the options say."""
    parser = bench.Parser(__doc__)
    names, known = sorted(codecs, key=lambda name: name != "none"), ["auto", *collectives]
    parser.add_argument("--sizes", nargs="+", type=bench.size, default=SIZES, metavar="SIZE", help="default: 1KiB … 64MiB")
    parser.add_argument("--codecs", nargs="+", type=bench.one_of("codec", names), default=names, help=f"default: {' '.join(names)}")
    kind = bench.one_of("collective", known)
    parser.add_argument("--collectives", nargs="+", type=kind, default=known, help=f"default: {' '.join(known)}")
    parser.add_argument("--repeat", type=bench.count, help=f"repetitions (default: {LEAST} to {MOST}, as many as fit into --seconds)")
    parser.add_argument("--seconds", type=bench.count, default=120, help="time for all (default: 120)")
    args = parser.parse_args()
    world = hpcdl.init()
    pairs = [(collective, codec) for codec in args.codecs for collective in args.collectives]
    runs = [measure(world, nbytes, pairs, args.repeat, args.seconds / len(args.sizes)) for nbytes in args.sizes]
    if world.rank == 0:
        library = str(recognise(MPI.Get_library_version()))
        title = f"{library}, {world.size} ranks: ms median/min/max, and how many times the median of {PEER}"
        for some in range(0, len(runs), 3):
            _show(runs[some : some + 3], title)
        found = [result for run in runs for result in run]
        bench.append(args.json, bench.line("allreduce", found, library, ranks=world.size, nodes=world.nodes))


if __name__ == "__main__":
    main()
