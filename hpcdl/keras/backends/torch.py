"""Keras on PyTorch: eager, so the gradients go to the reducer as they lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch

from ...torch.tensors import as_array, as_tensor
from ...world import World
from ..exchange import Exchange

__all__ = ["at_once", "at_run_time", "average", "compiled", "counted", "eager", "rows", "settle", "sync"]


def settle(world: World, threads: int) -> None:
    """This local rank's GPU, where there is one, and so many threads."""
    if torch.cuda.is_available():
        world.device = f"cuda:{world.local_rank % torch.cuda.device_count()}"
        torch.cuda.set_device(world.device)
    torch.set_num_threads(threads)


def eager() -> bool:
    """Yes: also where torch compiles the step, it does so around the averaging."""
    return True


@torch.no_grad()
def average(exchange: Exchange, gradients: Sequence[Any], weight: Any) -> list[Any]:
    """The means over all ranks."""
    dense = [(g.to_dense() if g.is_sparse else g).detach().cpu().contiguous() for g in gradients]
    for number, members in enumerate(exchange.buckets):
        exchange.put(number, None if weight is None else float(weight), [as_array(dense[i]) for i in members])
    return [as_tensor(mean).to(g.device) for mean, g in zip(exchange.collect(), gradients, strict=True)]


def rows(x: Any) -> Any:
    """The samples of a batch: its first dimension."""
    return x.shape[0]


def at_once() -> Any:
    """Nothing here: all is computed at once."""
    return nullcontext()


def at_run_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch.compile leaves as it is; it compiles what is before and after it."""
    plain: Callable[..., Any] = torch.compiler.disable(function)
    return plain


def sync(model: Any) -> None:
    """Nothing here: variables always hold their values."""


def counted(model: Any, step: Callable[..., Any], arguments: Sequence[Any], counts: Any) -> Any:
    """One step, of which nothing but the trained and the optimizer's variables remains where `counts` is false."""
    variables = [*model.metrics_variables, *model.non_trainable_variables]
    before = [v.value.detach().clone() for v in variables]
    result = step(*arguments)
    if not counts:
        for v, value in zip(variables, before, strict=True):
            v.assign(value)
    return result


def compiled(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """The model's step, compiled as the model wants it: Keras compiles what is around it, which is nothing then."""
    return torch.compile(step) if model.jit_compile and not model.run_eagerly else step
