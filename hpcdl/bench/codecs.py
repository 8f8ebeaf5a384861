"""Casts and codecs: GB/s of float32, each direction, beside a plain copy and beside NumPy's own casts.

One process. Codecs work on pieces of the length that the collectives use; everything else on the whole array. All are timed in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import BFLOAT16
from ..codecs import Codec, codecs
from ..collectives.layout import CODED_PIECE_BYTES, pieces
from . import plot
from .options import count, one_of, size, size_name
from .record import append, line, show, summary
from .timing import interleave

__all__ = ["add_arguments", "main"]

Floats = NDArray[np.float32]
Key = tuple[str, str]  # what, direction

_BATCH = 1e-3  # seconds that a repetition lasts at least: several calls where one is shorter
_BLOCK = 128


def _normal(n: int) -> Floats:
    return (np.random.default_rng(0).standard_normal(n, np.float32) * 0.01).astype(np.float32)


def _zeros(n: int) -> Floats:
    x = _normal(n)
    for begin in range(0, n, 100 * _BLOCK):
        x[begin : begin + _BLOCK] = 0
    return x


def _small(n: int) -> Floats:
    return (_normal(n) * 1e-8).astype(np.float32)


DATA: dict[str, Callable[[int], Floats]] = {
    "in range": _normal,  # normal gradients: float16 holds them as they are
    "1 % zeros": _zeros,  # the same, with every hundredth block of 128 zero: units that are never active
    "out of range": _small,  # too small for float16: every block needs its exponent
}


def actions(x: Floats, chosen: list[str]) -> Iterator[tuple[Key, Callable[[], None]]]:
    """Everything that is timed on `x`."""
    out = np.empty_like(x)
    yield ("copy", ""), lambda: np.copyto(out, x)
    for name, dtype in (("NumPy float16", np.dtype(np.float16)), ("ml_dtypes bfloat16", BFLOAT16)):
        short = x.astype(dtype)
        yield (name, "encode"), lambda short=short: np.copyto(short, x, casting="unsafe")  # type: ignore[misc]
        yield (name, "decode"), lambda short=short: np.copyto(out, short, casting="unsafe")  # type: ignore[misc]
    for name in chosen:
        codec = codecs.get(name)
        parts = [(x[lo:hi], out[lo:hi], np.empty(codec.nbytes(hi - lo), np.uint8)) for lo, hi in pieces(0, x.size, CODED_PIECE_BYTES // 4)]
        _encode(codec, parts)
        yield (name, "encode"), lambda codec=codec, parts=parts: _encode(codec, parts)  # type: ignore[misc]
        yield (name, "decode"), lambda codec=codec, parts=parts: _decode(codec, parts)  # type: ignore[misc]


def _encode(codec: Codec, parts: list[tuple[Any, Any, Any]]) -> None:
    for x, _, wire in parts:
        codec.encode(x, wire)


def _decode(codec: Codec, parts: list[tuple[Any, Any, Any]]) -> None:
    for _, out, wire in parts:
        codec.decode(wire, out)


def measure(nbytes: int, data: str, chosen: list[str], repeat: int | None, seconds: float) -> list[dict[str, Any]]:
    """The results for one size and kind of data."""
    timed = dict(actions(DATA[data](nbytes // 4), chosen))
    once = {}
    for key, action in timed.items():
        action()  # the first call of all touches fresh memory
        begin = perf_counter()
        action()
        once[key] = perf_counter() - begin
    calls = {key: max(1, round(_BATCH / spent)) for key, spent in once.items()}
    a_round = sum(calls[key] * once[key] for key in once)
    times = interleave(timed, repeat or max(5, min(200, int(seconds / a_round))), calls)
    return [
        {"what": what, "direction": direction, "data": data, "bytes": nbytes, "calls": calls[what, direction], **summary(spent)}
        for (what, direction), spent in times.items()
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `hpcdl bench codecs`."""
    names = codecs.names()
    parser.add_argument("--sizes", nargs="+", type=size, default=[1 << 18, 1 << 26], metavar="SIZE", help="default: 256KiB 64MiB")
    parser.add_argument("--codecs", nargs="+", type=one_of("codec", names), default=names, help=f"default: {' '.join(names)}")
    parser.add_argument(
        "--data", nargs="+", type=one_of("data", DATA), default=list(DATA), help=f"default: {', '.join(DATA)}".replace("%", "%%")
    )
    parser.add_argument("--repeat", type=count, help="repetitions (default: as many as fit into --seconds)")
    parser.add_argument("--seconds", type=count, default=60, help="time for all (default: 60)")


def main(args: argparse.Namespace) -> int:
    """Measure what the options say."""
    each = args.seconds / len(args.sizes) / len(args.data)
    results = []
    for nbytes in args.sizes:
        runs = [measure(nbytes, data, args.codecs, args.repeat, each) for data in args.data]
        rows = [[f"{row[0]['what']} {row[0]['direction']}", *map(_speed, row)] for row in zip(*runs, strict=True)]
        show(f"{size_name(nbytes)}, GB/s of float32: median (slowest–fastest)", ["", *args.data], rows)
        results += [found for run in runs for found in run]
    append(args.json, line("codecs", results))
    if plot.possible(args.plot):
        _plot(args, results)
    return 0


def _speed(found: dict[str, Any]) -> str:
    low, middle, high = (found["bytes"] / found[part] / 1e9 for part in ("max", "median", "min"))
    return f"{middle:.3g} ({low:.2g}–{high:.2g})"


def _plot(args: argparse.Namespace, results: list[dict[str, Any]]) -> None:
    """The first kind of data; the bound is a plain copy."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for found in results:
        if found["data"] == args.data[0]:
            name = f"{found['what']} {found['direction']}".strip()
            lines.setdefault(name, []).append((found["bytes"], found["bytes"] / found["median"] / 1e9))
    bounds = {"bound: a copy": lines.pop("copy")}
    plot.curves(args.plot, f"codecs, one process, data {args.data[0]}", lines, bounds, "GB/s of float32")
