"""What a GPU does here: codecs beside a copy of memory, all-reduce beside MPI's staged by hand and NCCL, the demo and a GPT beside the CPU.

    python benchmarks/gpu.py --json benchmarks/results/gpu.jsonl

Needs a GPU, CuPy (`hpcdl[cuda12]` or `hpcdl[cuda13]`) and an MPI; the GPT needs PyTorch with CUDA, the demo `hpcdl[demo]`. Ends with exit
code 2 where there is no GPU. All that is compared runs in one go and in turn; a part that cannot run here says why, and the others go on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import bench
import numpy as np

from hpcdl.arrays.gpu import Gpu, why_no_gpu
from hpcdl.codecs import by_name, codecs
from hpcdl.codecs.on_device import block_kernels
from hpcdl.codecs.sign import Sign
from hpcdl.codecs.topk import TopK
from hpcdl.launch.mpiexec import library

PARTS = ("codecs", "allreduce", "demo", "gpt")
PATHS = ("staged", "aware", "nccl")
_RANKS = Path(__file__).with_name("gpu_ranks.py")
_LIMIT = 180  # seconds of a job

Row = dict[str, Any]
Summary = Mapping[str, float]


def wire_formats() -> dict[str, Any]:
    """Every codec that loses something, and the two formats of compressors."""
    return {**{name: by_name(name) for name in codecs.names() if not by_name(name).exact}, "sign": Sign(), "topk:ratio=0.01": TopK(0.01)}


def actions(xp: Any, nbytes: int) -> dict[tuple[str, str], tuple[int, Callable[[], Any]]]:
    """By codec and direction: bytes read and written at least, and the call, on `nbytes` of float32. First a copy, which is the measure."""
    n = nbytes // 4
    x = xp.asarray(np.random.default_rng(0).standard_normal(n, np.float32))
    y = xp.zeros(n, "f4")
    found: dict[tuple[str, str], tuple[int, Callable[[], Any]]] = {("copy", "copy"): (2 * nbytes, lambda: xp.copyto(y, x))}
    for name, codec in wire_formats().items():
        wire = xp.zeros(codec.nbytes(n), "u1")
        codec.encode(x, wire)
        once = nbytes + wire.nbytes
        found[name, "encode"] = once, lambda codec=codec, wire=wire: codec.encode(x, wire)
        found[name, "decode"] = once, lambda codec=codec, wire=wire: codec.decode(wire, y)
        if (kernels := block_kernels(codec, x)) is not None:
            found[name, "decode and add"] = once + nbytes, lambda kernels=kernels, wire=wire: kernels.add(wire, y)
    return found


def timed(todo: Mapping[Any, tuple[int, Callable[[], Any]]], device: Any, repeat: int) -> dict[Any, list[float]]:
    """Seconds of each call, `repeat` times, in turn, by events of `device`. The first round, which compiles, does not count."""
    seconds: dict[Any, list[float]] = {key: [] for key in todo}
    first = next(iter(todo.values()))[1]
    for number in range(repeat + 1):
        laps = []
        first()  # not timed: the device is at work, so that no lap holds the time which the host takes to queue a call
        for key, (_, call) in todo.items():
            begin = device.lap()
            call()
            laps.append((key, begin, device.lap()))
        while not laps[-1][2].done():
            pass
        for key, begin, end in laps if number else []:
            seconds[key].append(device.seconds(begin, end))
    return seconds


def codec_rows(todo: Mapping[Any, tuple[int, Any]], seconds: Mapping[Any, Sequence[float]]) -> list[Row]:
    """A row for each codec and direction: seconds, GB/s of the bytes that must be moved, and its share of the copy's."""
    speeds = {key: todo[key][0] / float(np.median(each)) / 1e9 for key, each in seconds.items()}
    copied = speeds["copy", "copy"]
    return [
        {"codec": codec, "direction": direction, "bytes": todo[codec, direction][0], "seconds": bench.summary(list(each))}
        | {"gb_per_second": round(speeds[codec, direction], 1), "of_copy": round(speeds[codec, direction] / copied, 3)}
        for (codec, direction), each in seconds.items()
    ]


def ended(words: Sequence[Any], **environ: str) -> tuple[int, str]:
    """Exit code and output of `hpcdl` with these words; a job that hangs is ended, and costs one row, not all."""
    command = ["timeout", "--kill-after=10", _LIMIT, sys.executable, "-m", "hpcdl.cli", *words]
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, env={**os.environ, **environ})
    late = done.returncode in (124, 137)
    return done.returncode, done.stderr + done.stdout + late * f"\nnot done after {_LIMIT} s"


