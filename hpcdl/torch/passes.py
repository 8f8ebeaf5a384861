"""Backward passes as events: when one begins, which gradients are there, when it is over. All that is known here of autograd's engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_leaves

from ..errors import InvalidArgument

__all__ = ["Listener", "Passes", "tensors_in"]


class Listener(Protocol):
    """Who is told of passes whose gradients are to be reduced."""

    def begin(self) -> None:
        """The first gradient is about to be told of."""
        ...

    def ready(self, i: int) -> None:
        """Autograd has added to the gradient of parameter `i`; in some models more than once in a pass."""
        ...

    def end(self) -> None:
        """No more gradients in this pass; `backward()` returns after this has."""
        ...

    def abandon(self) -> None:
        """The pass that began ended in an exception."""
        ...


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
        self._open: bool | None = None  # the same for the pass under way
        self._touched = False  # whether it has reached a parameter

    def follow(self, parameters: Mapping[int, tuple[str, torch.nn.Parameter]]) -> None:
        """From now on tell of the gradients of these parameters too, by these numbers.

        Why those of before are not forgotten: a graph may be there that was recorded when they were trained.
        """
        for i, (name, p) in parameters.items():
            if i not in self._names:
                self._names[i] = name
                self._handles.append(p.register_post_accumulate_grad_hook(partial(self._reach, i)))

    def forget(self) -> None:
        """Tell of nothing any more."""
        for handle in self._handles:
            handle.remove()
        self._names, self._handles = {}, []

    def watch(self, outputs: Any) -> None:
        """A forward has given `outputs`. Not called where autograd records nothing."""
        if self._open is not None and torch._C._current_graph_task_id() == -1:
            self._recover()
        self._forward = self.reduce
        for tensor in tensors_in(outputs):
            if tensor.grad_fn is not None:  # a parameter that is returned as it is would keep the hook
                tensor.register_hook(partial(self._enter, self.reduce))

    def _enter(self, reduce: bool, gradient: torch.Tensor) -> None:
        """The pass has come to an output of the module."""
        del gradient
        if self._open is None:
            self._begin(reduce)
        elif reduce:
            self._open = True

    def _reach(self, i: int, parameter: torch.Tensor) -> None:
        del parameter
        if self._open is None:
            if self._forward is None and self.reduce:
                raise InvalidArgument(
                    f"a backward pass reached parameter {self._names[i]!r}, but no forward of the distributed model led there; call the "
                    "wrapper, model(x), and not model.module(x); for gradients of this rank alone, do that within model.no_sync()"
                )
            self._begin(bool(self._forward))
        if self._open:
            if not self._touched:
                self._listener.begin()
            self._listener.ready(i)
        self._touched = True

    def _begin(self, reduce: bool) -> None:
        self._open, self._touched = reduce, False
        torch.autograd.Variable._execution_engine.queue_callback(self._close)

    def _close(self) -> None:
        reduce, touched = self._open, self._touched
        self._open = None
        if touched:  # else it was autograd.grad, which leaves the parameters alone
            self._forward = None
            if reduce:
                self._listener.end()

    def _recover(self) -> None:
        reduce, touched = self._open, self._touched
        self._open = None
        if reduce and touched:
            self._listener.abandon()


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in what a module takes or gives: nested lists, tuples, dictionaries, dataclasses."""
    for leaf in tree_leaves(value):
        if isinstance(leaf, torch.Tensor):
            yield leaf
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            yield from tensors_in([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
