"""What differs between TensorFlow, JAX and PyTorch under Keras: one file each, with the same few functions.

settle(world, threads): this process takes its device and its threads. average(exchange, gradients, weight): the mean over all ranks, where
the train step is compiled too. counted(model, step, arguments, counts): one step, of which nothing but the trained variables remains where
`counts` is false. compiled(model, step): the model's train step, compiled as the model's settings say. rows(x): the samples of a batch.
sync(model): from now on variables hold their present values. at_once(): a context in which nothing is compiled. at_run_time(function): the
same function, called as it is when the step runs, where the backend can compile around it. eager(): whether gradients are values by now, so
that which of them are None may be another set in each step, and on each rank.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import keras

from ...errors import InvalidArgument

__all__ = ["current"]

_KNOWN = ("tensorflow", "jax", "torch")


def current() -> Any:
    """The file of the backend that Keras uses. Raises InvalidArgument for another one."""
    name = keras.backend.backend()
    if name not in _KNOWN:
        raise InvalidArgument(f"Keras uses the backend {name!r}; hpcdl.keras knows {', '.join(_KNOWN)}; set KERAS_BACKEND to one of them")
    return import_module(f".{name}", __name__)
