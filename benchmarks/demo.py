"""Where does a step of the demo spend its time? Compute, waiting for communication, optimizer; by ranks and codec.

    python benchmarks/demo.py --json benchmarks/results/demo.jsonl

Runs `hpcdl demo` again and again, all variants in turn. One rank sends nothing, so it is run with the first codec only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench

from hpcdl.codecs import codecs
from hpcdl.launch.mpiexec import library

PARTS = ("compute", "waiting", "optimizer")


def demo(ranks: int, codec: str, epochs: int, folder: Path) -> dict[str, Any]:
    """The report of one demo. Ends this program where the demo fails."""
    path = folder / "report.json"
    options = ["-n", str(ranks), "--codec", codec, "--epochs", str(epochs), "--json", str(path)]
    done = subprocess.run([sys.executable, "-m", "hpcdl.cli", "demo", *options], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"hpcdl demo {' '.join(options)} failed with exit code {done.returncode}:\n{done.stdout}{done.stderr}")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def result(ranks: int, codec: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """All repetitions of one variant, in seconds per step."""
    steps = [report["step_seconds"] for report in reports]
    parts = {part: bench.summary([step[part] for step in steps]) for part in PARTS}
    parts["total"] = bench.summary([sum(step.values()) for step in steps])
    return {"ranks": ranks, "codec": codec, "network": reports[0]["network"], "batch_size": reports[0]["batch_size"], **parts}


def _cells(found: dict[str, Any]) -> list[str]:
    times = ["/".join(f"{1e3 * found[part][key]:.3g}" for key in ("median", "min", "max")) for part in (*PARTS, "total")]
    return [f"{found['ranks']} {found['codec']}", *times]


def main() -> None:
    """Measure what the options say."""
    parser = bench.Parser(__doc__)
    names, usual = codecs.names(), ["none", "fp16", "int8"]
    parser.add_argument("--ranks", nargs="+", type=bench.count, default=[1, 2, 4], help="default: 1 2 4")
    parser.add_argument("--codecs", nargs="+", type=bench.one_of("codec", names), default=usual, help=f"default: {' '.join(usual)}")
    parser.add_argument("--epochs", type=bench.count, default=10, help="per demo (default: 10)")
    parser.add_argument("--repeat", type=bench.count, default=5, help="repetitions (default: 5)")
    args = parser.parse_args()
    variants = [(ranks, codec) for ranks in args.ranks for codec in (args.codecs if ranks > 1 else args.codecs[:1])]
    reports: dict[tuple[int, str], list[dict[str, Any]]] = {variant: [] for variant in variants}
    with tempfile.TemporaryDirectory(prefix="hpcdl-benchmark-") as folder:
        for _ in range(args.repeat):
            for ranks, codec in variants:
                reports[ranks, codec].append(demo(ranks, codec, args.epochs, Path(folder)))
    results = [result(ranks, codec, found) for (ranks, codec), found in reports.items()]
    mpi = str(library())
    bench.show(f"{mpi}: ms per step, median/min/max of {args.repeat} runs", ["ranks, codec", *PARTS, "total"], map(_cells, results))
    bench.append(args.json, bench.line("demo", results, mpi, epochs=args.epochs))


if __name__ == "__main__":
    main()
