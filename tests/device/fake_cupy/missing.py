"""Namespaces that say what the double lacks."""

from __future__ import annotations

import types
from typing import Any


class Namespace(types.ModuleType):
    """A module with the given names and no others."""

    def __init__(self, name: str, **contents: Any) -> None:
        super().__init__(name, "A double; see tests/device/fake_cupy.")
        self.__dict__.update(contents)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(lacks(f"{self.__name__}.{name}"))


def lacks(what: str) -> str:
    """The message for a name that is not there."""
    return f"the CuPy double lacks {what}; if CuPy has it and hpcdl needs it, add it to tests/device/fake_cupy"
