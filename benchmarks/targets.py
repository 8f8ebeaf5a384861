"""The targets of all measurements, and what the committed results say of each: a row a target, a line in it a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ops_tables
import train_tables

__all__ = ["FILES", "ROWS", "Found", "Row", "rows"]

Record = dict[str, Any]
Lines = Mapping[str, Sequence[Record]]  # benchmark -> the newest line of each configuration
FILES = ("versus", "hosts", "overlap", "train_torch", "horovod_ops")
_MIB = 1 << 20
_RATE = 200e6 / 8  # bytes per second


class Found(NamedTuple):
    """One measured value, in words, and whether it meets the target; None where there is nothing to meet."""

    text: str
    met: bool | None


class Row(NamedTuple):
    """A target: what is measured, what is to be reached, and how to read it off a line of results."""

    what: str
    target: str
    benchmark: str
    read: Callable[[Record], Iterator[Found]]


def _label(record: Record) -> str:
    library = record["versions"].get("mpi", "").rpartition(" ")[0]
    where = f"{record['nodes']} hosts" if record.get("nodes", 1) > 1 else f"{record['ranks']} ranks"
    return f"{library}, {where}"


def _times_faster(found: Record) -> str:
    """A ratio with its quartiles, turned round: how many times faster than the peer."""
    slow, fast = found["quartiles"]
    return f"{1 / found['median']:.2f}× ({1 / fast:.2f}–{1 / slow:.2f})"


def _storage(storage: str, mean: float, worst: float) -> Callable[[Record], Iterator[Found]]:
    """Geometric mean at least `mean` times faster, and no size more than `worst` times the peer."""

    def read(record: Record) -> Iterator[Found]:
        found = record["means"].get(storage)
        if found:
            text = f"{_label(record)}: {_times_faster(found)}, worst size {1 / found['worst']:.2f}×"
            yield Found(text, 1 / found["median"] >= mean and found["worst"] <= worst)

    return read


def _copy(record: Record) -> Iterator[Found]:
    for found in record["over_copy"]:
        if record["ranks"] == 2 and found["storage"] == "bucket" and found["bytes"] == 64 * _MIB:
            low, high = found["quartiles"]
            yield Found(f"{_label(record)}: {found['median']:.2f}× ({low:.2f}–{high:.2f})", found["median"] <= 1.5)


def _blocking(record: Record) -> Iterator[Found]:
    small = record["small"]
    if small and small["bytes"] == 1024:
        over, times = small["over_mpi_us"]["median"], small["over_mpi"]["median"]
        met = {2: over <= 5, 4: times <= 1.5}.get(record["ranks"])
        yield Found(f"{_label(record)}: {over:+.1f} µs, {times:.2f}×", met)


def _asynchronous(record: Record) -> Iterator[Found]:
    small = record["small"]
    if small and small["bytes"] == 1024:
        spent = small["async_us"]["median"]
        yield Found(f"{_label(record)}: {spent:.1f} µs", spent <= 50 if record["ranks"] == 2 else None)


def _on_hosts(hosts: int, record: Record, collective: str) -> Iterator[Record]:
    if record["hosts"] == hosts:
        yield from (found for found in record["results"] if found["collective"] == collective and found["bytes"] == 64 * _MIB)


def _library(record: Record) -> str:
    return str(record["versions"]["mpi"].rpartition(" ")[0])


def _ring(record: Record) -> Iterator[Found]:
    for found in _on_hosts(4, record, "ring"):
        if found["codec"] == "none":
            yield Found(f"{_library(record)}: {found['of_bound']:.3f}×", found["of_bound"] <= 1.05)


def _coded(record: Record) -> Iterator[Found]:
    wanted = {"fp16": 1.9, "bf16": 1.9, "int8": 3.6}
    found = {each["codec"]: each["faster"] for each in _on_hosts(4, record, "ring") if each["codec"] in wanted}
    if found:
        text = ", ".join(f"{codec} {found[codec]:.2f}×" for codec in wanted if codec in found)
        yield Found(f"{_library(record)}: {text}", all(found.get(codec, 0) >= least for codec, least in wanted.items()))


def _two_level(record: Record) -> Iterator[Found]:
    for found in _on_hosts(2, record, "two-level"):
        yield Found(f"{_library(record)}: {found['of_bound']:.3f}×", found["of_bound"] <= 1.1)


def _hidden(record: Record) -> Iterator[Found]:
    if record["nodes"] != 4 or record.get("rate") != _RATE:
        return
    for found in record["results"]:
        low, high = (value / found["most"] for value in found["hidden"]["quartiles"])
        share = round(found["hidden"]["median"] / found["most"], 3)
        cpu = found["cpu_seconds"].get("progress")
        loop = "" if cpu is None else f"; progress loop {cpu:.3g} CPU s a step"
        text = f"{_library(record)}, {found['side']}: {share:.0%} ({low:.0%}–{high:.0%}){loop}"
        yield Found(text, share >= 0.8 if found["side"].startswith("hpcdl") else None)


def _bytes(record: Record) -> Iterator[Found]:
    counted = {found["codec"]: found["counted_right"] for found in record["results"] if found.get("counted_right") is not None}
    if counted:
        yield Found(f"{_library(record)}, {record['hosts']} hosts, ring: {', '.join(counted)}", all(counted.values()))


def _memory(record: Record) -> Iterator[Found]:
    account = record.get("memory")
    if account:
        text = ", ".join(f"{name} {nbytes / _MIB:.1f} MiB" for name, nbytes in account.items())
        yield Found(f"{_label(record)}, {record['codec']}: {text}", account.get("wires", 0) <= 2 * record["bucket_bytes"])


def _steps(read: Callable[[Record], train_tables.Told]) -> Callable[[Record], Iterator[Found]]:
    """A reader of results that tell more than one thing."""
    return lambda record: (Found(text, met) for text, met in read(record))


ROWS = (
    Row(
        "1, 4, 16, 64 MiB float32 in bucket storage, one node",
        "geometric mean ≥ 2.5 times faster than the fastest peer at each size, no size slower",
        "versus",
        _storage("bucket", 2.5, 1.0),
    ),
    Row("64 MiB in bucket storage, 2 ranks", "≤ 1.5 times a plain copy of the buffer", "versus", _copy),
    Row(
        "the same sizes from a user's own array, in place",
        "geometric mean ≥ 1.3 times faster than the fastest peer, no size more than 10 % slower",
        "versus",
        _storage("own", 1.3, 1.1),
    ),
    Row("1 KiB, one node, blocking", "≤ 5 µs over `MPI.Allreduce` at 2 ranks, ≤ 1.5 times it at 4", "versus", _blocking),
    Row("1 KiB, one node, asynchronous", "≤ 50 µs at 2 ranks, reported at 4", "versus", _asynchronous),
    Row("64 MiB float32, 4 hosts at 200 Mbit/s", "≤ 1.05 times the bound of a ring", "hosts", _ring),
    Row("the same with fp16, bf16, int8", "1.9, 1.9 and 3.6 times faster than float32", "hosts", _coded),
    Row("2 hosts x 2 ranks at 200 Mbit/s, two-level", "≤ 1.1 times the bound of one ring between the hosts", "hosts", _two_level),
    Row(
        "training step on 4 hosts at 200 Mbit/s, real backward as long as communication",
        "≥ 80 % hidden of what can be hidden (all but the last bucket)",
        "overlap",
        _hidden,
    ),
    Row("bytes on the wire", "counted = the formula", "hosts", _bytes),
    Row(
        "memory beyond the model",
        "gradients + wires of at most 2 buckets + one staging window (+ one float32 gradient with error feedback)",
        "overlap",
        _memory,
    ),
    Row(
        "PyTorch, a training step on one node: door 1 (`hpcdl.torch.DDP`) beside the fastest of torch's DDP over hpcdl, over gloo, Horovod",
        "at least as fast in each network",
        "train_torch",
        _steps(train_tables.beside_rivals({"door 1": ""}, 1.0, between_hosts=False)),
    ),
    Row(
        "the same beside DDP over gloo, where communication is more than half of its step",
        "1.5 times faster",
        "train_torch",
        _steps(train_tables.beside_gloo("door 1", 1.5, dominated=True)),
    ),
    Row(
        "torch's DDP over hpcdl beside gloo, one node", "no slower", "train_torch", _steps(train_tables.beside_gloo("DDP over hpcdl", 1.0))
    ),
    Row(
        "PyTorch, a training step on 4 hosts at 200 Mbit/s: door 1 beside the fastest with the same wire format",
        "within 5 %",
        "train_torch",
        _steps(train_tables.beside_rivals({"door 1": "", "door 1, fp16": "fp16"}, 0.95, between_hosts=True)),
    ),
    Row(
        "the same with int8 beside the fastest that sends float32, where communication is more than half of the step",
        "1.5 times faster",
        "train_torch",
        _steps(train_tables.beside_rivals({"door 1, int8": ""}, 1.5, between_hosts=True, dominated=True)),
    ),
    Row(
        "PyTorch, memory: what a rank grows by at most (in a later step); 16 MiB of parameters, which count",
        "reported",
        "train_torch",
        _steps(train_tables.memory),
    ),
    Row(
        "all-reduce by name, through Horovod's interface, beside Horovod, 1 KiB to 64 MiB",
        "no slower at any size",
        "horovod_ops",
        _steps(ops_tables.beside(lambda found: "bytes" in found, lambda ranks: 1.0)),
    ),
    Row(
        "the same, 1 KiB, beside Horovod's default",
        "5 times faster at 2 ranks, faster at 4",
        "horovod_ops",
        _steps(ops_tables.beside(lambda found: found.get("bytes") == 1 << 10, lambda ranks: 5.0 if ranks == 2 else 1.0, default_only=True)),
    ),
    Row(
        "`DistributedOptimizer` of the same two, one step",
        "reported",
        "horovod_ops",
        _steps(ops_tables.beside(lambda found: "network" in found, lambda ranks: None)),
    ),
)


def rows(lines: Lines) -> Iterator[tuple[str, str, str, str]]:
    """Each target as cells: what, target, measured, met or not. Without a line of results it says "not measured"."""
    lines = {**lines, "train_torch": train_tables.grouped(lines.get("train_torch", ()))}
    for row in ROWS:
        found = [each for record in lines.get(row.benchmark, ()) for each in row.read(record)]
        judged = [each.met for each in found if each.met is not None]
        verdict = "" if not judged else "met" if all(judged) else "NOT MET" if not any(judged) else "in part"
        marks = {True: " ✓", False: " ✗", None: ""}
        measured = "<br>".join(each.text + (marks[each.met] if len(judged) > 1 else "") for each in found)
        yield row.what, row.target, measured or "not measured", verdict
