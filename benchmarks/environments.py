"""The environments that benchmarks beside peers measure, and the options that they share."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import bench

__all__ = ["SIZES", "interpreter", "milliseconds", "options", "parsed", "variables"]

SIZES = [1 << 10, 1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26]


def interpreter(text: str) -> str:
    """The path of an environment's interpreter."""
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r}: there is no such interpreter")
    return found


def milliseconds(text: str) -> str:
    """A time above 0, as it is written."""
    try:
        good = float(text) > 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r}: give milliseconds, more than 0")
    return text


def options(doc: str | None, seconds: int, cycle: str = "") -> bench.Parser:
    """Options of a benchmark of all-reduces by size. seconds: for all, by default; cycle: a word more on --cycle-time."""
    parser = bench.Parser(doc)
    text = "an environment's interpreter; may be given several times (default: this one)"
    parser.add_argument("--python", type=interpreter, action="append", help=text)
    parser.add_argument("--ranks", nargs="+", type=bench.count, default=[2, 4], help="default: 2 4")
    parser.add_argument("--sizes", nargs="+", type=bench.size, default=SIZES, metavar="SIZE", help="default: 1KiB 64KiB 1MiB … 64MiB")
    text = f"of Horovod beside its default, in ms{cycle} (default: 0.1)"
    parser.add_argument("--cycle-time", nargs="*", type=milliseconds, default=["0.1"], metavar="MS", help=text)
    parser.add_argument("--rounds", type=bench.count, default=10, help="default: 10")
    text = f"time for all, starting the jobs not counted (default: {seconds})"
    parser.add_argument("--seconds", type=bench.count, default=seconds, help=text)
    return parser


def parsed(parser: bench.Parser) -> argparse.Namespace:
    """What `options` were given: interpreters, and each size once."""
    args = parser.parse_args()
    args.python = args.python or [sys.executable]
    args.sizes = sorted(set(args.sizes))
    return args


def variables(cycle: str = "") -> dict[str, str]:
    """The variables of a job: this checkout is found, and Horovod has this cycle time in ms ("": its default)."""
    found = {name: value for name, value in os.environ.items() if name != "HOROVOD_CYCLE_TIME"}
    found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), found.get("PYTHONPATH")]))
    return found | ({"HOROVOD_CYCLE_TIME": cycle} if cycle else {})
