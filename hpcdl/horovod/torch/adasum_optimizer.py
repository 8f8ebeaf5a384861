"""Steps that are combined by Adasum: each rank steps by itself, and what it has changed is what travels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..arguments import waiting
from ..basics import Adasum
from ..compressors import codec_of
from ..process_sets import global_process_set
from .memory import synchronize
from .reductions import start_allreduce

__all__ = ["AdasumSteps"]


class AdasumSteps:
    """Mixed into the class of the optimizer that is wrapped.

    Why the step and not the gradient: Adasum's reasoning is about changes of the weights, and momentum stays each rank's own.
    """

    _names: dict[torch.nn.Parameter, str]
    _compression: Any

    def begin(self, names: dict[torch.nn.Parameter, str], compression: Any) -> AdasumSteps:
        """Set up; gives the optimizer itself."""
        self._names, self._compression = names, compression
        return self

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimizer on each rank's own gradients; the weights then change by the Adasum of all ranks' changes."""
        trained = [p for p in self._names if p.requires_grad]
        before = [p.detach().clone() for p in trained]
        loss = super().step(closure)  # type: ignore[misc]
        changes = [(p.detach() - old).contiguous() for p, old in zip(trained, before, strict=True)]
        pairs = [(x, None) if codec_of(self._compression, x.dtype.is_floating_point) else self._compression.compress(x) for x in changes]
        with waiting(global_process_set):
            handles = [
                start_allreduce([x], f"change.{self._names[p]}", Adasum, 1.0, 1.0, global_process_set)
                for p, (x, _) in zip(trained, pairs, strict=True)
            ]
            for p, old, handle, (_, context) in zip(trained, before, handles, pairs, strict=True):
                change = synchronize(handle)
                if codec_of(self._compression, change.dtype.is_floating_point) is None:
                    change = self._compression.decompress(change, context)
                p.detach().copy_(old + change)
        return loss

    def synchronize(self) -> None:
        """Nothing to wait for: the step does it all."""

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Nothing to set: the step takes the gradients as they are."""

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Raises AssertionError: here the step is what is reduced."""
        raise AssertionError("Skipping synchronization is not supported when using Adasum optimizer.")
        yield
