"""The options of `hpcdl demo`: how they are parsed, checked before any rank starts, and handed to the ranks."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from ..collectives.collective import check_name
from ..errors import InvalidArgument
from ..numpy import OPTIMIZERS
from ..numpy.idx import read_folder
from ..reduction.compressors import by_name as compressor_by_name
from ..registry import parse_spec

__all__ = ["DEFAULT_RANKS", "add_options", "as_command", "check", "optimizer_spec"]

DEFAULT_RANKS = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that the ranks get too."""
    parser.add_argument("--codec", default="fp16", help="gradients on the wire: none, fp16, int8, topk:ratio=0.01, … (default: fp16)")
    parser.add_argument("--collective", default="ring", help="who sends what to whom: ring, tree, native, …, auto (default: ring)")
    parser.add_argument("--epochs", type=int, default=30, metavar="E", help="passes over the training set (default: 30)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="B", help="samples per step, over all ranks together (default: 64)")
    parser.add_argument("--optimizer", default="adam", help=f"{', '.join(OPTIMIZERS)} (default: adam)")
    parser.add_argument("--lr", type=float, help="learning rate (default: the optimizer's own)")
    parser.add_argument("--hidden", type=_widths, default=(512,), metavar="WIDTHS", help="hidden layers, as in 512,128 (default: 512)")
    parser.add_argument("--seed", type=int, default=0, help="draws weights, order and test set (default: 0)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="four MNIST-format files, IDX, plain or .gz (default: load_digits)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    parser.add_argument("--error-feedback", action="store_true", help="add what was lost to the next gradient; always on for topk, …")
    parser.add_argument("--check-finite", action="store_true", help="stop with the parameter's name when a gradient is NaN or infinite")
    parser.add_argument("--bar", type=int, default=0, metavar="COLUMNS", help=argparse.SUPPRESS)  # of the terminal; 0: no bar


def check(args: argparse.Namespace) -> None:
    """Raise InvalidArgument, UnknownName or DataError for whatever would fail later on the ranks."""
    for flag, value in {"--epochs": args.epochs, "--batch-size": args.batch_size}.items():
        if value < 1:
            raise InvalidArgument(f"{flag} {value}: must be at least 1")
    if args.seed < 0:
        raise InvalidArgument(f"--seed {args.seed}: must be at least 0")
    compressor_by_name(args.codec)
    check_name(args.collective)
    OPTIMIZERS.get(optimizer_spec(args))
    if args.json is not None and (args.json.is_dir() or not args.json.absolute().parent.is_dir()):
        raise InvalidArgument(f"--json {args.json}: cannot write there; give a file name in a folder that exists")
    if args.data is not None:
        read_folder(args.data)
    elif find_spec("sklearn") is None:
        raise InvalidArgument("scikit-learn is missing: pip install 'hpcdl[demo]', or give MNIST files by --data DIR")


def optimizer_spec(args: argparse.Namespace) -> str:
    """`--optimizer`, with `--lr` as its parameter where given."""
    spec: str = args.optimizer
    if args.lr is None:
        return spec
    _, parameters = parse_spec(spec)
    return f"{spec}{',' if parameters else ':'}lr={args.lr!r}"


def as_command(args: argparse.Namespace) -> list[str]:
    """`args` as a command line again: ``parse_args(as_command(args))`` gives the same options."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    command = []
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if isinstance(action, argparse._HelpAction) or value is None or value is False:
            continue
        command.append(action.option_strings[0])
        if value is not True:
            command.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return command


def _widths(text: str) -> tuple[int, ...]:
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (0,)
    if min(widths) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give widths of at least 1, separated by commas, as in 512 or 512,128")
    return widths
