"""The plan and the costs that it was made from, as the doctor's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..collectives.costs import Costs, Layout, Link
from ..collectives.plan import Plan
from ..collectives.plan import Row as PlanRow
from ..collectives.worth import speed_text, worth
from .facts import Row

__all__ = ["plan_rows"]

TOPIC = "plan"
_KINDS = ("your own arrays", "arrays in shared memory")  # the first two of the plan's tables


def plan_rows(plan: Plan, costs: Costs, layout: Layout) -> Iterator[Row]:
    """What `auto` does on ranks of that layout, what it was made from, and which codecs pay."""
    where = f"{layout.size} ranks on {layout.count} {'node' if layout.count == 1 else 'nodes'}"
    if plan.measured:
        yield Row(TOPIC, "measured on", where)
    else:
        cure = "unset HPCDL_CALIBRATE, so that a short measurement at start-up finds out"
        yield Row(TOPIC, "measured on", f"nothing: calibration is off; assumed for {where}", "note", cure)
    kinds = zip(_KINDS, plan.tables, strict=False)
    if plan.tables[0] == plan.tables[1]:
        kinds = zip(("all arrays",), plan.tables, strict=False)
    for kind, rows in kinds:
        yield Row(TOPIC, kind, _table(rows))
    if plan.measured:
        yield from _costs(costs, layout)
        for name, coding in costs.codecs:
            speeds = f"encodes {_gigabytes(coding.encode)}, decodes {_gigabytes(coding.decode)}, {coding.ratio:.3f} of the bytes"
            yield Row("codecs", name, f"{worth(name, costs, plan, layout)}; {speeds}")


def _costs(costs: Costs, layout: Layout) -> Iterator[Row]:
    topic = "costs"
    if layout.widest > 1:
        yield Row(topic, "messages inside a node", _link(costs.node, _gigabytes))
    if costs.network is not None:
        yield Row(topic, "messages between nodes", _link(costs.network, lambda cost: speed_text(1 / cost)))
    if any(timing.collective in ("shared-memory", "two-level") for timing in costs.timings):
        shared = costs.shared
        yield Row(topic, "shared memory", f"{_micro(shared.step)} to meet, all-reduce {_gigabytes(shared.byte)}")
    yield Row(topic, "memory", f"copy {_gigabytes(costs.memory.copy)}, add {_gigabytes(costs.memory.add)}, all ranks at once")
    if "native" in costs.names:
        native = costs.native
        yield Row(topic, "MPI's own all-reduce", f"{_micro(native.message)} per call, {_gigabytes(native.byte)}")


def _link(link: Link, speed: Callable[[float], str]) -> str:
    pieces = ", ".join(f"{speed(cost)} in pieces of {size_text(size)}" for size, cost in link.both_ways)
    return f"{_micro(link.message)} per message, {speed(link.one_way)} one way, both ways at once {pieces}"


def _table(rows: tuple[PlanRow, ...]) -> str:
    """The rows of one table in a line: ``up to 4 KiB native, above ring in pieces of 256 KiB``."""
    parts = []
    for number, (limit, choice) in enumerate(rows):
        last = number == len(rows) - 1
        size = ("above" if number else "any size") if last else f"up to {size_text(limit)}"
        cut = f" in pieces of {size_text(choice.segment)}" if choice.segment and (last or limit > choice.segment) else ""
        parts.append(f"{size} {choice.collective}{cut}")
    return ", ".join(parts)


def size_text(nbytes: int) -> str:
    """A power of two in bytes, as people write it.

    >>> size_text(32768), size_text(512)
    ('32 KiB', '512 B')
    """
    for unit in ("B", "KiB", "MiB"):
        if nbytes % 1024:
            return f"{nbytes} {unit}"
        nbytes //= 1024
    return f"{nbytes} GiB"


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs"


def _gigabytes(cost: float) -> str:
    return f"{1e-9 / cost:.3g} GB/s"
