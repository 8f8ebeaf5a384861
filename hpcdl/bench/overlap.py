"""How much communication hides behind a backward pass. The pass is a real one, of an MLP, on all ranks; nothing sleeps.

The batch is calibrated, with all ranks computing, so that backward alone takes as long as communication alone: then there is just enough
to hide behind. ``hidden = 1 - (step - compute) / communication``. At most all but the last bucket can be hidden, since that one is
complete only when backward is over. Computing alone, communicating alone and the whole step are timed in turn; the slowest rank counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..collectives.collective import collectives
from ..launch.mpiexec import recognise
from ..reduction.bucket import layout
from ..reduction.compressors import names as compressor_names
from ..start import init
from ..world import World
from . import ddp, plot
from .options import count, link_rate, one_of, size, size_name
from .record import append, line, place, show, summary, versions
from .sides import Own, Side
from .timing import one_round, rounds, slowest

__all__ = ["add_arguments", "main"]

PARTS = ("compute", "communication", "step")
_NEAR = 0.05  # backward and communication count as equally long within this
_TRIES = 6
_LONG = 0.2  # seconds
_LARGEST = 1 << 14  # samples: enough for any network that would be trained on

Shapes = list[tuple[int, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl bench overlap`."""
    known, names = ["auto", *collectives], compressor_names()
    parser.add_argument("--size", type=size, default=32 << 20, help="of all gradients, about (default: 32MiB)")
    parser.add_argument("--bucket", type=size, default=4 << 20, help="size of a bucket (default: 4MiB)")
    parser.add_argument("--codec", type=one_of("codec", names), default="none", help=f"{', '.join(names)} (default: none)")
    parser.add_argument("--collective", type=one_of("collective", known), default="auto", help=f"{', '.join(known)} (default: auto)")
    parser.add_argument("--error-feedback", action="store_true", help="add what the codec lost to the next step's gradient")
    parser.add_argument("--batch", type=count, help="samples per rank (default: calibrated)")
    parser.add_argument("--rate", type=link_rate, metavar="RATE", help="of the link of each host, as in 200mbit: goes into the record")
    parser.add_argument("--no-ddp", action="store_true", help="leave out torch DDP over gloo, which is measured where torch is installed")
    parser.add_argument("--repeat", type=count, help="repetitions (default: 5 to 300, as many as fit into --seconds)")
    parser.add_argument("--seconds", type=count, default=60, help="time for all repetitions (default: 60)")


def main(args: argparse.Namespace) -> int:
    """Measure on all ranks; rank 0 tells."""
    world = init()
    from mpi4py import MPI  # after init, which starts it

    comm, library = MPI.COMM_WORLD, str(recognise(MPI.Get_library_version()))
    sizes, last = network(args.size, args.bucket)
    own = Own(world, sizes, args)
    sides: list[Side] = [own]
    why = "left out by --no-ddp" if args.no_ddp else ddp.missing(comm)
    if not why:
        sides.append(ddp.DDP(comm, sizes, args.bucket, world.local_size, world.nodes))
    batches = [calibrate(comm, side, args.batch) for side in sides]
    timed: dict[Any, Callable[[], float | None]] = {(side, part): getattr(side, part) for side in sides for part in PARTS}
    cpu = Clock(world, timed)
    table = rounds(comm, lambda number: one_round(cpu.actions, comm.Barrier, first=number), args.repeat, args.seconds)
    columns = {key: table[:, i] for i, key in enumerate(timed)}
    results = [
        result(side, batch, {part: columns[side, part] for part in PARTS}, 1 - last, cpu.spent(comm, side))
        for side, batch in zip(sides, batches, strict=True)
    ]
    account = own.trainer.reducer.memory.by_purpose()
    if world.rank == 0:
        about = f"{library}, {place(world)}, {'-'.join(map(str, sizes))}, buckets of {size_name(args.bucket)}"
        _show(about, results, account, why)
        facts = {
            "ranks": world.size,
            "nodes": world.nodes,
            "sizes": sizes,
            "bucket_bytes": args.bucket,
            "codec": args.codec,
            "rate": args.rate,
        }
        record = line("overlap", results, library, **facts, collective=args.collective, memory=account)
        append(args.json, {**record, "versions": versions(library, ["torch"])})
        if plot.possible(args.plot):
            _plot(args, about, results)
    if not why:
        ddp.close()
    return 0


def network(nbytes: int, bucket: int) -> tuple[tuple[int, ...], float]:
    """Widths of an MLP with about `nbytes` of parameters, a layer a bucket; and the last bucket's share of the bytes."""
    width = int(min(0.97 * bucket / 4, nbytes / 8) ** 0.5) // 16 * 16 or 16
    sizes = (width,) * (1 + max(2, round(nbytes / 4 / (width * width + width))))
    shapes: Shapes = [shape for _ in sizes[1:] for shape in ((width, width), (width,))]
    plans = layout(shapes, [np.dtype(np.float32)] * len(shapes), bucket)
    return sizes, plans[-1].size / sum(plan.size for plan in plans)


