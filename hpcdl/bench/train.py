"""A whole training of a small network: steps per second by number of ranks and codec, and the parts of a step.

One job does it all: groups of 1, 2, 4, … of its ranks train in turn while the others sleep. The batch is that over all ranks, so more
ranks do less each. The slowest rank counts.
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..collectives.collective import collectives
from ..demo.data import Dataset, load
from ..launch.mpiexec import recognise
from ..numpy import MLP, Shards, Trainer, evaluate
from ..reduction.compressors import names as compressor_names
from ..start import init
from ..world import World
from . import plot
from .options import count, one_of
from .record import append, line, show, summary
from .timing import slowest

__all__ = ["add_arguments", "main"]

PARTS = ("compute", "waiting", "optimizer", "total")
_SAMPLES, _PIXELS, _CLASSES = 2000, 64, 10  # of the synthetic data


class Variant(NamedTuple):
    """A number of ranks with a codec."""

    ranks: int
    codec: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl bench train`."""
    known, names, usual = ["auto", *collectives], compressor_names(), ["none", "fp16", "int8"]
    parser.add_argument("--codecs", nargs="+", type=one_of("codec", names), default=usual, help=f"default: {' '.join(usual)}")
    parser.add_argument("--collective", type=one_of("collective", known), default="auto", help=f"{', '.join(known)} (default: auto)")
    text = "digits: scikit-learn's; synthetic: drawn (default: digits where scikit-learn is installed)"
    parser.add_argument("--data", choices=["digits", "synthetic"], help=text)
    parser.add_argument("--hidden", type=count, nargs="+", default=[512], metavar="WIDTH", help="hidden layers (default: 512)")
    parser.add_argument("--batch-size", type=count, default=64, help="samples per step, over all ranks together (default: 64)")
    parser.add_argument("--epochs", type=count, default=2, help="per repetition (default: 2)")
    parser.add_argument("--repeat", type=count, default=5, help="repetitions (default: 5)")
    parser.add_argument("--whole", action="store_true", help="all ranks together only, not 1, 2, 4, … of them too")


def main(args: argparse.Namespace) -> int:
    """Measure on all ranks; rank 0 tells."""
    world = init()
    from mpi4py import MPI  # after init, which starts it

    library = str(recognise(MPI.Get_library_version()))
    data = _data(world, args.data)
    fewer = () if args.whole else (1 << i for i in range(world.size.bit_length()))
    counts = [n for n in fewer if n < world.size] + [world.size]
    variants = [Variant(n, codec) for n in counts for codec in (args.codecs if n > 1 else args.codecs[:1])]
    groups = {n: world.group(range(n)) for n in counts if world.rank < n}
    trainers = {variant: _trainer(groups[variant.ranks], data, variant.codec, args) for variant in variants if variant.ranks in groups}
    for variant in variants:
        _train(world, trainers.get(variant), data, args)  # the first touches fresh memory
    parts = np.array([[_train(world, trainers.get(variant), data, args) for variant in variants] for _ in range(args.repeat)])
    parts = slowest(MPI.COMM_WORLD, parts)
    accuracy = {variant: evaluate(t.model, t.loss, data.test_x, data.test_y, t.world).accuracy for variant, t in trainers.items()}
    results = [_result(variant, parts[:, i], trainers, accuracy) for i, variant in enumerate(variants) if world.rank == 0]
    if world.rank == 0:
        about = f"{library}, {'-'.join(map(str, trainers[variants[0]].model.sizes))} on {data.name}, batch {args.batch_size} over all ranks"
        _show(about, results)
        record = line("train", results, library, ranks=world.size, nodes=world.nodes, data=data.name, batch_size=args.batch_size)
        append(args.json, record)
        if plot.possible(args.plot):
            names = [f"{found['ranks']} ranks, {found['codec']}" for found in results]
            stacked = {part: [1e3 * found[part]["median"] for found in results] for part in PARTS[:-1]}
            plot.bars(args.plot, about, names, stacked, "ms per step", {})
    return 0


def _data(world: World, wanted: str | None) -> Dataset:
    """Digits, read by rank 0, or drawn data: normal samples around a centre for each class."""
    there = bool(world.broadcast(np.array([find_spec("sklearn") is not None]))[0])
    if wanted == "digits" or (wanted is None and there):
        return load(world, None, seed=0)
    random = np.random.default_rng(0)
    y = random.integers(_CLASSES, size=_SAMPLES)
    x = random.standard_normal((_SAMPLES, _PIXELS), np.float32) + random.standard_normal((_CLASSES, _PIXELS), np.float32)[y]
    cut = _SAMPLES * 4 // 5
    return Dataset("synthetic data", x[:cut], y[:cut], x[cut:], y[cut:], _CLASSES)


def _trainer(world: World, data: Dataset, codec: str, args: argparse.Namespace) -> Trainer:
    model = MLP((data.train_x.shape[1], *args.hidden, data.classes), seed=0)
    return Trainer(world, model, "cross_entropy", "adam", codec=codec, collective=args.collective)


def _train(world: World, trainer: Trainer | None, data: Dataset, args: argparse.Namespace) -> list[float]:
    """Seconds per step by part on this rank, bytes sent and steps; zeros on a rank that has no part in it, and sleeps meanwhile."""
    world.barrier()
    if trainer is None:
        return [0.0] * (len(PARTS) + 2)
    spent, group = trainer.spent, trainer.world
    before = [spent.compute, spent.waiting, spent.optimizer, spent.bytes_sent, spent.steps]
    shards = Shards(len(data.train_y), args.batch_size, group.rank, group.size)
    begin = perf_counter()
    for epoch in range(args.epochs):
        trainer.train_epoch(data.train_x, data.train_y, shards, epoch)
    seconds = perf_counter() - begin
    now = [spent.compute, spent.waiting, spent.optimizer, spent.bytes_sent, spent.steps]
    compute, waiting, optimizer, sent, steps = (b - a for a, b in zip(before, now, strict=True))
    return [compute / steps, waiting / steps, optimizer / steps, seconds / steps, sent / steps, steps]


def _result(variant: Variant, parts: NDArray[np.float64], trainers: dict[Variant, Trainer], accuracy: dict[Variant, Any]) -> dict[str, Any]:
    found = {part: summary(parts[:, i].tolist()) for i, part in enumerate(PARTS)}
    right = float(accuracy[variant] or 0.0)
    return {
        **variant._asdict(),
        **found,
        "bytes_per_step": float(np.median(parts[:, 4])),
        "accuracy": right,
        "memory": trainers[variant].reducer.memory.by_purpose(),
    }


def _show(about: str, results: list[dict[str, Any]]) -> None:
    alone = results[0]["total"]["median"]
    rows = []
    for found in results:
        speed = 1 / found["total"]["median"]
        times = [f"{1e3 * found[part]['median']:.3g}" for part in PARTS]
        more = [f"{found['bytes_per_step']:,.0f}", f"{found['accuracy']:.1%}"]
        rows.append([f"{found['ranks']}, {found['codec']}", f"{speed:,.0f} ({alone * speed:.2f}×)", *times, *more])
    head = ["ranks, codec", "steps per second", *(f"ms {part}" for part in PARTS), "bytes sent a step", "accuracy"]
    show(about, head, rows)
    for found in results:
        for name, nbytes in found["memory"].items():
            print(f"memory, {found['ranks']} ranks, {found['codec']}, {name}: {nbytes:,} bytes")
