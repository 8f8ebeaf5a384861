"""The parameters that are trained at one time, and the buckets of their gradients."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..agree import compare
from ..errors import InvalidArgument
from ..reduction.compressors import by_name
from ..reduction.elementwise import Elementwise
from ..reduction.reducer import Reducer
from ..world import World
from . import sparse
from .samples import Samples
from .streams import gpu_of, in_order
from .tensors import as_array, as_tensor, numpy_dtype
from .use import Use, length

__all__ = ["Named", "Trained"]

Named = tuple[str, torch.nn.Parameter]


class Trained:
    """Reduces the gradients of `parameters`, pass by pass: `begin`, `give` each that is there, `finish`.

    There is no reducer before `build`, which is called at the end of the first pass, when it is known in which order gradients come.

    parameters: by the number that the caller knows them by. sparse_names: those whose gradients are gathered. options: for `Reducer`, and
    ``overlap``.
    """

    def __init__(self, world: World, parameters: Mapping[int, Named], sparse_names: frozenset[str], options: Mapping[str, Any]) -> None:
        self._world, self._parameters = world, dict(parameters)
        self._dense = [i for i, (name, _) in self._parameters.items() if name not in sparse_names]
        self._sparse = [i for i, (name, _) in self._parameters.items() if name in sparse_names]
        self._options = {name: value for name, value in options.items() if name != "overlap"}
        self.overlap = bool(options["overlap"])  # whether gradients are given while backward runs
        self.reducer: Reducer | None = None
        self._views: dict[int, torch.Tensor] = {}  # private: what others hold are aliases
        self._addresses: dict[int, int] = {}
        self._places: dict[int, int] = {}  # in the reducer
        self._given: set[int] = set()  # in this pass
        self._samples = Samples()
        self._use = Use(0, 0, None)
        self._any = next((p for _, p in self._parameters.values()), None)  # one that is where all of them are

    def __contains__(self, i: object) -> bool:
        return i in self._parameters

    def begin(self, samples: Samples) -> None:
        """A pass begins, in which this rank's gradients have so many samples behind them."""
        self._samples = samples
        self._given.clear()
        if self.reducer is not None:
            self.reducer.begin(*samples)

    def build(self, came: Sequence[int]) -> None:
        """Make the reducer; `came`: the gradients of this pass so far, in order. Collective. Raises Mismatch where ranks train others."""
        lines = [f"{name}: trained, strides {p.stride()}" for name, p in self._parameters.values()]
        compare(self._world, lines, "which parameters are trained")
        dense = set(self._dense)
        first = [i for i in dict.fromkeys(came) if i in dense]
        again = np.array([len(first) < sum(i in dense for i in came)], np.uint8)
        self._world.allreduce(again, "max", name="whether gradients come more than once")
        self.overlap = self.overlap and not again[0]
        order = np.array([*first, *(i for i in reversed(self._dense) if i not in set(first))], np.int64)
        if len(order):
            self._world.broadcast(order)
        with in_order(self._any):
            self._make([int(i) for i in order[::-1]])  # a reducer expects the last one first
        assert self.reducer is not None
        self.reducer.begin(*self._samples)

    def give(self, i: int) -> int | None:
        """Hand over the gradient of parameter `i`, which must not change from here to the end of the pass.

        Bytes that had to be copied, 0 where it lay in its bucket already; None for a sparse one, which waits for the end.
        """
        view = self._views.get(i)
        if view is None:
            return None
        name, p = self._parameters[i]
        if i in self._given:
            raise InvalidArgument(
                f"rank {self._world.rank} of {self._world.size}: autograd added to the gradient of {name!r} twice in one backward pass, "
                "after its reduction had begun; cure: checkpoint(…, use_reentrant=False), or DistributedDataParallel(…, overlap=False)"
            )
        self._given.add(i)
        if view.data_ptr() != self._addresses[i]:  # share_memory() moves the storage itself, with all who look into it
            with in_order(p):
                view = self._views[i] = self._view(i)
        gradient, copied = p.grad.detach(), 0  # with create_graph it has a history, which a mean over ranks cannot have
        if not _lies_in(view, gradient):
            if gradient.is_sparse:
                _warn_sparse(name)
                gradient = gradient.to_dense()
            view.copy_(gradient)
            copied = view.numel() * view.element_size()
        if copied or p.grad.requires_grad:
            p.grad = view.detach()
        assert self.reducer is not None
        with in_order(p):
            self.reducer.ready(self._places[i])
        return copied

    def missing(self) -> list[int]:
        """Dense parameters that have a gradient, which was not given in this pass."""
        return [i for i in self._dense if i not in self._given and self._parameters[i][1].grad is not None]

    def told(self) -> None:
        """No more gradients: tell what this rank has used."""
        assert self.reducer is not None
        dense, gathered = ([self._parameters[i][1] for i in some] for some in (self._dense, self._sparse))
        self._use.tell(dense, gathered, self._samples.mine != 0)

    def finish(self) -> None:
        """Wait for the means, and put them into ``grad``; None where no rank has used the parameter."""
        assert self.reducer is not None
        with in_order(self._any):
            self.reducer.wait(last=range(len(self.reducer.views) - len(self._dense)))  # the flags, if they travel with the gradients
        used, dense = self._use.hear(self._world)
        for i, is_used in zip(self._dense, used, strict=False):
            p, view = self._parameters[i][1], self._views[i]
            if not is_used:
                p.grad = None
            elif p.grad is None:  # this rank has not used it
                p.grad = view.detach()
        for i, is_used, is_dense in zip(self._sparse, used[len(self._dense) :], dense, strict=True):
            if is_used:
                p = self._parameters[i][1]
                p.grad = (sparse.dense_mean if is_dense else sparse.mean)(self._world, p, self._samples)

    def inherit(self, other: Trained) -> None:
        """Take over what `other` has lost and not yet sent: it is still to be sent, by whatever bucket the parameter is in now."""
        if self.reducer is None or other.reducer is None or self.reducer.residuals is None or other.reducer.residuals is None:
            return
        lost = dict(zip(other.reducer.names, other.reducer.residuals, strict=True))
        with in_order(self._any):
            for name, residual in zip(self.reducer.names, self.reducer.residuals, strict=True):
                if name in lost and lost[name].shape == residual.shape:
                    residual[...] += lost[name]
                    lost[name][...] = 0

    def _make(self, order: list[int]) -> None:
        parameters = [self._parameters[i] for i in order]
        named = [(name, _real(p.detach())) for name, p in parameters]
        compressor = by_name(self._options["codec"])
        if isinstance(compressor, Elementwise) and not any(gpu_of(p) for _, p in parameters):
            flags = torch.empty(length(len(self._dense), len(self._sparse), compressor.exact))
            named.insert(0, ("which parameters were used", flags))
        ahead = len(named) - len(parameters)
        self.reducer = Reducer(
            self._world,
            [tuple(x.shape) for _, x in named],
            dtype=[numpy_dtype(x.dtype) for _, x in named],
            names=[name for name, _ in named],
            like=as_array(named[-1][1].reshape(-1)[:1]) if named else None,
            **self._options,
        )
        self._use = Use(len(self._dense), len(self._sparse), self.reducer.views[0] if ahead else None)
        self._places = {i: place for place, i in enumerate(order, ahead)}
        self._views = {i: self._view(i) for i in order}
        self._addresses = {i: view.data_ptr() for i, view in self._views.items()}

    def _view(self, i: int) -> torch.Tensor:
        assert self.reducer is not None
        return _formed(as_tensor(self.reducer.views[self._places[i]]), self._parameters[i][1])


def _formed(x: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """The bucket's memory `x` in the form of `p`: with its strides, if these leave no gaps. Fused optimizers take memory as it lies."""
    x = torch.view_as_complex(x) if p.is_complex() else x
    without_gaps = torch.empty_like(p, device="meta").stride() == p.stride()
    return x.view(-1).as_strided(p.shape, p.stride()) if without_gaps else x


def _lies_in(view: torch.Tensor, gradient: torch.Tensor) -> bool:
    """Whether `gradient` is this very memory. Not its object: `module.to` and ``.data =`` put other memory into an object."""
    return not gradient.is_sparse and gradient.data_ptr() == view.data_ptr() and gradient.stride() == view.stride()


def _real(x: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


_told: set[str] = set()


def _warn_sparse(name: str) -> None:
    if name not in _told:
        _told.add(name)
        warnings.warn(
            f"the gradient of {name!r} is sparse, and it is no weight of an Embedding or EmbeddingBag with sparse=True; it is reduced as a "
            "dense one",
            stacklevel=2,
        )
