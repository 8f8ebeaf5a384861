"""Does training with few bytes reach what float32 reaches? Each codec and compressor, on the same data, seeds and steps.

    hpcdl run -n 4 benchmarks/convergence.py --json benchmarks/results/convergence.jsonl

Two models on scikit-learn's digits: a perceptron (`hpcdl.numpy`) and a convolutional network (PyTorch, where it is installed). Prints the
test accuracy, its distance from that of float32, and the bytes that a rank sends per step over a ring. Exit code 1 where a mean over the
seeds is more than the margin below that of float32. Learning rate and steps are the same for all, chosen for float32; plain SGD, since what
error feedback sends late is sent at once, which momentum multiplies.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import bench
import numpy as np

import hpcdl
from hpcdl.demo.data import load
from hpcdl.errors import HpcdlError
from hpcdl.numpy import MLP, Shards, Trainer, evaluate
from hpcdl.reduction.compressors import by_name, compressors, names

USUAL = {"topk": "topk:ratio=0.01", "randomk": "randomk:ratio=0.1", "sign": "sign", "powersgd": "powersgd:rank=4"}


MARGIN = 1.0  # percentage points of test accuracy that count as the same


class Model(NamedTuple):
    """How to train one: gives the test accuracy in per cent, and the bytes that this rank sent per step."""

    train: Callable[[hpcdl.World, str, int, int], tuple[float, float]]  # world, codec, seed, epochs
    epochs: int


def perceptron(world: hpcdl.World, codec: str, seed: int, epochs: int) -> tuple[float, float]:
    """A 64-256-10 perceptron, batch 64 over all ranks."""
    data = load(world, None, seed)
    model = MLP((data.train_x.shape[1], 256, data.classes), seed=seed)
    trainer = Trainer(world, model, "cross_entropy", "sgd:lr=0.3", codec=codec, collective="ring", bucket_bytes=1 << 15)
    shards = Shards(len(data.train_y), 64, world.rank, world.size, seed)
    for epoch in range(epochs):
        trainer.train_epoch(data.train_x, data.train_y, shards, epoch)
    score = evaluate(trainer.model, trainer.loss, data.test_x, data.test_y, world)
    trainer.reducer.close()
    return 100 * (score.accuracy or 0.0), trainer.spent.bytes_sent / trainer.spent.steps


def convnet(world: hpcdl.World, codec: str, seed: int, epochs: int) -> tuple[float, float]:
    """See convnet.py."""
    from convnet import train

    return train(world, codec, seed, epochs)


MODELS = {"perceptron": Model(perceptron, 20), "convnet": Model(convnet, 25)}


def measure(world: hpcdl.World, name: str, codec: str, seeds: Sequence[int], epochs: int) -> dict[str, Any]:
    """One line of the results: a model with a codec, for all seeds. Bytes are those of the rank that sends most."""
    found = [MODELS[name].train(world, codec, seed, epochs) for seed in seeds]
    sent = float(world.allreduce(np.array([statistics.mean(sent for _, sent in found)]), "max")[0])
    feedback = by_name(codec).error_feedback
    return {
        "model": name,
        "codec": codec,
        "error_feedback": feedback,
        "epochs": epochs,
        "accuracy": [a for a, _ in found],
        "bytes_per_step": round(sent),
    }


def judge(results: Sequence[dict[str, Any]]) -> None:
    """Add to each line what it is beside the same model's float32."""
    plain = {found["model"]: found for found in results if found["codec"] == "none"}
    for found in results:
        base = plain[found["model"]]
        found["mean"] = round(statistics.mean(found["accuracy"]), 3)
        found["difference"] = round(found["mean"] - statistics.mean(base["accuracy"]), 3)
        found["within"] = found["difference"] >= -MARGIN
        found["bytes_ratio"] = float(f"{found['bytes_per_step'] / base['bytes_per_step']:.3g}") if base["bytes_per_step"] else None


def _cells(found: dict[str, Any]) -> list[str]:
    ratio = "" if found["bytes_ratio"] is None else f"{found['bytes_ratio']:.3g}"
    accuracy = f"{found['mean']:.2f} ({min(found['accuracy']):.2f}-{max(found['accuracy']):.2f})"
    return [
        found["codec"],
        f"{found['bytes_per_step']:,}",
        ratio,
        accuracy,
        f"{found['difference']:+.2f}",
        "yes" if found["within"] else "NO",
    ]


def main() -> int:
    """Train what the options say."""
    parser = bench.Parser(__doc__)
    usual = [USUAL.get(name, name) for name in ("none", *(name for name in names() if name != "none"))]
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: both")
    parser.add_argument("--codecs", nargs="+", default=usual, type=bench.one_of("codec", [*names(), *compressors]), help="beside none")
    parser.add_argument("--seeds", type=bench.count, default=3, help="how many (default: 3)")
    parser.add_argument("--epochs", type=bench.count, help=f"default: {', '.join(str(model.epochs) for model in MODELS.values())}")
    args = parser.parse_args()
    try:
        codecs = list(dict.fromkeys(["none", *(codec for codec in args.codecs if by_name(codec))]))
    except HpcdlError as error:
        parser.error(str(error))
    world, results = hpcdl.init(), []
    for name in args.models:
        if name == "convnet" and find_spec("torch") is None:
            if world.rank == 0:
                print("convnet: skipped, since PyTorch is not installed; cure: pip install torch")
            continue
        results += [measure(world, name, codec, range(args.seeds), args.epochs or MODELS[name].epochs) for codec in codecs]
    judge(results)
    if world.rank == 0:
        for name in dict.fromkeys(found["model"] for found in results):
            title = (
                f"{name}, {world.size} ranks, {args.seeds} seeds: test accuracy in per cent, mean (least-most); within: {MARGIN:g} point"
            )
            head = ["codec", "bytes per step", "of float32", "accuracy", "difference", "within"]
            bench.show(title, head, [_cells(found) for found in results if found["model"] == name])
        bench.append(args.json, bench.line("convergence", results, _mpi(), ranks=world.size, seeds=args.seeds, margin=MARGIN))
    return 0 if all(found["within"] for found in results) else 1


def _mpi() -> str | None:
    from hpcdl.launch.mpiexec import library

    return str(library())


if __name__ == "__main__":
    sys.exit(main())
