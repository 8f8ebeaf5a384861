"""A multi-layer perceptron with ReLU, its forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from .. import arrays
from ..errors import InvalidArgument

__all__ = ["MLP"]


class MLP:
    """Fully connected layers with ReLU between them: ``sizes = (64, 512, 10)`` makes two layers.

    `parameters` is ``[weight 0, bias 0, weight 1, bias 1, …]`` in the order of the forward pass; weight i has the shape
    ``(sizes[i], sizes[i + 1])``, bias i ``(sizes[i + 1],)``. `names` says the same in words, for messages.

    `dtype` is float32 or float64. The parameters live where the array `like` lives, without it on the host. They are drawn on the
    host either way, so that a seed means the same network everywhere: weights from N(0, 2 / sizes[i]), biases 0 (He et al. 2015, sec. 2.2).

    Raises InvalidArgument for fewer than two sizes, a size below 1, or another dtype.

    >>> MLP((4, 3, 2)).names
    ['layer 0 weight', 'layer 0 bias', 'layer 1 weight', 'layer 1 bias']
    """

    def __init__(self, sizes: Sequence[int], seed: int = 0, dtype: str = "float32", like: Any = None) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise InvalidArgument(f"MLP sizes {tuple(sizes)}: give the widths of input, hidden layers and output, each at least 1")
        if dtype not in ("float32", "float64"):
            raise InvalidArgument(f"MLP dtype {dtype!r}; valid: float32, float64")
        xp: Any = np if like is None else arrays.of(like).xp
        random = np.random.default_rng(seed)
        self.sizes = tuple(sizes)
        self.parameters: list[Any] = []
        self.names: list[str] = []
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            weight = random.normal(0.0, (2.0 / fan_in) ** 0.5, (fan_in, fan_out))
            self.parameters += [xp.asarray(weight.astype(dtype)), xp.zeros(fan_out, dtype)]
            self.names += [f"layer {layer} weight", f"layer {layer} bias"]

    def forward(self, x: Any) -> tuple[Any, list[Any]]:
        """The output for `x` of shape ``(n, sizes[0])``, and the input of every layer, which `backward` needs.

        The output has the shape ``(n, sizes[-1])`` and no activation: the losses take logits. n may be 0.
        """
        xp = arrays.of(x).xp
        inputs = []
        last = len(self.parameters) - 2
        for i in range(0, len(self.parameters), 2):
            inputs.append(x)
            x = xp.matmul(x, self.parameters[i])
            x += self.parameters[i + 1]
            if i != last:
                xp.maximum(x, 0, out=x)
        return x, inputs

    def backward(self, inputs: list[Any], delta: Any, gradients: Sequence[Any], ready: Callable[[int], None] | None = None) -> None:
        """Write the gradient of every parameter into `gradients`, from the last layer to the first.

        `inputs` comes from `forward`; `delta`, of shape ``(n, sizes[-1])``, is the gradient of the loss in the output.
        ``gradients[i]`` has the shape of ``parameters[i]``; ``ready(i)`` is called as soon as it is final, so that its reduction
        runs while the layers before it are still being computed. With n = 0 every gradient is 0.
        """
        xp = arrays.of(delta).xp
        for i in reversed(range(0, len(self.parameters), 2)):
            x = inputs[i // 2]
            xp.sum(delta, axis=0, out=gradients[i + 1])
            xp.matmul(x.T, delta, out=gradients[i])
            if ready is not None:
                ready(i + 1)
                ready(i)
            if i:
                delta = xp.matmul(delta, self.parameters[i].T)
                delta *= x > 0  # x is the ReLU's output: positive just where its input was
