"""The committed results of `train_torch.py` in the README's tables: steps side by side, and what they say of the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

__all__ = ["beside_gloo", "beside_rivals", "cells", "grouped", "memory", "name_of"]

Record = dict[str, Any]
Told = Iterator[tuple[str, bool | None]]  # a measured value in words, and whether it meets the target

_MIB = 1 << 20


def grouped(records: Iterable[Record]) -> list[Record]:
    """One record for all networks of a configuration: the newest one's facts, and ``networks``, by name."""
    found: dict[tuple[Any, ...], Record] = {}
    for record in records:
        host = record["host"]
        key = (record["versions"]["mpi"], record["ranks"], record["hosts"], record["rate"], host["cpu"], host["cores"])
        before = found.get(key, {}).get("networks", {})
        found[key] = {**record, "networks": {**before, record["network"]: record}}
    return list(found.values())


def name_of(record: Record) -> str:
    """The configuration in words, without the MPI library."""
    return f"{record['hosts']} hosts at {record['rate']}" if record["hosts"] > 1 else f"{record['ranks']} ranks"


def cells(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of one group: a row a way; milliseconds and the ratio to DDP over gloo, by network."""
    rows: dict[str, list[str]] = {}
    for place, network in enumerate(record["networks"].values()):
        for found in network["results"]:
            ratio = f" ({found['over_gloo']['median']:.2f}×)" if "over_gloo" in found and found["way"] != "DDP over gloo" else ""
            row = rows.setdefault(found["way"], [""] * len(record["networks"]))
            row[place] = f"{1e3 * found['median']:.3g}{ratio}"
    return ["", *record["networks"]], [[way, *row] for way, row in rows.items()]


def _results(record: Record, way: str) -> Iterator[tuple[str, Record, Record]]:
    """Network, its record, and what it says of one way."""
    for name, network in record["networks"].items():
        for found in network["results"]:
            if found["way"] == way:
                yield name, network, found


def _label(record: Record) -> str:
    return f"{record['versions']['mpi'].rpartition(' ')[0]}, {name_of(record)}"


def _faster(found: dict[str, Any]) -> str:
    """A ratio turned round, with its quartiles."""
    low, high = found["quartiles"]
    return f"{1 / found['median']:.2f}× ({1 / high:.2f}–{1 / low:.2f})"


def _dominates(network: Record) -> bool:
    """Whether communication is more than half of the step of DDP over gloo."""
    return any(found["way"] == "DDP over gloo" and found["communication"]["median"] > 0.5 for found in network["results"])


def _judged(record: Record, parts: list[tuple[str, dict[str, Any]]], least: float) -> Told:
    if parts:
        text = ", ".join(f"{name} {_faster(found)}" for name, found in parts)
        yield f"{_label(record)}: {text}", all(round(1 / found["median"], 2) >= least for _, found in parts)


def beside_rivals(ways: dict[str, str], least: float, between_hosts: bool, dominated: bool = False) -> Callable[[Record], Told]:
    """How many times faster than the fastest rival each of `ways` is, which has a name here; `least` is to be reached in each network.

    dominated: count only networks where communication is more than half of the step.
    """

    def read(record: Record) -> Told:
        if (record["hosts"] > 1) is between_hosts:
            found = [
                (" ".join(filter(None, (name, label))), result["rival"])
                for way, label in ways.items()
                for name, network, result in _results(record, way)
                if "rival" in result and (_dominates(network) or not dominated)
            ]
            yield from _judged(record, found, least)

    return read


def beside_gloo(way: str, least: float, dominated: bool = False) -> Callable[[Record], Told]:
    """The same beside DDP over gloo, on one node."""

    def read(record: Record) -> Told:
        if record["hosts"] == 1:
            found = [(name, result["over_gloo"]) for name, network, result in _results(record, way) if _dominates(network) or not dominated]
            yield from _judged(record, found, least)

    return read


def memory(record: Record) -> Told:
    """What each process grows by at most, and in a later step."""
    for network in record["networks"].values():
        wanted = {name: network["memory"][name] for name in ("door 1", "DDP over gloo", "DDP over hpcdl") if name in network["memory"]}
        if wanted:
            parts = (f"{name} {grown['most'] / _MIB:.0f} ({grown['later'] / _MIB:.0f})" for name, grown in wanted.items())
            yield f"{_label(record)}: {', '.join(parts)} MiB", None
