"""The rules. Each yields its violations as `file:line: what is wrong`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from .tree import imports, sources

# A room may import itself and what stands to its left.
ORDER = (
    *("errors", "registry", "launch.env", "launch.machine", "arrays", "transport", "codecs", "collectives"),
    *("world", "engine", "device_path", "start", "shards", "agree"),
    *("reduction", "parallel", "checkpoint"),
    *("numpy", "torch", "keras", "horovod"),  # the doors
    *("launch", "demo", "bench", "cli"),
)
# What is imported from outside, and the only places for it.
PLACES = {
    "mpi4py": ("transport.mpi", "transport.mpi_messages", "transport.windows", "launch", "bench"),
    "cupy": ("arrays",),
    "cupyx": ("arrays",),
    "cupy_backends": ("arrays",),
    "torch": ("torch", "keras", "horovod", "transport.horovod", "bench.ddp"),
    "keras": ("keras", "horovod"),
    "tensorflow": ("keras", "horovod"),
    "jax": ("keras",),
    "horovod": ("horovod", "transport.horovod"),
    "sklearn": ("demo",),
    "matplotlib": ("bench.plot",),
}
LONGEST = 250


def room(name: str, package: str) -> str | None:
    """The room of ORDER that the module is in; the longest name wins. None for what is in no room."""
    inner = name.removeprefix(package).lstrip(".")
    return max((place for place in ORDER if _within(inner, place)), key=len, default=None)


def direction(root: Path) -> Iterator[str]:
    """Imports inside the package point to the left in ORDER. The package's own `__init__` may name them all."""
    package = root.name
    for source in sources(root):
        if source.name == package:
            continue
        here = room(source.name, package) if source.name != f"{package}.__main__" else "cli"
        if here is None:
            yield f"{source.shown}:1: {source.name} is in none of the rooms: {', '.join(ORDER)}"
            continue
        for line, name in imports(source):
            if not _within(name, package) or name == f"{package}.__version__":
                continue
            there = room(name, package)
            if there is None:
                yield f"{source.shown}:{line}: {here} imports {name} from the package's door; import it from the module that defines it"
            elif ORDER.index(there) > ORDER.index(here):
                yield f"{source.shown}:{line}: {here} imports {name}, but {there} stands to the right of {here} in the order of rooms"


def places(root: Path) -> Iterator[str]:
    """MPI, CuPy and each framework are imported in their places only."""
    for source in sources(root):
        inner = source.name.removeprefix(root.name).lstrip(".")
        for line, name in imports(source):
            allowed = PLACES.get(name.split(".")[0])
            if allowed is not None and not any(_within(inner, place) for place in allowed):
                yield f"{source.shown}:{line}: imports {name}, which only {' and '.join(allowed)} may"


def lengths(root: Path) -> Iterator[str]:
    """A file has at most LONGEST lines."""
    for source in sources(root):
        count = len(source.text.splitlines())
        if count > LONGEST:
            yield f"{source.shown}:{LONGEST + 1}: {count} lines, at most {LONGEST} are allowed: one idea each"


def docstrings(root: Path) -> Iterator[str]:
    """Each module, public class and public function has one."""
    for source in sources(root):
        tree = source.tree
        if not ast.get_docstring(tree):
            yield f"{source.shown}:1: the module has no docstring"
        for node in _public(tree):
            if not ast.get_docstring(node):
                yield f"{source.shown}:{node.lineno}: {node.name} is public and has no docstring"


def _public(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in tree.body:
        if not isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("_"):
            continue
        if not any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list):
            yield node


def _within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


RULES = {"direction": direction, "places": places, "lengths": lengths, "docstrings": docstrings}
