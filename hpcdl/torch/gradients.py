"""The gradients of one model: into buckets as autograd makes them, and back as means over all ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import InvalidArgument
from ..reduction.compressors import by_name
from ..reduction.elementwise import Elementwise
from ..reduction.reducer import Reducer
from ..world import World
from . import samples, sparse
from .agree import compare
from .passes import Passes
from .tensors import as_array, as_tensor, numpy_dtype
from .use import Use, length

__all__ = ["Copies", "Gradients"]

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
        self._samples = samples.Samples()
        self._use = Use(0, 0, None)

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
        self._samples = samples.current(self._world)
        self._came.clear()
        self._given.clear()
        if self.reducer is not None:
            self.reducer.begin(*self._samples)

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
        for i, (_, p) in enumerate(self._dense):
            if p.grad is not None and i not in self._given:
                self._give(i)
        counts = self._samples.mine != 0
        self._use.tell([p for _, p in self._dense], [p for _, p in self._sparse], counts)
        if len(self.reducer.views) > len(self._dense):
            self.reducer.ready(0)
        after = self._at_end()
        self.reducer.wait()
        used, dense = self._use.hear(self._world)
        for (_, p), view, is_used in zip(self._dense, self._views, used, strict=False):
            if not is_used:
                p.grad = None
            elif p.grad is not view:  # this rank has not used it
                p.grad = view
        for (_, p), is_used, is_dense in zip(self._sparse, used[len(self._dense) :], dense, strict=True):
            if is_used:
                p.grad = (sparse.dense_mean if is_dense else sparse.mean)(self._world, p, self._samples)
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
        options = {name: value for name, value in self._options.items() if name != "overlap"}
        parameters = [self._dense[i] for i in order[::-1]]  # a reducer expects the last one first
        named = [(name, _real(p.detach())) for name, p in parameters]
        compressor = by_name(options["codec"])
        if isinstance(compressor, Elementwise) and not any(p.is_cuda for _, p in parameters):
            flags = torch.empty(length(len(self._dense), len(self._sparse), compressor.exact))
            named.insert(0, ("which parameters were used", flags))
        ahead = len(named) - len(parameters)
        self._indices = [int(n) + ahead for n in np.argsort(order[::-1])]
        self.reducer = Reducer(
            self._world,
            [tuple(x.shape) for _, x in named],
            dtype=[numpy_dtype(x.dtype) for _, x in named],
            names=[name for name, _ in named],
            like=as_array(named[-1][1].reshape(-1)[:0]) if named else None,
            **options,
        )
        self._use = Use(len(self._dense), len(self._sparse), self.reducer.views[0] if ahead else None)
        views = [as_tensor(self.reducer.views[n]) for n in self._indices]
        self._views = [torch.view_as_complex(x) if p.is_complex() else x for x, (_, p) in zip(views, self._dense, strict=True)]
        if self._retired is not None:
            _carry_over(self._retired, self.reducer)
            self._retired.close()
            self._retired = None
        self.reducer.begin(*self._samples)

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
