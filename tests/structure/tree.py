"""A package's source files and what each of them imports, without importing anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One file of the package at `root`: its path, its dotted name, its lines and its syntax tree."""

    root: Path
    path: Path

    @property
    def name(self) -> str:
        """The dotted name: `hpcdl.launch.env`; a package's `__init__` has the package's own."""
        parts = self.path.relative_to(self.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def package(self) -> str:
        """What a single leading dot means in this file."""
        return self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]

    @property
    def shown(self) -> str:
        """The path as a message shows it."""
        return str(self.path.relative_to(self.root.parent))

    @property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text(encoding="utf-8")

    @property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text, str(self.path))


def sources(root: Path) -> list[Source]:
    """All files of the package whose folder is `root`."""
    return [Source(root, path) for path in sorted(root.rglob("*.py"))]


def imports(source: Source) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each module that the file imports: anywhere, in functions too, and by `import_module("…")`."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), source.package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield node.lineno, inner if _is_module(source.root, inner) or base == source.root.name else base
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield node.lineno, absolute(first.value, source.package)


def absolute(name: str, package: str) -> str:
    """`..x` seen from `package` as a name without dots in front."""
    bare = name.lstrip(".")
    level = len(name) - len(bare)
    if not level:
        return name
    base = package.split(".")[: len(package.split(".")) - level + 1]
    return ".".join([*base, *filter(None, [bare])])


def _is_module(root: Path, name: str) -> bool:
    path = root.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _called(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
