"""Optimizers: each changes the parameters in place from the reduced gradients. `OPTIMIZERS` knows them by name.

Each is deterministic and elementwise, so replicas that start equal and get equal gradients stay bitwise equal. State (velocity, moments)
is made at the first step, beside the parameters it belongs to, in their dtype.
"""

# ruff: noqa: PLW2901  (``p -= …`` changes the array in place; that is the point)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .. import arrays
from ..errors import DataError, InvalidArgument
from ..registry import Registry

__all__ = ["OPTIMIZERS", "SGD", "Adam", "Momentum", "Optimizer", "RMSProp", "state_of", "take_state"]


class Optimizer(Protocol):
    """What a trainer needs of an optimizer."""

    def step(self, parameters: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Update ``parameters[i]`` in place from ``gradients[i]``, of the same shape and dtype."""


class SGD:
    """Gradient descent: ``p -= lr g`` (Robbins & Monro 1951)."""

    def __init__(self, lr: float = 0.1) -> None:
        self.lr = _positive("lr", lr)

    def step(self, parameters: Sequence[Any], gradients: Sequence[Any]) -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p -= self.lr * g


class Momentum:
    """Heavy ball: ``v = beta v + g``, ``p -= lr v`` (Polyak 1964; written as in Sutskever et al. 2013, with lr outside v)."""

    def __init__(self, lr: float = 0.05, beta: float = 0.9) -> None:
        self.lr = _positive("lr", lr)
        self.beta = _fraction("beta", beta)
        self.velocity: list[Any] = []

    def step(self, parameters: Sequence[Any], gradients: Sequence[Any]) -> None:
        self.velocity = self.velocity or _zeros_like(parameters)
        for p, g, v in zip(parameters, gradients, self.velocity, strict=True):
            v *= self.beta
            v += g
            p -= self.lr * v


class RMSProp:
    """``s = rho s + (1 - rho) g**2``, ``p -= lr g / (sqrt(s) + eps)`` (Tieleman & Hinton 2012, lecture 6e)."""

    def __init__(self, lr: float = 1e-3, rho: float = 0.9, eps: float = 1e-7) -> None:
        self.lr = _positive("lr", lr)
        self.rho = _fraction("rho", rho)
        self.eps = _positive("eps", eps)
        self.square: list[Any] = []

    def step(self, parameters: Sequence[Any], gradients: Sequence[Any]) -> None:
        self.square = self.square or _zeros_like(parameters)
        for p, g, s in zip(parameters, gradients, self.square, strict=True):
            xp = arrays.of(p).xp
            s *= self.rho
            s += (1 - self.rho) * g * g
            p -= self.lr * g / (xp.sqrt(s) + self.eps)


class Adam:
    """``p -= lr m' / (sqrt(v') + eps)`` with bias-corrected first and second moments m', v' (Kingma & Ba 2015, algorithm 1)."""

    def __init__(self, lr: float = 1e-3, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.lr = _positive("lr", lr)
        self.beta1 = _fraction("beta1", beta1)
        self.beta2 = _fraction("beta2", beta2)
        self.eps = _positive("eps", eps)
        self.steps = 0
        self.first: list[Any] = []
        self.second: list[Any] = []

    def step(self, parameters: Sequence[Any], gradients: Sequence[Any]) -> None:
        self.first = self.first or _zeros_like(parameters)
        self.second = self.second or _zeros_like(parameters)
        self.steps += 1
        rate = self.lr / (1 - self.beta1**self.steps)
        correction = 1 / math.sqrt(1 - self.beta2**self.steps)
        for p, g, m, v in zip(parameters, gradients, self.first, self.second, strict=True):
            xp = arrays.of(p).xp
            m *= self.beta1
            m += (1 - self.beta1) * g
            v *= self.beta2
            v += (1 - self.beta2) * g * g
            p -= rate * m / (correction * xp.sqrt(v) + self.eps)


def state_of(optimizer: Optimizer) -> dict[str, Any]:
    """All that it consists of; arrays are its own."""
    return {"kind": type(optimizer).__name__, **vars(optimizer)}


def take_state(optimizer: Optimizer, state: Mapping[str, Any], like: Any) -> None:
    """Make it what `state` says; its arrays in the library of `like`. Raises DataError for the state of another kind."""
    kind = type(optimizer).__name__
    if state["kind"] != kind:
        raise DataError(f"the state of the optimizer {state['kind']}, and here is {kind}")
    to = arrays.of(like).xp.asarray
    for name, value in state.items():
        if name != "kind":
            setattr(optimizer, name, [to(x) for x in value] if isinstance(value, list) else value)


def _zeros_like(parameters: Sequence[Any]) -> list[Any]:
    return [arrays.of(p).xp.zeros_like(p) for p in parameters]


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise InvalidArgument(f"{name}={value!r}: must be a finite number above 0")
    return float(value)


def _fraction(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and 0 <= value < 1):
        raise InvalidArgument(f"{name}={value!r}: must be at least 0 and below 1")
    return float(value)


OPTIMIZERS: Registry[Optimizer] = Registry("optimizer")
OPTIMIZERS.register("sgd", SGD)
OPTIMIZERS.register("momentum", Momentum)
OPTIMIZERS.register("rmsprop", RMSProp)
OPTIMIZERS.register("adam", Adam)
