"""Backward passes as events: when one begins, which gradients are there, when it is over. All that is known here of autograd's engine."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_leaves

from ..errors import InvalidArgument

__all__ = ["Listener", "Passes", "tensors_in"]


class Listener(Protocol):
    """Who is told of the passes through one module. A pass is local, or its gradients are to be reduced."""

    def enter(self, reduce: bool, late: bool) -> None:
        """A pass begins, which may turn out to leave the parameters alone. late: it has added to a gradient already."""
        ...

    def begin(self) -> None:
        """Gradients are to be reduced, of which the first is about to be told of."""
        ...

    def ready(self, i: int) -> None:
        """Autograd has added to the gradient of parameter `i`; in some models more than once in a pass."""
        ...

    def kept(self, i: int) -> None:
        """The same in a local pass."""
        ...

    def leave(self) -> None:
        """No more gradients in this pass."""
        ...

    def end(self) -> None:
        """The same, after `leave`, where something was to be reduced; `backward()` returns after this has."""
        ...

    def abandon(self) -> None:
        """The pass that was entered ended in an exception."""
        ...


class _Pass:
    """A pass under way. Only the engine holds it, so that it is gone when the engine gives up."""

    def __init__(self, reduce: bool) -> None:
        self.reduce = reduce
        self.reached = False  # whether it has come to a parameter
        self.begun = False  # whether gradients are being reduced


class Passes:
    """Follows the backward passes through one module.

    A forward tells whether the gradients of its backward are to be reduced or stay local (`reduce`, `watch`). A pass belongs to the
    forward whose output it comes through; where that cannot be seen (an output inside an object of the user's, a loss made of gradients),
    to the last forward. Local and reduced forwards in one pass: reduced.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.reduce = True  # whether the next forward's gradients are to be reduced
        self._names: dict[int, str] = {}
        self._handles: list[Any] = []
        self._forward: bool | None = None  # whether the last forward that had no pass yet is to be reduced; None: there is none
        self._hidden = False  # whether its outputs could not be seen, so that any number of passes may be through it
        self._pass: Any = _nothing  # what gives the pass under way, or None
        self._entered = False  # whether it was told of, and not yet that it is over

    def follow(self, parameters: Mapping[int, tuple[str, torch.nn.Parameter]]) -> None:
        """From now on tell of the gradients of these parameters too, by these numbers.

        Why those of before are not forgotten: a graph may be there that was recorded when they were trained.
        """
        for i, (name, p) in parameters.items():
            if i not in self._names:
                self._names[i] = name
                self._handles.append(p.register_post_accumulate_grad_hook(partial(_reach, weakref.ref(self), i)))

    def forget(self) -> None:
        """Tell of nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._names, self._handles = {}, []

    def watch(self, outputs: Any) -> None:
        """A forward has given `outputs`. Not called where autograd records nothing."""
        self._under_way()
        self._forward, self._hidden = self.reduce, True
        for tensor in tensors_in(outputs):
            if tensor.grad_fn is not None:  # a parameter that is returned as it is would keep the hook
                self._hidden = False
                tensor.register_hook(partial(self._come, self.reduce))

    def reach(self, i: int) -> None:
        """A pass has added to the gradient of parameter `i`."""
        now = self._under_way()
        if now is None:
            if self._forward is None and self.reduce:
                raise InvalidArgument(
                    f"a backward pass reached parameter {self._names[i]!r}, but no forward of the distributed model led there; call the "
                    "wrapper, model(x), and not model.module(x); for gradients of this rank alone, do that within model.no_sync()"
                )
            now = self._enter(bool(self._forward), late=True)
        now.reached = True
        if now.reduce:
            self._begin(now)
            self._listener.ready(i)
        else:
            self._listener.kept(i)

    def _come(self, reduce: bool, gradient: torch.Tensor) -> None:
        """A pass has come to an output of the module."""
        del gradient
        now = self._under_way()
        if now is None:
            self._enter(reduce, late=False)
        elif reduce:
            now.reduce = True

    def _under_way(self) -> _Pass | None:
        now: _Pass | None = self._pass()
        if now is None and self._entered:
            self._entered = False
            self._listener.abandon()
        return now

    def _enter(self, reduce: bool, late: bool) -> _Pass:
        now = _Pass(reduce)
        self._pass, self._entered = weakref.ref(now), True
        torch.autograd.Variable._execution_engine.queue_callback(partial(self._close, now))
        self._listener.enter(reduce, late)
        return now

    def _begin(self, now: _Pass) -> None:
        if not now.begun:
            now.begun = True
            self._listener.begin()

    def _close(self, now: _Pass) -> None:
        self._pass, self._entered = _nothing, False
        self._listener.leave()
        if not now.reached:  # it was autograd.grad, which leaves the parameters alone
            return
        if not self._hidden:
            self._forward = None
        if now.reduce:
            self._begin(now)
            self._listener.end()


def _nothing() -> None:
    return None


def _reach(passes: weakref.ref[Passes], i: int, parameter: torch.Tensor) -> None:
    """The hook of a parameter, which must not keep the wrapper alive."""
    del parameter
    followed = passes()
    if followed is not None:
        followed.reach(i)


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module takes or gives: nested lists, tuples, dictionaries, dataclasses."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from tensors_in([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
