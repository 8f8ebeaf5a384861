"""hpcdl against what people have: MPI.Allreduce, torch gloo, Horovod. Side by side on this machine, in one run, as ratios.

    python benchmarks/versus.py --json benchmarks/results/versus.jsonl
    python benchmarks/versus.py --python A/bin/python --python B/bin/python

Each --python is an environment with an MPI library, and with whatever peers are to be measured; what is missing is said and left out.
All-reduce of float32, sum, in place, by 2 and by 4 ranks: from a user's own array, and from bucket storage (an array in the node's shared
memory, where a reducer keeps gradients). A repetition: fill the array anew, barrier, call; the slowest rank's time counts. Up to 64 KiB, 50
calls in a row and their mean, as in OSU's benchmarks.

How it is interleaved. MPI.Allreduce, gloo and hpcdl (and a plain copy of the array by all ranks at once) live in one process per rank and
are called in turn, each time beginning with another one. Horovod's cycle time is fixed when it starts, and its thread wakes in every cycle
even if nobody calls it, so it has jobs of its own: one with its default, one for each --cycle-time. All jobs, of all environments, are
started once and live through the whole run; round by round and size by size they take turns, on arrays allocated anew each time. A job
that is not being timed is stopped (SIGSTOP), so none burns a core or spins while another is timed. How much each would burn is measured
and printed. The first call after a stop is not counted.

How it is reported. Of each round the median counts. A ratio is hpcdl's over that of the fastest peer with the same MPI library, in the
same round: below 1, hpcdl is faster. Printed: the median over the rounds and its quartiles; the geometric mean over 1, 4, 16 and 64 MiB;
the worst size.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import bench
from environments import options, parsed, variables
from job import Job, here

LARGE = 1 << 20  # the geometric mean is over the sizes from here on
MOST, LEAST = 60, 2  # repetitions in a round
ENOUGH = 5  # rounds that are made however long they take
PROGRAM = Path(__file__).with_name("peers.py")
OWN = ("bucket", "own")

Item = int | str  # what is timed: an all-reduce of so many bytes, or what a name stands for
Times = dict[str, list[list[float]]]  # action -> round -> seconds of each repetition


class Part(NamedTuple):
    """A job and the role that it plays. `label`: what its times are called; "": each has its own name."""

    job: Job
    label: str

    def time(self, what: Item, repeat: int) -> dict[str, list[float]]:
        """Seconds of the slowest rank, by action, for each repetition."""
        with self.job.awake():
            answers = self.job.ask("time", what, repeat)
        names = answers[0]
        return {self.label or name: [max(ranks) for ranks in zip(*(answer[name] for answer in answers), strict=True)] for name in names}


@contextmanager
def started(python: str, ranks: int, cycles: Sequence[str]) -> Iterator[list[Part]]:
    """The jobs of one environment: the first has hpcdl, MPI and gloo, the others Horovod where it is installed."""
    folder = Path(tempfile.mkdtemp(prefix="hpcdl-versus-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)

        def start(role: str, number: int, cycle: str | None = None) -> Part:
            place = folder / str(number)
            place.mkdir()
            label = "" if role == "together" else f"Horovod, {f'cycle {cycle} ms' if cycle else 'default'}"
            what = f"{python} ({label or 'hpcdl, MPI, gloo'}, {ranks} ranks)"
            job = Job(here(python, ranks, variables(cycle or "")), [str(PROGRAM), role], ranks, place, what)
            stack.callback(job.close)
            return Part(job, label)

        parts = [start("together", 0)]
        if "Horovod" not in parts[0].job.hello["missing"]:
            parts += [start("horovod", 1 + i, cycle) for i, cycle in enumerate((None, *cycles))]
        yield parts


def measure(groups: list[list[Part]], items: Sequence[Item], rounds: int, seconds: float) -> list[dict[Any, Times]]:
    """Times by environment and item. All jobs take turns within each item and round; each round begins with another job."""
    parts = [part for group in groups for part in group]
    found: dict[Part, dict[Item, Times]] = {part: {item: {} for item in items} for part in parts}
    share = seconds / rounds / len(items) / len(parts)
    repeat = {(part, item): _repetitions(part, item, share) for item in items for part in parts}
    begin = time.monotonic()
    for number in range(rounds):
        if number >= ENOUGH and time.monotonic() - begin > seconds:
            break  # a busy machine
        for item in items:
            for turn in range(len(parts)):
                part = parts[(number + turn) % len(parts)]
                for name, times in part.time(item, repeat[part, item]).items():
                    found[part][item].setdefault(name, []).append(times)
    return [{item: {name: times for part in group for name, times in found[part][item].items()} for item in items} for group in groups]


def _repetitions(part: Part, item: Item, share: float) -> int:
    begin = time.perf_counter()
    part.time(item, 2)
    return max(LEAST, min(MOST, int(share / ((time.perf_counter() - begin) / 3)) - 1))


def quartiles(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles, four digits each."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else list(values) * 3
    return {"median": short(middle), "quartiles": [short(low), short(high)]}


def short(value: float) -> float:
    """Four digits of it."""
    return float(f"{value:.4g}")


def compare(times: dict[int, Times]) -> dict[str, Any]:
    """Ratios to the fastest peer by storage and size, their geometric mean and worst, and the figures of small arrays and of the copy."""
    middle = {nbytes: {name: [statistics.median(each) for each in found] for name, found in times[nbytes].items()} for nbytes in times}
    fastest = {}
    for nbytes, found in middle.items():
        peers = {name: statistics.median(values) for name, values in found.items() if not _ours(name) and name != "MPI.Iallreduce"}
        fastest[nbytes] = min(peers, key=peers.__getitem__)

    def over(nbytes: int, name: str, peer: str, how: Callable[[float, float], float]) -> list[float]:
        return [how(mine, theirs) for mine, theirs in zip(middle[nbytes][name], middle[nbytes][peer], strict=True)]

    def ratio(mine: float, theirs: float) -> float:
        return mine / theirs

    facts: dict[str, Any] = {"ratios": [], "means": {}, "over_copy": [], "small": {}}
    for storage in OWN:
        name = f"hpcdl {storage}"
        sizes = [nbytes for nbytes in times if name in middle[nbytes]]
        by_size = {nbytes: over(nbytes, name, fastest[nbytes], ratio) for nbytes in sizes}
        for nbytes, values in by_size.items():
            facts["ratios"].append({"storage": storage, "bytes": nbytes, "peer": fastest[nbytes], **quartiles(values)})
            facts["over_copy"].append({"storage": storage, "bytes": nbytes, **quartiles(over(nbytes, name, "copy", ratio))})
        large = [by_size[nbytes] for nbytes in sizes if nbytes >= LARGE]
        if large:
            mean = quartiles([statistics.geometric_mean(values) for values in zip(*large, strict=True)])
            facts["means"][storage] = {**mean, "worst": max(short(statistics.median(values)) for values in large)}
    least = min(times)
    if "hpcdl async" in middle[least]:
        us = {name: [1e6 * value for value in values] for name, values in middle[least].items()}
        facts["small"] = {
            "bytes": least,
            "over_mpi_us": quartiles([1e6 * value for value in over(least, "hpcdl own", "MPI.Allreduce", lambda a, b: a - b)]),
            "over_mpi": quartiles(over(least, "hpcdl own", "MPI.Allreduce", ratio)),
            "async_us": quartiles(us["hpcdl async"]),
            "mpi_async_us": quartiles(us["MPI.Iallreduce"]),
        }
    return facts


def _ours(name: str) -> bool:
    return name.startswith("hpcdl") or name == "copy"


def results(times: dict[Any, Times], key: str = "bytes") -> list[dict[str, Any]]:
    """Seconds of everything, over all repetitions of all rounds. key: what the items are."""
    return [
        {"what": name, key: item, **bench.summary([value for each in rounds for value in each])}
        for item, found in times.items()
        for name, rounds in found.items()
    ]


def spread(found: dict[str, Any], scale: str = ".3g") -> str:
    """Median and quartiles as they are printed."""
    low, high = found["quartiles"]
    return f"{found['median']:{scale}} ({low:{scale}}–{high:{scale}})"


def show(record: dict[str, Any]) -> None:
    """The run as tables: times, ratios, sums."""
    versions, host = record["versions"], record["host"]
    sizes = sorted({found["bytes"] for found in record["results"]})
    cells = {(found["what"], found["bytes"]): f"{1e3 * found['median']:.4g}" for found in record["results"]}
    names = list(dict.fromkeys(found["what"] for found in record["results"]))
    where = f"{host['cpu']}, {host['cores']} cores, load {host['load']} before"
    title = f"{versions['mpi']}, {record['ranks']} ranks, {where}: ms, median"
    bench.show(title, ["", *map(bench.size_name, sizes)], [[name, *(cells.get((name, nbytes), "") for nbytes in sizes)] for name in names])
    rows = []
    for label, key in (("fastest peer", "ratios"), ("copy", "over_copy")):
        for storage in OWN:
            found = {each["bytes"]: each for each in record[key] if each["storage"] == storage}
            if found:
                rows.append([f"hpcdl {storage} / {label}", *(spread(found[nbytes]) if nbytes in found else "" for nbytes in sizes)])
                if key == "ratios":
                    rows.append(["  which is", *(found[nbytes]["peer"] if nbytes in found else "" for nbytes in sizes)])
    bench.show("ratios, median (quartiles); below 1: hpcdl is faster", ["", *map(bench.size_name, sizes)], rows)
    for storage, mean in record["means"].items():
        print(f"hpcdl {storage}, from 1 MiB on: geometric mean {spread(mean)} times the fastest peer, worst size {mean['worst']:.3g}")
    if small := record["small"]:
        print(
            f"{bench.size_name(small['bytes'])}: blocking {spread(small['over_mpi_us'])} µs over MPI.Allreduce, "
            f"{spread(small['over_mpi'])} times it; "
            f"asynchronous {spread(small['async_us'])} µs, MPI.Iallreduce {spread(small['mpi_async_us'])} µs"
        )
    for what, share in record["idle"].items():
        print(f"idle, {what}: {share:.1%} of a core per rank (stopped while others are timed)")
    for what, why in record["missing"].items():
        print(f"left out: {what}: {why}")


def run(args: Any, ranks: int) -> None:
    """Measure and tell for one number of ranks."""
    with ExitStack() as stack:
        groups = [stack.enter_context(started(python, ranks, args.cycle_time)) for python in args.python]
        found = measure(groups, args.sizes, args.rounds, args.seconds / len(args.ranks))
    for group, times in zip(groups, found, strict=True):
        versions = {**group[0].job.hello["versions"], **group[-1].job.hello["versions"]}
        missing = group[0].job.hello["missing"]
        facts = {"ranks": ranks, "rounds": len(times[args.sizes[0]]["copy"]), **compare(times)}
        idle = {label or "hpcdl, MPI and gloo in one process": short(job.idle) for job, label in group}
        record = {**bench.line("versus", results(times), **facts, idle=idle, missing=missing), "versions": versions}
        show(record)
        bench.append(args.json, record)


def main() -> None:
    """Measure what the options say."""
    args = parsed(options(__doc__, seconds=300, cycle="; the fastest counts at each size"))
    for ranks in args.ranks:
        run(args, ranks)


if __name__ == "__main__":
    main()
