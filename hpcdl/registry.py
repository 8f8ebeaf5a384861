"""Names for things: one registry per kind, filled by the files that define them and by entry points.

A spec is a name with optional parameters, ``"topk:ratio=0.01"``; values are read as Python literals.
Third-party packages add entries through the entry-point group ``hpcdl.<kind>`` (``hpcdl.codec``, …).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from .errors import InvalidArgument, UnknownName

__all__ = ["Registry", "parse_spec"]

T = TypeVar("T")


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name:key=value,key=value"`` into the name and its parameters.

    >>> parse_spec("topk:ratio=0.01,seed=3")
    ('topk', {'ratio': 0.01, 'seed': 3})
    """
    name, _, tail = spec.partition(":")
    parameters: dict[str, Any] = {}
    for item in filter(None, tail.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise InvalidArgument(f"{spec!r}: expected key=value after the colon, got {item!r}")
        try:
            parameters[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            parameters[key.strip()] = value.strip()
    return name.strip(), parameters


class Registry(Generic[T]):
    """A table from names to factories of one kind of thing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._factories: dict[str, Callable[..., T]] = {}
        self._entry_points_loaded = False

    def register(self, name: str, factory: Callable[..., T]) -> None:
        """Give `factory` the name `name`. A name can be taken once."""
        if name in self._factories:
            raise InvalidArgument(f"{self.kind} {name!r} is registered already")
        self._factories[name] = factory

    def get(self, spec: str) -> T:
        """Make the thing that `spec` names. Raises UnknownName or InvalidArgument."""
        name, parameters = parse_spec(spec)
        self._load_entry_points()
        if name not in self._factories:
            raise UnknownName(f"unknown {self.kind} {name!r}; known: {', '.join(self.names())}")
        try:
            return self._factories[name](**parameters)
        except TypeError as error:
            raise InvalidArgument(f"{self.kind} {spec!r}: {error}") from None

    def names(self) -> list[str]:
        """The known names, sorted."""
        self._load_entry_points()
        return sorted(self._factories)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        self._load_entry_points()
        return name in self._factories

    def _load_entry_points(self) -> None:
        if self._entry_points_loaded:
            return
        self._entry_points_loaded = True
        for point in entry_points(group=f"hpcdl.{self.kind}"):
            if point.name not in self._factories:
                self.register(point.name, point.load())
