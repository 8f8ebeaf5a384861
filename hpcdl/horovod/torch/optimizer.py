"""`DistributedOptimizer`: averages the gradients of all ranks while backward still runs, and waits for them before a step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from ...errors import InvalidArgument
from ..arguments import check_predivide
from ..basics import Adasum, Average, named, size
from ..process_sets import ProcessSet, global_process_set
from .adasum_optimizer import AdasumSteps
from .compression import Compression
from .gradients import Gradients
from .groups import formed

__all__ = ["DistributedOptimizer"]

Parameters = Iterable[tuple[str, torch.nn.Parameter]] | None


class _Averaging:
    """Mixed into the class of the optimizer that is wrapped."""

    _gradients: Gradients
    _synchronized = False
    _should_synchronize = True
    process_set: ProcessSet

    def synchronize(self) -> None:
        """Wait until the gradients of all ranks are here: before clipping, for example. What has no gradient counts as zero."""
        self._gradients.finish()
        self._synchronized = True

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Within it `step` does not wait for gradients: `synchronize` was called before."""
        self._should_synchronize = False
        try:
            yield
        finally:
            self._should_synchronize = True

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of the optimizer with the gradients of all ranks. A closure's are reduced each time it is called."""
        if closure is not None:
            return super().step(self._reducing(closure))  # type: ignore[misc]
        if self._should_synchronize:
            if self._synchronized:
                warnings.warn(
                    "optimizer.step() called without optimizer.skip_synchronize() context after optimizer.synchronize(). This can cause "
                    "training slowdown. You may want to consider using optimizer.skip_synchronize() context if you use "
                    "optimizer.synchronize() in your code.",
                    stacklevel=2,
                )
            self.synchronize()
        self._synchronized = False
        return super().step()  # type: ignore[misc]

    def zero_grad(self, *arguments: Any, **named: Any) -> None:
        """As the optimizer's own. Raises AssertionError between backward and the end of the reduction."""
        if self._gradients.busy():
            raise AssertionError(
                "optimizer.zero_grad() was called after loss.backward() but before optimizer.step() or optimizer.synchronize(). "
                "This is prohibited as it can cause a race condition."
            )
        super().zero_grad(*arguments, **named)  # type: ignore[misc]

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Reduce after so many backward passes from now on."""
        self._gradients.set_passes(passes)

    def load_state_dict(self, *arguments: Any, **named: Any) -> None:
        """As the optimizer's own; gradients under way are forgotten."""
        self._gradients.forget()
        self._synchronized, self._should_synchronize = False, True
        super().load_state_dict(*arguments, **named)  # type: ignore[misc]

    def _reducing(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def reduced() -> Any:
            with torch.enable_grad():
                loss = closure()
            if self._should_synchronize:
                self.synchronize()
                self._synchronized = False
            return loss

        return reduced


def DistributedOptimizer(  # noqa: N802 - Horovod's name
    optimizer: torch.optim.Optimizer,
    named_parameters: Parameters = None,
    compression: Any = Compression.none,
    backward_passes_per_step: int = 1,
    op: int = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    sparse_as_dense: bool = False,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """An optimizer of the same class, with the same parameters, settings and state, whose steps use the gradients of all ranks.

    named_parameters: ``model.named_parameters()``; names match the parameters of all ranks. compression: see `Compression`.
    backward_passes_per_step: gradients are summed locally over so many. op: Average, Sum, or Adasum, which combines the ranks' steps.
    gradient_predivide_factor: averages are divided before and after the sum, which is exact here either way. groups: their number, or
    lists of parameters that are reduced together; num_groups is its older name. sparse_as_dense: see Horovod. process_set: the ranks that
    take part; the others step alone.

    Raises InvalidArgument for names that are missing or not unique, and settings that cannot be.
    """
    check_predivide(gradient_predivide_factor, op)
    if num_groups != 0:
        warnings.warn("Parameter `num_groups` has been replaced by `groups`.", DeprecationWarning, stacklevel=2)
        groups = num_groups if groups is None else groups
    if backward_passes_per_step <= 0:
        raise InvalidArgument("backward_passes_per_step must be > 0")
    names = _names(optimizer, named_parameters)
    if op == Adasum and size() > 1:
        if process_set is not global_process_set:
            raise NotImplementedError("Adasum does not support non-global process sets yet.")
        return _wrap(optimizer, AdasumSteps).begin(names, compression)
    new = _wrap(optimizer, _Averaging)
    new.process_set = process_set
    alone = not process_set.included() or named(process_set).size == 1
    together = [] if alone or groups is None else formed(names, groups, process_set)
    new._gradients = Gradients(names, compression, backward_passes_per_step, op, sparse_as_dense, process_set, together, alone)
    return new


def _wrap(optimizer: torch.optim.Optimizer, mixin: type) -> Any:
    """The same optimizer, of a class with the steps of `mixin`.

    Why no new optimizer: its state, its hooks, and what is tied to its parameter groups, such as a schedule, stay as they are.
    """
    kind: Any = type(type(optimizer).__name__, (mixin, type(optimizer)), {"__module__": __name__})
    new = kind.__new__(kind)
    new.__dict__.update({key: value for key, value in optimizer.__dict__.items() if key != "step"})  # a schedule's counter of the old one
    return new


def _names(optimizer: torch.optim.Optimizer, named_parameters: Parameters) -> dict[torch.nn.Parameter, str]:
    """The name of each parameter. Raises InvalidArgument where they are no pairs, not unique, or not all there."""
    if named_parameters is None:
        return {p: f"allreduce.noname.{i}.{j}" for i, group in enumerate(optimizer.param_groups) for j, p in enumerate(group["params"])}
    pairs = list(named_parameters)
    if any(not isinstance(pair, tuple) for pair in pairs):
        raise InvalidArgument(
            "named_parameters should be a sequence of tuples (name, parameter), usually produced by model.named_parameters()."
        )
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidArgument(f"Parameter names in named_parameters must be unique. Found duplicates: {', '.join(twice)}")
    found = {p: name for name, p in pairs}
    used = list(chain.from_iterable(group["params"] for group in optimizer.param_groups))
    missing = [tuple(p.shape) for p in used if p not in found]
    if missing:
        raise InvalidArgument(f"named_parameters was specified, but one or more model parameters were not named; their shapes: {missing}")
    return {p: found[p] for p in used}
