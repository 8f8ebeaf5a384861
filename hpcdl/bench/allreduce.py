"""All-reduce by size, in place, float32, sum: hpcdl's collectives beside `MPI.Allreduce` of the same library, all timed in turn.

A repetition: fill the array anew, barrier, call; the slowest rank's time counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..codecs import codecs
from ..collectives.collective import collectives
from ..launch.mpiexec import recognise
from ..start import init
from ..world import World
from . import plot
from .bounds import ring_seconds
from .options import count, link_rate, one_of, size, size_name
from .record import append, line, place, show, summary
from .timing import one_round, rounds

__all__ = ["add_arguments", "main"]

SIZES = [1 << 10, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26]
PEER, COPY = "MPI.Allreduce", "copy"
STORAGES, CALLS = ("own", "bucket"), ("blocking", "async")
_AT_ONCE = 5  # columns of a table beside the size

Floats = NDArray[np.float32]
Result = dict[str, Any]


class Way(NamedTuple):
    """What is timed. storage: a user's `own` array, or one in the node's shared memory as `bucket`s are. call: blocking or async."""

    collective: str
    codec: str = "none"
    storage: str = "own"
    call: str = "blocking"

    def __str__(self) -> str:
        marks = [self.codec if self.codec != "none" else "", self.storage if self.storage != "own" else ""]
        return ", ".join(filter(None, [self.collective, *marks, self.call if self.call != "blocking" else ""]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl bench allreduce`."""
    names, known = sorted(codecs, key=lambda name: name != "none"), ["auto", *collectives]
    parser.add_argument("--sizes", nargs="+", type=size, default=SIZES, metavar="SIZE", help="default: 1KiB … 64MiB")
    kind = one_of("collective", ["all", *known])
    parser.add_argument("--collectives", nargs="+", type=kind, default=["auto"], help=f"all, {', '.join(known)} (default: auto)")
    kind = one_of("codec", ["all", *names])
    parser.add_argument("--codecs", nargs="+", type=kind, default=["none"], help=f"all, {', '.join(names)} (default: none)")
    text = "own: a user's array; bucket: one in the node's shared memory, as a reducer's are (default: both)"
    parser.add_argument("--storage", nargs="+", choices=STORAGES, default=STORAGES, help=text)
    text = "blocking: allreduce; async: allreduce_async, then wait (default: both)"
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=CALLS, help=text)
    parser.add_argument("--rate", type=link_rate, metavar="RATE", help="of the link of each host, as in 25gbit: draws its bound")
    parser.add_argument("--repeat", type=count, help="repetitions (default: 5 to 300, as many as fit into --seconds)")
    parser.add_argument("--seconds", type=count, default=60, help="time for all (default: 60)")


def main(args: argparse.Namespace) -> int:
    """Measure on all ranks; rank 0 tells."""
    world = init()
    from mpi4py import MPI  # after init, which starts it

    library = str(recognise(MPI.Get_library_version()))
    chosen, notes = ways(world, args)
    runs = [measure(world, MPI, nbytes, chosen, args.repeat, args.seconds / len(args.sizes)) for nbytes in args.sizes]
    if world.rank == 0:
        _show(
            runs,
            f"{library}, {place(world)}: µs (times {PEER})",
            args,
            world,
        )
        print(*notes, sep="\n", end="\n" if notes else "")
        found = [result for run in runs for result in run]
        append(args.json, line("allreduce", found, library, ranks=world.size, nodes=world.nodes, rate=args.rate))
        if plot.possible(args.plot):
            _plot(args, world, runs, library)
    return 0


def ways(world: World, args: argparse.Namespace) -> tuple[list[Way], list[str]]:
    """What the options ask for, and what of it this world cannot do, in words."""
    every = {"collectives": ["auto", *collectives], "codecs": sorted(codecs, key=lambda name: name != "none")}
    names = {key: known if "all" in getattr(args, key) else getattr(args, key) for key, known in every.items()}
    storages, notes = list(dict.fromkeys(args.storage)), []
    if "bucket" in storages and not hasattr(world, "buffer"):
        storages.remove("bucket")
        notes.append("bucket storage is left out: this version has no world.buffer")
    every_way = [
        Way(collective, codec, storage, call)
        for codec in names["codecs"]
        for collective in names["collectives"]
        for storage in storages
        for call in dict.fromkeys(args.calls)
    ]
    return list(dict.fromkeys(every_way)), notes


