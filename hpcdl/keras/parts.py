"""What a training with Keras consists of, as parts of a checkpoint: what is the same on all ranks, and what is each one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from ..checkpoint.parts import overwrite
from ..world import World
from .backends import current
from .metrics import kept_sums, samples
from .optimizer import STATE, distributed
from .replicas import optimizers_of, statistics_of, unnumbered, value_of

__all__ = ["Codecs", "OfRank", "Weights"]


class Weights:
    """The model's weights and its optimizers' variables, learning rates among them: the same on all ranks."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def _variables(self) -> dict[str, list[Any]]:
        own = {id(v) for v in statistics_of(self._model)}
        optimizers = optimizers_of(self._model)
        return {
            "weights": [v for v in self._model.weights if id(v) not in own],
            **{f"optimizer {i}": optimizer.variables for i, optimizer in enumerate(optimizers)},
        }

    def state_dict(self) -> dict[str, Any]:
        """Their values."""
        current().sync(self._model)
        return {name: _values(variables) for name, variables in self._variables().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Assign them. Raises DataError, before any is changed, where they are another model's."""
        variables = self._variables()
        here = {name: _copies(found) for name, found in variables.items()}
        overwrite(here, state, "model")
        for name, found in variables.items():
            _assign(found, here[name])


class OfRank:
    """What layers keep of the data that they saw, states of random generators, and metrics: another on each rank.

    On another number of ranks moving averages are the mean of what all had, as at the end of an epoch, sums of metrics stay what they were
    together, and a new rank's generators are its own.
    """

    def __init__(self, world: World, model: Any) -> None:
        self._world, self._model = world, model
        self._metrics: dict[str, Any] = {}

    def _seeds(self) -> list[Any]:
        return list({id(g): g.state for layer in self._model._flatten_layers() for g in layer._seed_generators}.values())

    def rank_state_dict(self) -> dict[str, Any]:
        """This rank's."""
        current().sync(self._model)
        found = {"statistics": statistics_of(self._model), "seeds": self._seeds(), "metrics": self._model.metrics_variables}
        return {"samples": samples(self._model), **{name: _values(variables) for name, variables in found.items()}}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Assign all but the metrics, which Keras is about to reset. Raises DataError where they are another model's."""
        for name, variables in (("statistics", statistics_of(self._model)), ("seeds", self._seeds())):
            here = _copies(variables)
            overwrite(here, dict(state[name]), name)
            _assign(variables, here)
        self._metrics = dict(state["metrics"])

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """From what all ranks of another number had."""
        rank, size = self._world.rank, self._world.size
        mine = states[rank % len(states)]
        seen = [state["samples"] for state in states]
        shares = [n / sum(seen) if sum(seen) else 1 / len(states) for n in seen]

        def mean(name: str, x: Any) -> Any:
            parts = [share * state["statistics"][name].astype(np.float64) for share, state in zip(shares, states, strict=True)]
            return np.asarray(sum(parts)).astype(x.dtype) if keras.backend.is_float_dtype(x.dtype.name) else x

        def total(name: str, x: Any) -> Any:
            return np.asarray(sum([state["metrics"][name] for state in states[rank::size]], np.zeros_like(x)), x.dtype)

        statistics = {name: mean(name, x) for name, x in mine["statistics"].items()}
        variables, added = self._model.metrics_variables, {id(v) for v in kept_sums(self._model)}
        sums = {name for v, name in zip(variables, _names(variables), strict=True) if id(v) in added}
        metrics = {name: total(name, x) if name in sums else x for name, x in mine["metrics"].items()}
        seeds = mine["seeds"] if rank < len(states) else _values(self._seeds())
        self.load_rank_state_dict({"statistics": statistics, "seeds": seeds, "metrics": metrics})

    def go_on(self) -> None:
        """Give the metrics what they had, once Keras has reset them. Raises DataError where they are others."""
        here = _copies(self._model.metrics_variables)
        overwrite(here, self._metrics, "metrics")
        _assign(self._model.metrics_variables, here)


class Codecs:
    """What codecs and compressors carry from step to step, in the reducers of the model's optimizers."""

    def __init__(self, model: Any) -> None:
        self._averagings = [optimizer.__dict__[STATE] for optimizer in distributed(model)]

    def state_dict(self) -> dict[str, Any]:
        """What is the same on all ranks."""
        return self._given("state_dict")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, once the reducers are there."""
        self._load("load_state_dict", state)

    def rank_state_dict(self) -> dict[str, Any]:
        """What was dropped on this rank."""
        return self._given("rank_state_dict")

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, once the reducers are there."""
        self._load("load_rank_state_dict", state)

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Share out what all ranks of another number have dropped. A world of one drops nothing, and has no reducer to send it."""
        together = {i: {key: [state[i][key] for state in states] for key in found} for i, found in states[0].items()}
        self._load("load_all_rank_state_dicts", together)

    def _given(self, method: str) -> dict[str, Any]:
        return {str(i): averaging.state(method) for i, averaging in enumerate(self._averagings)}

    def _load(self, method: str, state: Mapping[str, Any]) -> None:
        for i, averaging in enumerate(self._averagings):
            averaging.load(method, state[str(i)])


def _names(variables: Sequence[Any]) -> list[str]:
    return [f"{i} {unnumbered(v.path)}" for i, v in enumerate(variables)]


def _values(variables: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(_names(variables), map(value_of, variables), strict=True))


def _copies(variables: Sequence[Any]) -> dict[str, Any]:
    return {name: np.array(value) for name, value in _values(variables).items()}


def _assign(variables: Sequence[Any], values: Mapping[str, Any]) -> None:
    for v, name in zip(variables, _names(variables), strict=True):
        v.assign(values[name])
