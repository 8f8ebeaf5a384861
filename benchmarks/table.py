"""The committed results as Markdown tables: print them, write them into a file, or check that a file still says what they say.

    python benchmarks/table.py allreduce
    python benchmarks/table.py --write README.md
    python benchmarks/table.py --check README.md

A file has a table NAME between the lines ``<!-- results:NAME -->`` and ``<!-- end -->``. Of each configuration (MPI library, ranks,
machine) the last line of the results file counts.
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ops_tables
import targets
import train_tables
from bench import size_name

RESULTS = Path(__file__).parent / "results"
_BLOCK = re.compile(r"<!-- results:(\S+) -->\n(.*?)(?=<!-- (?:end|results:\S+) -->)(<!-- end -->)?", re.DOTALL)

_VERBS = ("allreduce", "codecs", "overlap", "train")  # measured by `hpcdl bench`; the rest by a program in this folder

Record = dict[str, Any]
Result = dict[str, Any]


class Wrong(Exception):
    """Something that the user has to mend."""


def newest(path: Path) -> list[Record]:
    """The last line of each configuration, ordered by MPI library and ranks. Raises Wrong."""
    if not path.is_file():
        raise Wrong(f"{path}: there are no such results")
    found: dict[str, Record] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(text)
            library = record["versions"].get("mpi", "").rpartition(" ")[0]
            shape = [record.get(fact, 0) for fact in ("ranks", "nodes", "hosts", "codec", "network")]
            key = repr((library, shape, record["host"]["cpu"], record["host"]["cores"]))
        except (ValueError, KeyError, AttributeError) as error:
            raise Wrong(f"{path}, line {number}: not a line of results ({error!r})") from error
        found[key] = record
    return sorted(found.values(), key=lambda record: (record["versions"].get("mpi", ""), record.get("ranks", 0)))


def _caption(record: Record, text: str) -> str:
    """What was measured, with what, where and when."""
    versions, host, program = record["versions"], record["host"], record["benchmark"]
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "mpi4py", "numkong", "torch", "horovod") if name in versions)
    lead = f"**{versions['mpi']}**: " if "mpi" in versions else ""
    where = f"{host['cpu']}, {host['cores']} cores (shared; load {host['load']} before)"
    command = f"hpcdl bench {program}" if program in _VERBS else f"benchmarks/{program}.py"
    origin = f"`{command}`, `benchmarks/results/{program}.jsonl`"
    return f"{lead}{text} {origin}; {where}; Python {versions['python']}, {libraries}; {record['date']}."


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = True) -> str:
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _range(found: Result, scale: float) -> str:
    return f"{scale * found['median']:.3g} ({scale * found['min']:.2g}–{scale * found['max']:.2g})"


def codecs(record: Record) -> str:
    """Speeds: a row per codec and direction, a column per size and kind of data."""
    columns = list(dict.fromkeys((found["bytes"], found["data"]) for found in record["results"]))
    rows: dict[tuple[str, str], list[str]] = {}
    for found in record["results"]:
        speeds = [found["bytes"] / found[part] / 1e9 for part in ("median", "max", "min")]
        rows.setdefault((found["what"], found["direction"]), []).append("{:.3g} ({:.2g}–{:.2g})".format(*speeds))
    head = ["", *(f"{size_name(nbytes)}, {data}" for nbytes, data in columns)]
    table = _markdown(head, ([" ".join(filter(None, key)), *cells] for key, cells in rows.items()))
    return f"{_caption(record, 'GB/s of float32, median (slowest–fastest).')}\n\n{table}"


def allreduce(record: Record, wanted: Callable[[str, str], bool] = lambda collective, codec: True) -> str:
    """Times of blocking calls on a user's own array: a row per collective and codec, a column per size. The first row is MPI's own."""
    plain = {"storage": "own", "call": "blocking"}
    results = [found for found in record["results"] if {**plain, **found}.items() >= plain.items() and found["collective"] != "copy"]
    record = {**record, "results": results}
    sizes = list(dict.fromkeys(found["bytes"] for found in record["results"]))
    peer = {found["bytes"]: found["median"] for found in record["results"] if found["collective"] == "MPI.Allreduce"}
    rows: dict[tuple[str, str], list[str]] = {}
    for found in record["results"]:
        own = found["collective"] == "MPI.Allreduce"
        if own or wanted(found["collective"], found["codec"]):
            ratio = "" if own else f" ({found['median'] / peer[found['bytes']]:.2g}×)"
            rows.setdefault((found["collective"], "" if own else found["codec"]), []).append(f"{1e3 * found['median']:.3g}{ratio}")
    text = f"{record['ranks']} ranks, ms per all-reduce of float32 in place (slowest rank, median), and how many times `MPI.Allreduce`."
    table = _markdown(["", *map(size_name, sizes)], ([", ".join(filter(None, key)), *cells] for key, cells in rows.items()))
    return f"{_caption(record, text)}\n\n{table}"


def allreduce_short(record: Record) -> str:
    """What `auto` does without a codec, and two codecs on the ring."""
    return allreduce(record, lambda collective, codec: (collective, codec) in (("auto", "none"), ("ring", "fp16"), ("ring", "int8")))


def demo(record: Record) -> str:
    """Milliseconds per step, by part."""
    parts = ("compute", "waiting", "optimizer", "total")
    first = record["results"][0]
    rows = [[f"{found['ranks']}, {found['codec']}", *(_range(found[part], 1e3) for part in parts)] for found in record["results"]]
    text = f"`hpcdl demo`, {first['network']}, batch {first['batch_size']} over all ranks: ms per step, median (min–max)."
    return f"{_caption(record, text)}\n\n{_markdown(['ranks, codec', *parts], rows)}"


def convergence(record: Record) -> str:
    """Bytes and accuracy side by side: a row per codec, a pair of columns per model."""
    models = list(dict.fromkeys(found["model"] for found in record["results"]))
    rows: dict[str, list[str]] = {}
    for found in record["results"]:
        sent = f"{found['bytes_per_step']:,} ({found['bytes_ratio']:.3g})"
        rows.setdefault(found["codec"], []).extend([sent, f"{found['mean']:.2f} ({found['difference']:+.2f})"])
    head = ["", *(f"{model}: {what}" for model in models for what in ("bytes per step (of float32)", "accuracy, % (difference)"))]
    text = f"{record['ranks']} ranks: bytes that a rank sends per step, and test accuracy on digits, mean of {record['seeds']} seeds."
    return f"{_caption(record, text)}\n\n{_markdown(head, ([codec, *cells] for codec, cells in rows.items()))}"


def train_torch(results: Path) -> str:
    """PyTorch training steps: a table for each MPI library and number of ranks or hosts."""
    tables = []
    for record in train_tables.grouped(newest(results / "train_torch.jsonl")):
        head, rows = train_tables.cells(record)
        text = f"{train_tables.name_of(record)}, ms per training step (slowest rank, median), and how many times that of DDP over gloo."
        tables.append(f"{_caption(record, text)}\n\n{_markdown(head, rows)}")
    return "\n\n".join(tables)


def all_targets(results: Path) -> str:
    """What is to be reached and what was measured. Targets whose results are not there say so."""
    files = {name: results / f"{name}.jsonl" for name in targets.FILES}
    lines = {name: newest(path) for name, path in files.items() if path.is_file()}
    table = _markdown(["what", "to reach", "measured", "met"], targets.rows(lines), numbers=False)
    origins = []
    for name, records in lines.items():
        command = f"hpcdl bench {name}" if name in _VERBS else f"benchmarks/{name}.py"
        machines = dict.fromkeys(
            f"{r['host']['cpu']}, {r['host']['cores']} cores, load {r['host']['load']} before, {r['date']}" for r in records
        )
        origins.append(f"`{command}`, `benchmarks/results/{name}.jsonl`: {'; '.join(machines)}.")
    text = "Ratios are medians of rounds in which all were timed in turn, with their quartiles."
    return "\n\n".join([table, " ".join([text, *origins])])


def horovod_ops(record: Record) -> str:
    """All-reduces by name and training steps beside Horovod's."""
    head, rows = ops_tables.cells(record)
    text = f"{record['ranks']} ranks, ms (slowest rank, median), and ratios of the same round, median (quartiles); below 1 hpcdl is faster."
    return f"{_caption(record, text)}\n\n{_markdown(head, rows)}"


