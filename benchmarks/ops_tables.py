"""The committed results of `horovod_ops.py` in the README's tables: calls and steps side by side, and what they say of the targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from bench import size_name

__all__ = ["beside", "cells"]

Record = dict[str, Any]
Result = dict[str, Any]
_DEFAULT = "Horovod, default"


def _what(found: Result) -> str:
    return size_name(found["bytes"]) if "bytes" in found else f"step, {found['network']}"


def cells(record: Record) -> tuple[list[str], list[list[str]]]:
    """Head and rows: milliseconds of each size and network, and hpcdl's time over each Horovod's in the same round."""
    columns = list(dict.fromkeys(map(_what, record["results"])))
    times = {(found["what"], _what(found)): f"{1e3 * found['median']:.3g}" for found in record["results"]}
    ratios = {
        (found["peer"], _what(found)): f"{found['median']:.2g}× " + "({:.2g}–{:.2g})".format(*found["quartiles"])
        for found in record["ratios"]
    }
    rows = [[label, *(times[label, column] for column in columns)] for label in dict.fromkeys(label for label, _ in times)]
    rows += [
        [f"hpcdl.horovod / {peer}", *(ratios[peer, column] for column in columns)] for peer in dict.fromkeys(peer for peer, _ in ratios)
    ]
    return ["", *columns], rows


def beside(
    wanted: Callable[[Result], bool], faster: Callable[[int], float | None], default_only: bool = False
) -> Callable[[Record], Iterator[tuple[str, bool | None]]]:
    """What a line says of the `wanted` sizes or networks: in words, and whether hpcdl is `faster(ranks)` times as fast.

    None: there is nothing to meet.
    """

    def read(record: Record) -> Iterator[tuple[str, bool | None]]:
        for peer in dict.fromkeys(found["peer"] for found in record["ratios"]):
            found = [each for each in record["ratios"] if each["peer"] == peer and wanted(each)]
            if not found or (default_only and peer != _DEFAULT):
                continue
            text = ", ".join(f"{_what(each)} {1 / each['median']:.2g}×" for each in found)
            least = faster(record["ranks"])
            library = record["versions"]["mpi"].rpartition(" ")[0]
            yield (
                f"{library}, {record['ranks']} ranks, {peer}: {text}",
                None if least is None else all(1 / each["median"] >= least for each in found),
            )

    return read
