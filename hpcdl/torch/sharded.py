"""Optimizer state shared out over the ranks (ZeRO-1): each rank keeps the state of its parameters and updates them for all.

Source: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", sec. 5.1 (P_os).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ..agree import compare
from ..errors import InvalidArgument
from ..world import World
from . import start
from .state import bytes_of
from .streams import in_order
from .tensors import as_array, as_tensor

__all__ = ["ShardedOptimizer", "optimizer"]

Kind = Callable[..., torch.optim.Optimizer]


def optimizer(
    kind: Kind, params: Iterable[Any], *, shard: bool = False, world: World | None = None, **options: Any
) -> torch.optim.Optimizer:
    """``kind(params, **options)``; with shard=True the same training with the optimizer's state shared out over the ranks.

    With shard=True it is made by all ranks; see `ShardedOptimizer`.
    """
    return ShardedOptimizer(kind, params, world, **options) if shard else kind(params, **options)


class ShardedOptimizer(torch.optim.Optimizer):
    """``kind(params, **options)`` over all ranks: 1/p of its state on each, the same parameters, bit for bit, on all.

    For optimizers that treat each parameter by itself (SGD, Adam, AdamW, RMSprop, …) on gradients that are the same on all ranks, as
    `DistributedDataParallel` leaves them. Learning-rate schedulers, GradScaler, parameter groups and clipping work as with any optimizer.
    ``step()`` is collective and sends each parameter once: n bytes in, (p-1)/p n bytes out, per rank.

    To save: ``consolidate()`` on all ranks, then ``state_dict()`` on rank 0, which is the dictionary that ``kind`` itself would give.
    ``load_state_dict`` takes that, on any number of ranks.
    """

    def __init__(self, kind: Kind, params: Iterable[Any], world: World | None = None, **options: Any) -> None:
        if kind is torch.optim.LBFGS:
            raise InvalidArgument("LBFGS looks at all parameters at once and cannot be shared out; use shard=False")
        self._world = start.default_world() if world is None else world
        self._loads = [0] * self._world.size  # elements that each rank has
        self._owners: dict[torch.Tensor, int] = {}
        self._inner: torch.optim.Optimizer | None = None
        self._whole: dict[str, Any] | None = None  # what state_dict gives, once consolidated
        defaults = kind([torch.nn.Parameter(torch.zeros(1))], **options).defaults
        super().__init__(params, defaults)
        lines = [f"parameter {i}: {p.dtype}{list(p.shape)}" for i, p in enumerate(self._parameters())]
        compare(self._world, lines, "what the sharded optimizers update")
        self._share_out(self._parameters())
        self._inner = kind([self._mine(group) for group in self.param_groups], **options)
        self.state = self._inner.state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """More parameters. Called by all ranks."""
        super().add_param_group(param_group)
        if self._inner is not None:
            added = self.param_groups[-1]
            self._share_out(added["params"])
            self._inner.add_param_group(self._mine(added))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update this rank's parameters and get the others' from their ranks. Called by all ranks."""
        assert self._inner is not None
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for ours, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({name: value for name, value in ours.items() if name != "params"})
        self._inner.step()
        self._whole = None
        self._exchange()
        return loss

    def consolidate(self, to: int = 0) -> None:
        """Bring the whole state to rank `to`, for `state_dict`. Called by all ranks; takes that rank the memory of the whole state."""
        if not 0 <= to < self._world.size:
            raise InvalidArgument(f"consolidate(to={to}): ranks are 0 to {self._world.size - 1}")
        numbers = self._numbers()
        mine = io.BytesIO()
        torch.save({numbers[p]: state for p, state in self.state.items()}, mine)
        whole: dict[int, Any] = {}
        for rank in range(self._world.size):
            length = self._world.broadcast(np.array([mine.tell()]), rank)
            data = np.frombuffer(mine.getvalue(), np.uint8).copy() if rank == self._world.rank else np.empty(int(length[0]), np.uint8)
            self._world.broadcast(data, rank)
            if self._world.rank == to:
                whole.update(torch.load(io.BytesIO(data.tobytes()), weights_only=True))
        self._whole = {"state": dict(sorted(whole.items()))} if self._world.rank == to else {}

    def state_dict(self) -> dict[str, Any]:
        """The whole state, on the rank that it was consolidated to; as the optimizer itself would give it."""
        here = f"rank {self._world.rank} of {self._world.size}"
        if self._whole is None:
            raise InvalidArgument(
                f"{here}: the state lies on all ranks; call consolidate() on every rank first, after the last step; or let a checkpoint "
                "hold hpcdl.torch.sharded(model, optimizer)"
            )
        if not self._whole:
            raise InvalidArgument(
                f"{here}: the state was consolidated to another rank; ask that one, or consolidate(to={self._world.rank})"
            )
        numbers = self._numbers()
        groups = [{**group, "params": [numbers[p] for p in group["params"]]} for group in self.param_groups]
        return {**self._whole, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take from a whole state what belongs to this rank. Called on all ranks with the same."""
        assert self._inner is not None
        saved = state_dict["param_groups"]
        lengths, wanted = [len(group["params"]) for group in saved], [len(group["params"]) for group in self.param_groups]
        if lengths != wanted:
            raise InvalidArgument(f"the state is of groups of {lengths} parameters, this optimizer has groups of {wanted}")
        names = [name for group in saved for name in group["params"]]
        states = {p: state_dict["state"][name] for p, name in zip(self._parameters(), names, strict=True) if name in state_dict["state"]}
        inner = [p for group in self._inner.param_groups for p in group["params"]]
        groups, begin = [], 0
        for ours, theirs, mine in zip(self.param_groups, saved, self._inner.param_groups, strict=True):
            values = {name: value for name, value in theirs.items() if name != "params"}
            ours.update(values)
            groups.append({**values, "params": list(range(begin, begin + len(mine["params"])))})
            begin += len(mine["params"])
        self._inner.load_state_dict({"state": {i: states[p] for i, p in enumerate(inner) if p in states}, "param_groups": groups})
        self.state = self._inner.state
        self._whole = None

    def owned(self) -> list[torch.Tensor]:
        """The parameters whose state is on this rank."""
        return [p for p in self._parameters() if self._owners[p] == self._world.rank]

    def _parameters(self) -> list[torch.Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _numbers(self) -> dict[torch.Tensor, int]:
        """By which a whole state knows the parameters."""
        return {p: i for i, p in enumerate(self._parameters())}

    def _share_out(self, parameters: Iterable[torch.Tensor]) -> None:
        """Give each parameter, the largest first, to the rank that has least."""
        for p in sorted(parameters, key=lambda p: -p.numel()):
            rank = self._loads.index(min(self._loads))
            self._owners[p] = rank
            self._loads[rank] += p.numel()

    def _mine(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**group, "params": [p for p in group["params"] if self._owners[p] == self._world.rank]}

    def _exchange(self) -> None:
        """All parameters from those who have updated them."""
        if self._world.size == 1:
            return
        order = sorted(self._owners, key=self._owners.__getitem__)
        own = [bytes_of(p) for p in order if self._owners[p] == self._world.rank]
        mine = torch.cat(own) if own else torch.empty(0, dtype=torch.uint8, device=order[0].device)
        with in_order(mine):
            everything = as_tensor(self._world.allgather(as_array(mine)))
        begin = 0
        for p in order:
            end = begin + p.numel() * p.element_size()
            if self._owners[p] != self._world.rank:
                part = everything[begin:end]
                part = part if part.storage_offset() % p.element_size() == 0 else part.clone()
                p.detach().copy_(part.view(p.dtype).view(p.shape))
            begin = end
