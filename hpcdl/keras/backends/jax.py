"""Keras on JAX: inside the compiled step, one ordered callback to the host with all gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import io_callback

from ...world import World
from ..exchange import Exchange

__all__ = ["at_once", "at_run_time", "average", "compiled", "counted", "eager", "rows", "settle", "sync"]


def settle(world: World, threads: int) -> None:
    """One device per process. XLA's threads on the CPU are set by the environment alone, before Python starts.

    Why without asynchronous dispatch on the CPU: a callback that waits for other ranks must not hold a thread that the main one needs.
    """
    if jax.default_backend() == "gpu":
        devices = jax.local_devices()
        number = world.local_rank % len(devices)
        jax.config.update("jax_default_device", devices[number])
        world.device = f"cuda:{number}"
    else:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


def eager() -> bool:
    """No: JAX's gradients are never None."""
    return False


def average(exchange: Exchange, gradients: Sequence[Any], weight: Any) -> list[Any]:
    """The means over all ranks, as part of whatever is being compiled."""
    shapes = [jax.ShapeDtypeStruct(g.shape, g.dtype) for g in gradients]

    def on_host(weight: Any, *arrays: Any) -> list[Any]:
        for number, members in enumerate(exchange.buckets):
            exchange.put(number, None if weight is None else float(weight), [np.asarray(arrays[i]) for i in members])
        return exchange.collect()

    return list(io_callback(on_host, shapes, weight, *gradients, ordered=True))


def rows(x: Any) -> Any:
    """The samples of a batch: its first dimension, known when the step is compiled."""
    return x.shape[0]


def at_once() -> Any:
    """Within: what is computed is computed now, not compiled."""
    return jax.ensure_compile_time_eval()


def at_run_time(function: Callable[..., Any]) -> Callable[..., Any]:
    """As it is: it is part of what is compiled."""
    return function


def sync(model: Any) -> None:
    """Within `fit`, variables hold old values until this is called; new ones that they are then given are seen by the next step."""
    model.jax_state_sync()


def counted(model: Any, step: Callable[..., Any], arguments: Sequence[Any], counts: Any) -> Any:
    """One step, of which nothing but the trained and the optimizer's variables remains where `counts` is false. No I/O."""
    state, data = arguments
    logs, new = step(state, data)
    kept = [
        part if number in _trained(len(new)) else [jax.numpy.where(counts, n, o) for n, o in zip(part, old, strict=True)]
        for number, (part, old) in enumerate(zip(new, state, strict=True))
    ]
    return logs, tuple(kept)


def _trained(parts: int) -> tuple[int, ...]:
    """Where a state has variables that are trained: (trained, others, the optimizer's, metrics), or without the optimizer's."""
    return (0, 2) if parts == 4 else (0,)


def compiled(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """As it is: XLA makes the callback itself."""
    return step