def job(ranks: int, words: Sequence[Any], folder: Path, **environ: str) -> list[Row] | str:
    """What `gpu_ranks.py` says on so many ranks of this machine; or why it cannot."""
    path = folder / "answer.json"
    path.unlink(missing_ok=True)
    code, output = ended(["run", "-n", ranks, _RANKS, path, *words], **environ)
    if code or not path.exists():
        return reason(output)
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def reason(output: str) -> str:
    """The line of a failed job that says most: an error of ours, else its last one."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("hpcdl.errors.")), lines[-1] if lines else "it said nothing")


def demo_row(ranks: int, device: str, epochs: int, folder: Path) -> Row | str:
    """One `hpcdl demo`."""
    path = folder / "demo.json"
    path.unlink(missing_ok=True)
    words = ["demo", "-n", ranks, "--device", device, "--epochs", epochs, "--hidden", "4096,4096", "--batch-size", 512, "--json", path]
    _, output = ended(words)
    if not path.exists():
        return reason(output)
    report = json.loads(path.read_text(encoding="utf-8"))
    names = ("ranks", "device", "samples_per_second", "step_seconds", "test_accuracy", "replicas_equal")
    return {name: report[name] for name in names}


def settled(rows: list[Row], skipped: dict[str, str], what: str, found: Any) -> None:
    """Put what was found among the rows, or why nothing was among what was skipped."""
    if isinstance(found, str):
        skipped[what] = found
    else:
        rows += found if isinstance(found, list) else [found]


def milliseconds(seconds: Summary) -> str:
    """Median and range."""
    return "/".join(f"{1e3 * seconds[name]:.3g}" for name in ("median", "min", "max"))


def show(results: Mapping[str, list[Row]], skipped: Mapping[str, str], gpu: str) -> None:
    """Print the tables of what was measured."""
    cells = [
        [f"{r['codec']} {r['direction']}", milliseconds(r["seconds"]), f"{r['gb_per_second']:g}", f"{r['of_copy']:.0%}"]
        for r in results["codecs"]
    ]
    bench.show(f"{gpu}: codecs, ms median/min/max", ["codec", "ms", "GB/s", "of a copy"], cells)
    cells = [
        [f"{r['ranks']} {r['who']}, {r['path']}", bench.size_name(r["bytes"]), milliseconds(r["seconds"])] for r in results["allreduce"]
    ]
    bench.show(f"{gpu}: all-reduce of float32, slowest rank", ["ranks, who, path", "size", "ms"], cells)
    cells = [[f"{r['ranks']} on {r['device']}", f"{r['samples_per_second']:,.0f}", f"{r['test_accuracy']:.2%}"] for r in results["demo"]]
    bench.show("demo, 4096,4096 hidden, batch 512", ["ranks", "samples/s", "accuracy"], cells)
    cells = [[f"{r['ranks']} on {r['device']}, {r['codec']}", milliseconds(r["seconds"]), f"{r['loss']:.4f}"] for r in results["gpt"]]
    bench.show("GPT, a step", ["ranks, codec", "ms", "loss at the end"], cells)
    for what, why in skipped.items():
        print(f"not measured: {what}: {why}")


def measure(args: Any, gpu: Gpu) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """Everything that `args` ask for, and what could not be measured, with the reason."""
    results: dict[str, list[Row]] = {part: [] for part in PARTS}
    skipped: dict[str, str] = {}
    if "codecs" in args.parts:
        from hpcdl.arrays.device import DEVICE

        with gpu:
            todo = actions(gpu.xp, args.codec_bytes)
            results["codecs"] = codec_rows(todo, timed(todo, DEVICE, args.repeat))
    with tempfile.TemporaryDirectory(prefix="hpcdl-benchmark-") as name:
        folder = Path(name)
        for ranks in args.ranks:
            for path in args.paths if "allreduce" in args.parts else ():
                found = job(ranks, ["allreduce", args.repeat, *args.sizes], folder, HPCDL_DEVICE_PATH=path)
                settled(results["allreduce"], skipped, f"all-reduce, {ranks} ranks, {path}", found)
            for device in ("cpu", "cuda"):
                if "demo" in args.parts:
                    settled(results["demo"], skipped, f"demo, {ranks} ranks, {device}", demo_row(ranks, device, args.epochs, folder))
                if "gpt" in args.parts:
                    settled(results["gpt"], skipped, f"GPT, {ranks} ranks, {device}", job(ranks, ["gpt", args.steps, device], folder))
    return results, skipped


def main() -> None:
    """Measure what the options say."""
    parser = bench.Parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help=f"default: {' '.join(PARTS)}")
    parser.add_argument("--ranks", nargs="+", type=bench.count, default=[2, 4], help="of jobs; all on this machine (default: 2 4)")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=PATHS, help=f"of device memory (default: {' '.join(PATHS)})")
    parser.add_argument("--codec-bytes", type=bench.size, default=256 << 20, help="of float32 that codecs work on (default: 256MiB)")
    sizes = [1 << 20, 16 << 20, 64 << 20]
    parser.add_argument("--sizes", nargs="+", type=bench.size, default=sizes, help="of all-reduces (default: 1MiB 16MiB 64MiB)")
    parser.add_argument("--repeat", type=bench.count, default=50, help="repetitions (default: 50)")
    parser.add_argument("--epochs", type=bench.count, default=5, help="of each demo (default: 5)")
    parser.add_argument("--steps", type=bench.count, default=30, help="of each GPT (default: 30)")
    args = parser.parse_args()
    if trouble := why_no_gpu():
        parser.exit(2, f"gpu.py: nothing is measured: {trouble}\n")
    gpu = Gpu(0)
    results, skipped = measure(args, gpu)
    show(results, skipped, gpu.name)
    rows = [{"part": part, **row} for part, found in results.items() for row in found]
    facts = {"gpu": gpu.name, "gpus": gpu.count, "cuda": gpu.versions(), "skipped": skipped}
    bench.append(args.json, bench.line("gpu", rows, str(library()), **facts))


if __name__ == "__main__":
    main()