def measure(world: World, mpi: Any, nbytes: int, chosen: list[Way], repeat: int | None, seconds: float) -> list[Result]:
    """The results for one size, the same on every rank. First the peer and a copy of the array by all ranks at once."""
    comm = mpi.COMM_WORLD
    source = np.random.default_rng(comm.rank).standard_normal(nbytes // 4, np.float32) * np.float32(0.01)
    arrays: dict[str, Floats] = {"own": np.empty_like(source)}
    if any(way.storage == "bucket" for way in chosen):
        arrays["bucket"] = world.buffer(source.shape, source.dtype)
    own, copied = arrays["own"], np.empty_like(source)
    timed: dict[Way, Callable[[], Any]] = {
        Way(PEER): lambda: comm.Allreduce(mpi.IN_PLACE, own, mpi.SUM),
        Way(COPY): lambda: np.copyto(copied, own),
        **{way: _action(world, way, arrays[way.storage]) for way in chosen},
    }

    def once(number: int) -> list[float]:
        return one_round(timed, comm.Barrier, lambda way: np.copyto(arrays[way.storage], source), number)

    table = rounds(comm, once, repeat, seconds)
    return [{**way._asdict(), "bytes": nbytes, **summary(column.tolist())} for way, column in zip(timed, table.T, strict=True)]


def _action(world: World, way: Way, x: Floats) -> Callable[[], Any]:
    if way.call == "async":
        return lambda: world.allreduce_async(x, codec=way.codec, collective=way.collective).wait()
    return lambda: world.allreduce(x, codec=way.codec, collective=way.collective)


def _way(found: Result) -> Way:
    return Way(*(found[field] for field in Way._fields))


def _bound(nbytes: int, args: argparse.Namespace, world: World) -> float | None:
    return ring_seconds(nbytes, world.nodes, args.rate) if args.rate and world.nodes > 1 else None


def _show(runs: list[list[Result]], title: str, args: argparse.Namespace, world: World) -> None:
    for first in range(1, len(runs[0]), _AT_ONCE):
        columns = range(first, min(first + _AT_ONCE, len(runs[0])))
        rows = []
        for run in runs:
            peer, bound = run[0]["median"], _bound(run[0]["bytes"], args, world)
            cells = [f"{1e6 * run[i]['median']:.4g} ({run[i]['median'] / peer:.2f}×)" for i in columns]
            rows.append([size_name(run[0]["bytes"]), f"{1e6 * peer:.4g}", *cells, *([f"{1e6 * bound:.4g}"] if bound else [])])
        names = [str(_way(runs[0][i])) for i in columns]
        limit = ["bound of the link"] if _bound(1, args, world) else []
        head = ["size", PEER, *names, *limit]
        show(title if first == 1 else "", head, rows)


def _plot(args: argparse.Namespace, world: World, runs: list[list[Result]], library: str) -> None:
    """Bytes of the array over the time of the slowest rank; the bound is a copy by all ranks at once on one node, else the link's."""
    series: dict[str, list[tuple[float, float]]] = {}
    bounds: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for found in run:
            where, name = (bounds, "bound: a copy in memory") if found["collective"] == COPY else (series, str(_way(found)))
            if where is series or world.nodes == 1:
                where.setdefault(name, []).append((found["bytes"], found["bytes"] / found["median"] / 1e9))
        bound = _bound(run[0]["bytes"], args, world)
        if bound:
            bounds.setdefault("bound: 2(p-1)/p of the bytes over the link", []).append((run[0]["bytes"], run[0]["bytes"] / bound / 1e9))
    plot.curves(
        args.plot,
        f"all-reduce of float32, {library}, {place(world)}",
        series,
        bounds,
    )