TABLES: dict[str, tuple[str, Callable[[Record], str]]] = {
    "codecs": ("codecs", codecs),
    "allreduce": ("allreduce", allreduce_short),
    "allreduce-all": ("allreduce", allreduce),
    "demo": ("demo", demo),
    "convergence": ("convergence", convergence),
    "horovod-ops": ("horovod_ops", horovod_ops),
}

WHOLE: dict[str, Callable[[Path], str]] = {"train-torch": train_torch, "targets": all_targets}  # made from several lines, or files
_KNOWN = ", ".join([*TABLES, *WHOLE])


def render(name: str, results: Path = RESULTS) -> str:
    """The table of that name as Markdown. Raises Wrong."""
    if name in WHOLE:
        return WHOLE[name](results)
    if name not in TABLES:
        raise Wrong(f"unknown table {name!r}; known: {_KNOWN}")
    file, layout = TABLES[name]
    return "\n\n".join(map(layout, newest(results / f"{file}.jsonl")))


def filled(text: str, results: Path) -> str:
    """`text` with every table in it as the results say. Raises Wrong."""

    def block(match: re.Match[str]) -> str:
        if not match[3]:
            raise Wrong(f"`<!-- results:{match[1]} -->` has no `<!-- end -->`")
        return f"<!-- results:{match[1]} -->\n{render(match[1], results)}\n<!-- end -->"

    if not _BLOCK.search(text) or len(_BLOCK.findall(text)) != text.count("<!-- results:"):
        raise Wrong(f"expected lines `<!-- results:NAME -->` and `<!-- end -->`; NAME is one of {_KNOWN}")
    return _BLOCK.sub(block, text)


