"""Random states as a part of a checkpoint: another on each rank."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["RandomStates", "add_source"]

#: A generator of a library: what gives its state, and what sets it.
Source = tuple[Callable[[], Any], Callable[[Any], None]]

_sources: dict[str, Source] = {
    "random": (random.getstate, random.setstate),
    "numpy.random": (lambda: np.random.get_state(legacy=False), np.random.set_state),
}


def add_source(name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
    """Let `RandomStates` hold this library's state too."""
    _sources[name] = get, put


class RandomStates:
    """A part of a `Checkpoint`: the states of Python's ``random``, of ``numpy.random``, of PyTorch where `hpcdl.torch` is imported, and of
    `generators` (NumPy's, by name), of each rank. On another number of ranks they stay as they are, with a warning: a state belongs to
    one rank.
    """

    def __init__(self, **generators: np.random.Generator) -> None:
        self._generators = generators

    def rank_state_dict(self) -> dict[str, Any]:
        """This rank's states."""
        own = {name: generator.bit_generator.state for name, generator in self._generators.items()}
        return {"libraries": {name: get() for name, (get, _) in _sources.items()}, "generators": own}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there. A library that was not imported when it was saved, or is not now, is left alone."""
        for name, (_, put) in _sources.items():
            if name in state["libraries"]:
                put(state["libraries"][name])
        for name, generator in self._generators.items():
            generator.bit_generator.state = state["generators"][name]
