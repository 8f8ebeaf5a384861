"""What the times of `train_torch.py` amount to: ratios within the rounds, and a table of one network."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import bench
from versus import quartiles

__all__ = ["PEER", "Times", "compare", "show", "spread"]

ALONE, PEER = "no communication", "DDP over gloo"

Times = dict[str, list[float]]  # way -> seconds per step of the slowest rank, by round


def compare(ways: dict[str, dict[str, Any]], times: Times, cpu: Times, between_hosts: bool) -> list[dict[str, Any]]:
    """Each way's times, and its ratios within the rounds."""

    def over(name: str, other: str, how: Callable[[float, float], float] = lambda a, b: a / b) -> dict[str, Any]:
        return quartiles([how(a, b) for a, b in zip(times[name], times[other], strict=True)])

    def rivals(name: str) -> list[str]:
        family, wire = ways[name]["family"], ways[name]["wire"]
        wire = "none" if wire == "int8" else wire
        if family == "door 1":
            others = [other for other in times if ways[other]["family"] in ("door 2", "peer")]
            return [other for other in others if not between_hosts or ways[other]["wire"] == wire]
        if family == "door 2":
            return [other for other in times if other.startswith(PEER) and ways[other]["wire"] == wire]
        return []

    results = []
    for name in times:
        found = {"way": name, "family": ways[name]["family"], "wire": ways[name]["wire"], **bench.summary(times[name])}
        found["cpu_seconds"] = float(f"{statistics.median(cpu[name]):.4g}")
        if name != ALONE:
            found["over_gloo"] = over(name, PEER)
            found["communication"] = over(name, ALONE, lambda step, alone: 1 - alone / step)
        if others := rivals(name):
            fastest = min(others, key=lambda other: statistics.median(times[other]))
            found["rival"] = {"way": fastest, **over(name, fastest)}
        results.append(found)
    return results


def show(record: dict[str, Any]) -> None:
    """One network as a table."""
    versions, host = record["versions"], record["host"]
    place = f"{record['hosts']} hosts at {record['rate']}" if record["hosts"] > 1 else f"{record['ranks']} ranks"
    title = (
        f"{record['network']}, {versions['mpi']}, {place}, {host['cpu']}, {host['cores']} cores, load {host['load']} before: ms per step"
    )
    rows = []
    for found in record["results"]:
        rival = found.get("rival")
        cells = [f"{1e3 * found['median']:.4g} ({1e3 * found['min']:.3g}–{1e3 * found['max']:.3g})"]
        cells += [spread(found["over_gloo"]), f"{found['communication']['median']:.0%}"] if "over_gloo" in found else ["", ""]
        cells += [f"{1e3 * found['cpu_seconds']:.3g}", spread(rival) if rival else "", rival["way"] if rival else ""]
        rows.append([found["way"], *cells])
    bench.show(title, ["", "median (min–max)", f"/ {PEER}", "communication", "CPU", "/ rival", "which is"], rows)
    batch = f"{record['batch']} samples a rank, {record['parameters']:,} parameters, buckets of {bench.size_name(record['bucket_bytes'])}"
    print(f"{batch}; {record['steps']} steps in a row, {record['rounds']} rounds; ratios: median (quartiles)")
    for name, grown in record["memory"].items():
        print(f"memory, {name}: {grown['most'] / (1 << 20):.1f} MiB at most, {grown['later'] / (1 << 20):.1f} MiB in a later step")


def spread(found: dict[str, Any]) -> str:
    """A ratio and its quartiles."""
    low, high = found["quartiles"]
    return f"{found['median']:.3g} ({low:.3g}–{high:.3g})"
