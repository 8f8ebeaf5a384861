"""The gradients of an optimizer's parameters on their way: started by hooks as backward makes them, finished before the step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..basics import named, op_name
from ..compressors import codec_of
from ..feedback import Dropped, carries_over
from ..process_sets import ProcessSet
from .memory import synchronize
from .reductions import sparse_allreduce_async, start_allreduce

__all__ = ["Gradients"]

#: Waits, and puts what came into the gradients.
Finish = Callable[[], None]


class Gradients:
    """Reduces the gradients of the parameters in `names`, each under its name, or `together` under the name of the first of them.

    alone: nothing is to be reduced.
    """

    def __init__(
        self,
        names: dict[torch.nn.Parameter, str],
        compression: Any,
        passes: int,
        op: int,
        sparse_as_dense: bool,
        process_set: ProcessSet,
        together: Sequence[tuple[torch.nn.Parameter, ...]],
        alone: bool,
    ) -> None:
        self._names, self._compression, self._op = names, compression, op
        self._feedback = not alone and carries_over(compression, op_name(op))
        self._dropped: defaultdict[torch.nn.Parameter, Dropped] = defaultdict(Dropped)
        self._sparse_as_dense, self._process_set, self._alone = sparse_as_dense, process_set, alone
        self._passes, self._left = passes, dict.fromkeys(names, passes)
        self._group = {p: group for group in together for p in group}
        self._made: dict[tuple[torch.nn.Parameter, ...], set[torch.nn.Parameter]] = {group: set() for group in together}
        self._under_way: dict[tuple[torch.nn.Parameter, ...], Finish] = {}
        self._seen: set[torch.nn.Parameter] = set()  # in this step
        if not alone:
            for p in names:
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(self._arrived)

    def set_passes(self, passes: int) -> None:
        """So many backward passes make one step."""
        self._passes = passes
        self._left = dict.fromkeys(self._names, passes)

    def busy(self) -> bool:
        """Whether gradients were made that nobody has waited for."""
        return bool(self._seen)

    def forget(self) -> None:
        """Wait for what is under way and drop it, and what codecs have dropped before."""
        for finish in self._under_way.values():
            finish()
        self._dropped.clear()
        self._begin_anew()

    def finish(self) -> None:
        """Start what has not started, in the order of the parameters, and wait for all."""
        if self._alone:
            return
        with named(self._process_set).data.engine:
            for p in self._names:
                if p.requires_grad:
                    group = self._group.get(p, (p,))
                    if group not in self._under_way:
                        self._start(group)
            try:
                for finish in self._under_way.values():
                    finish()
            finally:
                self._begin_anew()

    def _begin_anew(self) -> None:
        self._under_way.clear()
        self._seen.clear()
        for made in self._made.values():
            made.clear()
        self._left = dict.fromkeys(self._names, self._passes)

    def _arrived(self, p: torch.nn.Parameter) -> None:
        """Backward has added to ``p.grad``."""
        if self._left[p] <= 0:
            raise AssertionError(
                "Gradients were computed more than backward_passes_per_step times before call to step(). "
                "Increase backward_passes_per_step to accumulate gradients locally."
            )
        self._seen.add(p)
        self._left[p] -= 1
        if self._left[p]:
            return
        group = self._group.get(p)
        if group is None:
            self._start((p,))
            return
        self._made[group].add(p)
        if len(self._made[group]) == len(group):
            self._start(group)

    def _start(self, group: tuple[torch.nn.Parameter, ...]) -> None:
        for p in group:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        grads: list[torch.Tensor] = [p.grad for p in group if p.grad is not None]
        name = self._names[group[0]]
        if grads[0].is_sparse and not self._sparse_as_dense:
            self._under_way[group] = self._sparse(group[0], grads[0], name)
            return
        codec = codec_of(self._compression, grads[0].dtype.is_floating_point)
        dense = [grad.to_dense() if grad.is_sparse else grad.contiguous() for grad in grads]
        pairs = [(x, None) if codec is not None else self._compression.compress(x) for x in dense]
        tensors = [x.contiguous() for x, _ in pairs]
        dropped = [self._dropped[p] for p in group] if self._feedback and codec != "none" else None
        handle = start_allreduce(
            tensors,
            f"gradient.{name}",
            self._op,
            1.0,
            1.0,
            self._process_set,
            grouped=len(group) > 1,
            codec=codec or "none",
            dropped=dropped,
        )

        def finish() -> None:
            synchronize(handle)
            for p, grad, out, (_, context) in zip(group, grads, tensors, pairs, strict=True):
                result = out if codec is not None else self._compression.decompress(out, context)
                if grad.is_sparse:
                    p.grad = result.to_sparse(grad.sparse_dim())
                elif result.data_ptr() != grad.data_ptr():
                    grad.copy_(result)

        self._under_way[group] = finish

    def _sparse(self, p: torch.nn.Parameter, grad: torch.Tensor, name: str) -> Finish:
        wait = sparse_allreduce_async(grad, f"gradient.{name}", self._op, self._process_set)

        def finish() -> None:
            p.grad = wait()

        return finish
