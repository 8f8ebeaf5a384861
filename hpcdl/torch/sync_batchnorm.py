"""Batch normalisation over the samples of all ranks, on the host and on GPUs.

Source: Ioffe and Szegedy 2015, "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", alg. 1.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InvalidArgument
from ..world import World
from . import samples
from .start import default_world
from .tensors import as_array

__all__ = ["SyncBatchNorm", "convert_sync_batchnorm"]


class SyncBatchNorm(torch.nn.modules.batchnorm._BatchNorm):
    """`torch.nn.BatchNorm1d`, 2d or 3d with the statistics of all ranks' samples together; parameters, buffers and state are the same.

    In training one all-reduce of 2C+1 numbers forward and one of 2C backward, in float64. Ranks may have batches of any sizes, also none;
    one whose loader has told that its batch stands in for no data adds nothing. What goes back is what `DistributedDataParallel` needs for
    the gradient of the mean loss over all samples (of the mean of the ranks' mean losses, where no loader has told the samples). In
    evaluation it does not communicate.

    x: ``(N, C, …)``, any floating dtype; short floats are computed in float32. world: default is the one that `init` made. Every rank
    must run forward, and backward if any does. Raises InvalidArgument where all ranks together have one value per channel.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        world: World | None = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self._where = _Where(world)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The normalised `x`, of its shape and dtype."""
        self._check_input_dim(x)
        if not self.training or (world := self._where.world()).size == 1:
            return super().forward(x)
        y, mean, variance, count = _Normalise.apply(x, self.weight, self.bias, self.eps, world, samples.current(world).mine)
        if self.track_running_stats and count > 0:
            self._remember(mean, variance * (count / (count - 1)))
        return y

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if x.dim() < 2 or x.shape[1] != self.num_features:
            raise InvalidArgument(f"expected an input of shape (N, {self.num_features}, …), got {tuple(x.shape)}")

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Move the running statistics; momentum None: their mean over all batches so far."""
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_(variance.to(self.running_var.dtype), factor)


def convert_sync_batchnorm(module: torch.nn.Module, world: World | None = None) -> torch.nn.Module:
    """`module` with each BatchNorm in it replaced by `SyncBatchNorm`: the same parameters and buffers. Before optimizers are made of it.

    Changes `module` in place; returns it, or its replacement where it is a BatchNorm itself. Not collective.
    """
    return _convert(module, world, {})


def _convert(module: torch.nn.Module, world: World | None, done: dict[torch.nn.Module, torch.nn.Module]) -> torch.nn.Module:
    if module in done:  # used in several places
        return done[module]
    done[module] = new = module
    kind = torch.nn.modules.batchnorm._BatchNorm
    if isinstance(module, kind) and not isinstance(module, SyncBatchNorm):
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
            raise InvalidArgument(f"a {type(module).__name__} has no shape yet; run one batch through the model first")
        sizes = module.num_features, module.eps, module.momentum
        done[module] = new = SyncBatchNorm(*sizes, module.affine, module.track_running_stats, device="meta", world=world)
        new.training = module.training
        new._parameters, new._buffers = module._parameters, module._buffers
        return new
    for name, child in list(module.named_children()):
        replacement = _convert(child, world, done)
        if replacement is not child:
            setattr(module, name, replacement)
    return new


class _Where:
    """A module's world. A copy of the module has the same, one that was saved and loaded has the default."""

    def __init__(self, world: World | None = None) -> None:
        self._world = world

    def world(self) -> World:
        return default_world() if self._world is None else self._world

    def __deepcopy__(self, memo: Any) -> _Where:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _Where, ()


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias over all ranks; also gives mean, variance and the number of values.

    Backward: with loss L = sum(w_r L_r) / sum(w_r), of which rank r has the gradients g of its own L_r, it gives W/w_r dL/dx for
    W = sum(w_r); averaged with the weights w_r later on, that is dL/dx. So the sums that all ranks need are of w_r g.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, eps: float, world: World, weighs: float | None) -> Any:
        """`weighs`: w_r, None for 1."""
        work = x if x.dtype == torch.float64 else x.float()
        sums = _sums(work, weighs != 0)
        world.allreduce(as_array(sums), name="statistics of SyncBatchNorm")
        count, channels = float(sums[0]), x.shape[1]
        if count == 1:
            raise InvalidArgument(f"one value per channel in all ranks' batches together has no variance; this rank's is {tuple(x.shape)}")
        mean = sums[1 : channels + 1] / max(count, 1)
        variance = (sums[channels + 1 :] / max(count, 1) - mean**2).clamp_(min=0)
        scale = (variance + eps).rsqrt()
        mean, variance, scale = (one.to(x.device, work.dtype) for one in (mean, variance, scale))
        ctx.save_for_backward(x, weight, mean, scale)
        ctx.world, ctx.count, ctx.weighs = world, count, 1.0 if weighs is None else weighs
        ctx.bias_dtype = None if bias is None else bias.dtype
        y = work - _along(mean, x)
        y *= _along(scale if weight is None else scale * weight, x)
        if bias is not None:
            y += _along(bias, x)
        ctx.mark_non_differentiable(mean, variance)
        return y.to(x.dtype), mean, variance, count

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Any, *_: Any) -> tuple[Any, ...]:
        """One all-reduce, if x wants a gradient."""
        x, weight, mean, scale = ctx.saved_tensors
        grad_x, world, weighs = None, ctx.world, ctx.weighs
        dims = [0, *range(2, x.dim())]
        grad = grad.to(mean.dtype)
        normal = (x.to(mean.dtype) - _along(mean, x)).mul_(_along(scale, x))
        plain, skew = grad.sum(dims), (grad * normal).sum(dims)
        if ctx.needs_input_grad[0]:
            sums = torch.stack([plain, skew]).to("cpu", torch.float64).mul_(weighs) if weighs else torch.zeros(2, len(mean)).double()
            world.allreduce(as_array(sums), name="gradients of SyncBatchNorm")
            sums = (sums / (weighs * ctx.count or 1)).to(x.device, mean.dtype)
            grad_x = grad - _along(sums[0], x)
            grad_x -= normal.mul_(_along(sums[1], x))
            grad_x *= _along(scale if weight is None else scale * weight, x)
            grad_x = grad_x.to(x.dtype) if weighs else torch.zeros_like(x)
        grad_weight = None if weight is None else skew.to(weight.dtype)
        return grad_x, grad_weight, None if ctx.bias_dtype is None else plain.to(ctx.bias_dtype), None, None, None


def _sums(x: torch.Tensor, counts: bool) -> torch.Tensor:
    """This rank's part, float64 on the host: number of values per channel, and by channel the sum and the sum of squares.

    Why not sums of the values themselves: mean and variance of a rank, in x's own precision, lose nothing where the mean is large.
    """
    channels = x.shape[1]
    sums = torch.zeros(2 * channels + 1, dtype=torch.float64)
    number = x.numel() // channels if channels else 0
    if counts and number:
        mean, variance = (one.to("cpu", torch.float64) for one in torch.batch_norm_update_stats(x.detach(), None, None, 0.0))
        sums[0] = number
        torch.mul(mean, number, out=sums[1 : channels + 1])
        torch.mul(variance + mean**2, number, out=sums[channels + 1 :])
    return sums


def _along(values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """One value per channel in a shape that goes with x's."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))