def calibrate(comm: Any, side: Side, batch: int | None) -> int:
    """Samples per rank for which backward alone takes as long as communication alone, all ranks at it; the same on all ranks."""
    found = batch or 8
    side.prepare(found)
    for _ in range(0 if batch else _TRIES):
        goal, backward = _seconds(comm, lambda: _timed(side.communication)), _seconds(comm, side.backward)
        if abs(backward / goal - 1) < _NEAR:
            break
        found = max(1, min(_LARGEST, round(found * goal / backward)))
        side.prepare(found)
    return found


def _seconds(comm: Any, measure: Callable[[], float]) -> float:
    """The median of five, of three where they are long, of the slowest rank; the first of all is not counted."""
    found: list[float] = []
    while len(found) < (4 if found and found[0] > _LONG else 6):
        comm.Barrier()
        found += slowest(comm, np.array([measure()])).tolist()
    return median(found[1:])


def _timed(action: Callable[[], None]) -> float:
    begin = perf_counter()
    action()
    return perf_counter() - begin


class Clock:
    """Notes what each action costs in CPU seconds of the process and of the progress loop, and the seconds of backward that it tells."""

    def __init__(self, world: World, timed: dict[Any, Callable[[], float | None]]) -> None:
        self._world, self._timed = world, timed
        self._spent: dict[Any, list[NDArray[np.float64]]] = {key: [] for key in timed}
        self.actions = {key: (lambda key=key: self._run(key)) for key in timed}

    def _now(self) -> NDArray[np.float64]:
        return np.array([process_time(), self._world.progress_cpu_seconds])

    def _run(self, key: Any) -> None:
        before = self._now()
        backward = self._timed[key]()
        self._spent[key].append(np.append(self._now() - before, backward or 0.0))

    def spent(self, comm: Any, side: Side) -> tuple[float, dict[str, float]]:
        """Medians over the repetitions, of the rank that spends most: seconds of backward; CPU seconds of `compute` and of `step`, and of
        `progress` in a step, for hpcdl."""
        computing, stepping = (np.median(self._spent[side, part], axis=0) for part in ("compute", "step"))
        cpu, loop, backward = slowest(comm, np.array([stepping[0], stepping[1], computing[2]])).tolist()
        alone = float(slowest(comm, computing[:1])[0])
        return backward, {"compute": alone, "step": cpu, **({"progress": loop} if isinstance(side, Own) else {})}


def result(
    side: Side, batch: int, times: dict[str, NDArray[np.float64]], most: float, spent: tuple[float, dict[str, float]]
) -> dict[str, Any]:
    """One side's figures. `hidden` is the median over the repetitions, each with the times of its own round; with its quartiles."""
    hidden = (1 - (times["step"] - times["compute"]) / times["communication"]).tolist()
    low, _, high = quantiles(hidden, n=4) if len(hidden) > 1 else hidden * 3
    backward, cpu = spent
    return {
        "side": side.name,
        "batch": batch,
        "backward": float(f"{backward:.4g}"),
        **{part: summary(times[part].tolist()) for part in PARTS},
        "hidden": {"median": round(median(hidden), 4), "quartiles": [round(low, 4), round(high, 4)]},
        "most": round(most, 4),
        "cpu_seconds": {name: float(f"{value:.4g}") for name, value in cpu.items()},
    }


def _show(about: str, results: list[dict[str, Any]], account: dict[str, int], why: str) -> None:
    rows = []
    for found in results:
        low, high = found["hidden"]["quartiles"]
        share = found["hidden"]["median"]
        cpu = found["cpu_seconds"]
        rows.append(
            [
                f"{found['side']}, batch {found['batch']}",
                f"{1e3 * found['backward']:.4g}",
                *(f"{1e3 * found[part]['median']:.4g}" for part in PARTS),
                f"{share:.1%} ({low:.0%} to {high:.0%})",
                f"{found['most']:.1%}",
                f"{share / found['most']:.1%}",
                f"{1e3 * cpu['step']:.4g} ({1e3 * cpu['compute']:.4g})",
                f"{1e3 * cpu['progress']:.4g}" if "progress" in cpu else "",
            ]
        )
    head = ["ms per step", "backward", *PARTS, "hidden", "at most", "of that", "CPU (computing alone)", "CPU of loop"]
    show(about, head, rows)
    for name, nbytes in account.items():
        print(f"memory, {name}: {nbytes:,} bytes")
    if why:
        print(f"torch DDP over gloo: {why}")


def _plot(args: argparse.Namespace, about: str, results: list[dict[str, Any]]) -> None:
    """Each side: what a step takes, of it what computing takes, beside communication alone; the line is what would hide all that can be."""
    names, computing, rest, marks = [], [], [], {}
    for found in results:
        ms = {part: 1e3 * found[part]["median"] for part in PARTS}
        names += [f"{found['side']}: step", f"{found['side']}: communication alone"]
        computing += [ms["compute"], 0.0]
        rest += [max(ms["step"] - ms["compute"], 0.0), ms["communication"]]
        marks[f"{found['side']}: a step with all hidden but the last bucket"] = ms["compute"] + (1 - found["most"]) * ms["communication"]
    plot.bars(args.plot, about, names, {"computing": computing, "communication, not hidden": rest}, "ms", marks)
