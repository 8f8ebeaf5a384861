"""How fast is all-reduce between hosts? Measured in a lab of hosts with a real rate limit, beside the bound of a ring.

    python benchmarks/hosts.py                                    # 4 hosts; then 2 hosts with 2 ranks each
    python benchmarks/hosts.py --size 16MiB --repeat 2            # a quick look
    python benchmarks/hosts.py --json benchmarks/results/hosts.jsonl

In place, float32, sum; everything in turn, the slowest rank's time counts. Needs what benchmarks/netlab needs (Linux, root).

The bound: 2(h-1)/h x bytes / rate x 1514/1448 for h hosts: what a ring over the hosts has to send, in Ethernet frames, of which TCP leaves
1448 bytes of 1514 to the data. With a codec, the same for its wires. Bytes sent are counted by the transport, per rank, and must equal the
schedule's chunks by the formula in the codec's docstring.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import bench
from netlab.lab import Lab, LabError, bits

from hpcdl.codecs import BLOCK, by_name
from hpcdl.codecs import codecs as known_codecs
from hpcdl.collectives import ring
from hpcdl.collectives.collective import collectives
from hpcdl.collectives.layout import split_blocks
from hpcdl.collectives.schedule import Send

PEER = "MPI.Allreduce"
FRAMES = 1514 / 1448
HEADER = 16  # bytes ahead of all else to each peer
SHAPES = ((4, 1), (2, 2))  # hosts, ranks on each

Key = tuple[str, str]  # collective, codec


def ways(ranks_per_host: int, codecs: list[str]) -> list[Key]:
    """What is measured: the ring with every codec first, on one rank a host; else what knows of hosts."""
    beside = [("auto", "none"), (PEER, "none")]
    if ranks_per_host == 1:
        return [*(("ring", codec) for codec in codecs), *beside]
    return [*((name, "none") for name in ("two-level", "ring") if name in collectives), *beside]


def bound(nbytes: float, hosts: int, rate: int) -> float:
    """Seconds that a ring over the hosts needs at least for wires of `nbytes`."""
    return 2 * (hosts - 1) / hosts * nbytes * 8 / rate * FRAMES


def formula(codec: str, n: int, rank: int, size: int) -> int:
    """Bytes that a rank of a ring sends for n float32."""
    bounds = split_blocks(n, ring.ALL_REDUCE.chunks(size), BLOCK)
    sends = [action for step in ring.ALL_REDUCE.steps(rank, size) for action in step if isinstance(action, Send)]
    peers = {action.peer for action in sends}
    return HEADER * len(peers) + sum(by_name(codec).nbytes(bounds[action.hi] - bounds[action.lo]) for action in sends)


def inside(args: argparse.Namespace) -> None:
    """One rank of the job in the lab. Rank 0 writes what was found to `args.inside`."""
    import numpy as np

    import hpcdl
    from hpcdl.launch.mpiexec import recognise

    world = hpcdl.init()
    from mpi4py import MPI  # after init, which starts it

    comm = MPI.COMM_WORLD
    n = args.size // 4
    source = np.random.default_rng(comm.rank).standard_normal(n, np.float32) * np.float32(0.01)
    x = np.empty_like(source)
    keys = [(collective, codec) for collective, codec in map(tuple, json.loads(args.ways))]

    def call(key: Key, x: Any) -> Callable[[], Any]:
        if key[0] == PEER:
            return lambda: comm.Allreduce(MPI.IN_PLACE, x, MPI.SUM)
        return lambda: world.allreduce(x, codec=key[1], collective=key[0])

    for key in keys:
        call(key, x[: 1 << 16])()  # connections, plans
    rows = []
    for _ in range(args.repeat):
        row = []
        for key in keys:
            np.copyto(x, source)
            comm.Barrier()
            before, begin = world.bytes_sent, perf_counter()
            call(key, x)()
            row.append([perf_counter() - begin, world.bytes_sent - before])
        rows.append(row)
    mine = np.array(rows, np.float64)
    everyone = np.empty((comm.size, *mine.shape))
    comm.Allgather(mine, everyone)
    if world.rank:
        return
    wanted = {key: [formula(key[1], n, rank, comm.size) for rank in range(comm.size)] for key in keys if key[0] == "ring"}
    results: list[dict[str, Any]] = []
    for index, key in enumerate(keys):
        seconds, counted = everyone[:, :, index, 0].max(axis=0), everyone[:, :, index, 1].astype(int)
        found = {"collective": key[0], "codec": key[1], "bytes": args.size, **bench.summary(seconds.tolist())}
        found |= {"wire": int(counted.max()) or None, "formula": max(wanted[key]) if key in wanted else None}
        found["counted_right"] = bool((counted == np.array(wanted[key])[:, None]).all()) if key in wanted else None
        results.append(found)
    placed = [world.nodes, world.size // world.nodes]
    Path(args.inside).write_text(json.dumps([str(recognise(MPI.Get_library_version())), placed, results]), encoding="utf-8")


def measure(args: argparse.Namespace, hosts: int, each: int) -> tuple[str, list[dict[str, Any]]]:
    """The MPI library and the results of one lab. Raises LabError where the job fails."""
    with tempfile.TemporaryDirectory() as folder, Lab(hosts, args.rate) as lab:
        out = Path(folder) / "results.json"
        words = [sys.executable, __file__, "--inside", str(out), "--size", str(args.size), "--repeat", str(args.repeat)]
        code = lab.run([*words, "--ways", json.dumps(ways(each, args.codecs))], each)
        if code or not out.exists():
            raise LabError(f"the job on {hosts} hosts x {each} ranks ended with code {code}")
        library, placed, results = json.loads(out.read_text(encoding="utf-8"))
        if placed != [hosts, each]:
            raise LabError(f"the ranks were placed on {placed[0]} nodes, {placed[1]} on each; wanted {hosts} and {each}")
        return library, results


def table(args: argparse.Namespace, hosts: int, each: int, library: str, results: list[dict[str, Any]]) -> None:
    """Print the results of one lab, and add to them what they mean."""
    exact = next(found["median"] for found in results if found["codec"] == "none")
    rows = []
    for found in results:
        wire = by_name(found["codec"]).nbytes(args.size // 4)
        found["bound"] = bound(wire, hosts, bits(args.rate))
        found["of_bound"], found["faster"] = found["median"] / found["bound"], exact / found["median"]
        times = "/".join(f"{found[part]:.3g}" for part in ("median", "min", "max"))
        check = {True: "= formula", False: f"formula {found['formula']:,}" if found["formula"] else "", None: ""}[found["counted_right"]]
        sent = f"{found['wire']:,}" if found["wire"] else "not counted"
        cells = [times, f"{found['of_bound']:.3f}", f"{found['faster']:.2f}", sent, check]
        rows.append([f"{found['collective']} {found['codec']}", *cells])
    title = f"{library}, {hosts} hosts x {each}, {args.rate}, {bench.size_name(args.size)} float32; bound {results[0]['bound']:.3f} s"
    bench.show(title, ["", "s median/min/max", "of its bound", "times float32", "bytes sent", ""], rows)


def main() -> int:
    """Build the labs, measure, print."""
    parser = bench.Parser(__doc__)
    names = sorted(known_codecs, key=lambda name: name != "none")
    parser.add_argument("--size", type=bench.size, default=1 << 26, help="of the array (default: 64MiB)")
    parser.add_argument("--rate", default="200mbit", help="of each host, each way, as tc writes it (default: 200mbit)")
    parser.add_argument("--codecs", nargs="+", type=bench.one_of("codec", names), default=["none", "fp16", "bf16", "int8"])
    parser.add_argument("--repeat", type=bench.count, default=3, help="repetitions (default: 3)")
    shapes = [f"{hosts}x{each}" for hosts, each in SHAPES]
    parser.add_argument("--shapes", nargs="+", choices=shapes, default=shapes, help=f"hosts x ranks on each (default: {' '.join(shapes)})")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--ways", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        inside(args)
        return 0
    wrong = False
    try:
        for hosts, each in (map(int, shape.split("x")) for shape in args.shapes):
            library, results = measure(args, hosts, each)
            table(args, hosts, each, library, results)
            wrong |= any(found["counted_right"] is False for found in results)
            facts = {"hosts": hosts, "ranks": hosts * each, "rate": args.rate}
            bench.append(args.json, bench.line("hosts", results, library, **facts))
    except LabError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    if wrong:
        print(f"{parser.prog}: bytes on the wire are not those of the formula", file=sys.stderr)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