def _changed(paths: list[Path], results: Path) -> Iterator[tuple[Path, str, str]]:
    """The files that do not say what the results say: path, text now, text wanted."""
    for path in paths:
        try:
            now = path.read_text(encoding="utf-8")
            wanted = filled(now, results)
        except (OSError, Wrong) as error:
            raise Wrong(f"{path}: {error}") from error
        if now != wanted:
            yield path, now, wanted


def main() -> int:
    """Do what the options say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"tables to print (default: all): {_KNOWN}")
    parser.add_argument("--check", nargs="+", type=Path, metavar="FILE", help="exit with 1 where a table in FILE differs from the results")
    parser.add_argument("--write", nargs="+", type=Path, metavar="FILE", help="bring the tables in FILE up to date")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR", help="where the results are (default: beside this program)")
    args = parser.parse_args()
    try:
        for path, _, wanted in _changed(args.write or [], args.results):
            path.write_text(wanted, encoding="utf-8")
            print(f"{path}: written")
        stale = list(_changed(args.check or [], args.results))
        for path, now, wanted in stale:
            sys.stderr.writelines(difflib.unified_diff(now.splitlines(True), wanted.splitlines(True), str(path), "the results", n=0))
            print(f"{path}: differs from the results; cure: python benchmarks/table.py --write {path}", file=sys.stderr)
        if args.names or not (args.write or args.check):
            print("\n\n".join(render(name, args.results) for name in args.names or [*TABLES, *WHOLE]))
    except Wrong as error:
        print(f"table.py: error: {error}", file=sys.stderr)
        return 2
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
