"""The gradients of one model: into buckets as autograd makes them, and back as means over all ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import InvalidArgument
from ..reduction.reducer import Reducer
from ..world import World
from . import samples, sparse
from .agree import compare
from .passes import Passes
from .tensors import as_array, as_tensor

__all__ = ["Copies", "Gradients"]

_UNUSED, _SPARSE, _DENSE = 0, 1, 2  # what a rank has of a parameter's gradient; where ranks differ the largest counts

Named = tuple[str, torch.nn.Parameter]


class Copies(NamedTuple):
    """How often a gradient had to be copied into its bucket, because autograd had made a new tensor, and how often it lay there already."""

    copied: int = 0
    bytes_copied: int = 0
    in_place: int = 0


class Gradients:
    """Reduces the gradients of `parameters` in every backward pass that `passes` tells of.

    The reducer is made at the end of the first pass, in the order in which rank 0's gradients came, so that from the second pass on the
    buckets fill one after the other. It is made anew when other parameters than before want gradients, or their dtype has changed.

    sparse_names: parameters whose gradients are sparse; they are gathered. options: for `Reducer`. at_end: starts what else all ranks do
    at the end of a pass; what it returns is called after the reduction.
    """

    def __init__(
        self,
        world: World,
        parameters: Iterable[Named],
        sparse_names: frozenset[str],
        options: dict[str, Any],
        at_end: Callable[[], Callable[[], None]],
    ) -> None:
        self._world, self._everyone, self._options, self._at_end = world, list(parameters), options, at_end
        self._sparse_names = sparse_names
        self.passes = Passes(self)
        self.copies = Copies()
        self.reducer: Reducer | None = None
        self._retired: Reducer | None = None
        self._key: list[Any] = []
        self._dense: list[Named] = []
        self._sparse: list[Named] = []
        self._indices: list[int] = []  # of the dense parameters in the reducer; empty until there is one
        self._views: list[torch.Tensor] = []
        self._overlap = True
        self._came: list[int] = []  # dense parameters whose gradients have come in this pass, in order
        self._given: set[int] = set()  # those that the reducer has
        self._weight = 1.0

    def refresh(self) -> None:
        """Look which parameters want gradients now. Before each forward; not collective."""
        key = [p.dtype if p.requires_grad else None for _, p in self._everyone]
        if key == self._key:
            return
        self._key = key
        trained = [(name, p) for name, p in self._everyone if p.requires_grad]
        self._dense = [(name, p) for name, p in trained if name not in self._sparse_names]
        self._sparse = [(name, p) for name, p in trained if name in self._sparse_names]
        self._retired, self.reducer = self.reducer or self._retired, None
        self.passes.follow([*self._dense, *self._sparse])

    def begin(self) -> None:
        weight = samples.current(self._world)
        self._weight = 1.0 if weight is None else weight
        self._came.clear()
        self._given.clear()
        if self.reducer is not None:
            self.reducer.begin(self._weight)

    def ready(self, i: int) -> None:
        if i >= len(self._dense):
            return
        self._came.append(i)
        if self.reducer is not None and self._overlap:
            self._give(i)

    def end(self) -> None:
        if self.reducer is None:
            self._build()
        assert self.reducer is not None
        flags = np.zeros(len(self._dense) + len(self._sparse), np.uint8)
        for i, (_, p) in enumerate(self._dense):
            if p.grad is not None:
                flags[i] = _DENSE
                if i not in self._given:
                    self._give(i)
        for i, (_, p) in enumerate(self._sparse, len(self._dense)):
            if p.grad is not None:
                flags[i] = _SPARSE if p.grad.is_sparse else _DENSE
        after = self._at_end()
        self.reducer.wait()
        mine = flags.copy()
        self._world.allreduce(flags, "max", name="which parameters were used")
        for (_, p), view, before, flag in zip(self._dense, self._views, mine, flags, strict=False):
            if flag > before:  # another rank has used it
                p.grad = view
        for (_, p), flag in zip(self._sparse, flags[len(self._dense) :], strict=True):
            if flag == _SPARSE:
                p.grad = sparse.mean(self._world, p, self._weight)
            elif flag == _DENSE:
                p.grad = sparse.dense_mean(self._world, p, self._weight)
        after()

    def abandon(self) -> None:
        if self.reducer is not None:
            self.reducer.wait()

    def close(self) -> None:
        """Give back communicators and memory. Called by all ranks. Gradients that the caller holds stay valid."""
        for reducer in (self.reducer, self._retired):
            if reducer is not None:
                reducer.close()
        self.reducer = self._retired = None
        self._key = []
        self.passes.follow([])

    def _give(self, i: int) -> None:
        """Hand the gradient of dense parameter `i` to the reducer; it must not change from here to the end of the pass."""
        assert self.reducer is not None
        name, p = self._dense[i]
        if i in self._given:
            raise InvalidArgument(
                f"rank {self._world.rank} of {self._world.size}: autograd added to the gradient of {name!r} twice in one backward pass, "
                "after its reduction had begun; cure: checkpoint(…, use_reentrant=False), or DistributedDataParallel(…, overlap=False)"
            )
        self._given.add(i)
        view, gradient = self._views[i], p.grad
        if gradient is view:
            self.copies = self.copies._replace(in_place=self.copies.in_place + 1)
        else:
            if gradient.is_sparse:
                _warn_sparse(name)
                gradient = gradient.to_dense()
            view.copy_(gradient)
            p.grad = view
            count, size, there = self.copies
            self.copies = Copies(count + 1, size + view.numel() * view.element_size(), there)
        self.reducer.ready(self._indices[i])

    def _build(self) -> None:
        """Make the reducer. Collective."""
        first_came = list(dict.fromkeys(self._came))
        rest = [i for i in reversed(range(len(self._dense))) if i not in set(first_came)]
        order = np.array([*first_came, *rest], np.int64)
        again = np.array([len(first_came) < len(self._came) or not self._options["overlap"]], np.uint8)
        self._world.allreduce(again, "max", name="whether gradients come more than once")
        if len(order):
            self._check_same_parameters()
            self._world.broadcast(order)
        self._overlap = not again[0]
        parameters = [self._dense[i] for i in order[::-1]]  # a reducer expects the last one first
        self._indices = [int(n) for n in np.argsort(order[::-1])]
        parts = [_real(p.detach()) for _, p in parameters]
        options = {name: value for name, value in self._options.items() if name != "overlap"}
        first = as_array(parts[0].reshape(-1)[:0]) if parts else None
        self.reducer = Reducer(
            self._world,
            [tuple(part.shape) for part in parts],
            dtype=[as_array(part.reshape(-1)[:0]).dtype for part in parts],
            names=[name for name, _ in parameters],
            like=first,
            **options,
        )
        views = [as_tensor(view) for view in self.reducer.views]
        views = [torch.view_as_complex(view) if p.is_complex() else view for view, (_, p) in zip(views, parameters, strict=True)]
        self._views = [views[n] for n in self._indices]
        if self._retired is not None:
            _carry_over(self._retired, self.reducer)
            self._retired.close()
            self._retired = None
        self.reducer.begin(self._weight)

    def _check_same_parameters(self) -> None:
        """Raise the same error on every rank where they train different parameters: one has frozen what another has not."""
        compare(self._world, [f"{name}: trained" for name, _ in self._dense], "which parameters are trained")


def _real(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _carry_over(old: Reducer, new: Reducer) -> None:
    """What was lost so far is still to be sent, by whatever bucket the parameter is in now."""
    if old.residuals is None or new.residuals is None:
        return
    lost = dict(zip(old.names, old.residuals, strict=True))
    for name, residual in zip(new.names, new.residuals, strict=True):
        if name in lost and lost[name].shape == residual.shape:
            residual[...] = lost[name]


_told: set[str] = set()


def _warn_sparse(name: str) -> None:
    if name not in _told:
        _told.add(name)
        warnings.warn(
            f"the gradient of {name!r} is sparse, and it is no weight of an Embedding or EmbeddingBag with sparse=True; it is reduced as a "
            "dense one",
            stacklevel=2,
        )
