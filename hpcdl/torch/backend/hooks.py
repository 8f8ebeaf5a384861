"""Communication hooks for DistributedDataParallel: its buckets through any codec or compressor of this package."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch.futures import Future

from ...arrays import Array, accumulator, of
from ...collectives.calls import Constant
from ...collectives.collective import check_name
from ...collectives.group import Group
from ...collectives.ops import by_name as op_by_name
from ...errors import DataError, InvalidArgument
from ...reduction.bucket import Bucket, Layout
from ...reduction.compressor import Compressor, How
from ...reduction.compressors import by_name as compressor_by_name
from ...reduction.compressors import check
from ...reduction.state import shared_out
from ..streams import in_order
from ..tensors import as_array, as_tensor
from .group import ProcessGroup
from .work import Work

__all__ = ["CommHook", "comm_hook"]

_SIGNATURE = inspect.Signature([inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("state", "bucket")])


def comm_hook(codec: Any = None, error_feedback: bool | None = None, collective: str = "auto") -> CommHook:
    """A hook for `DistributedDataParallel.register_comm_hook(state, hook)` that averages gradients through `codec`.

    codec: what `hpcdl.Reducer` takes: none, fp16, bf16, int8, int8-stochastic, ``topk:ratio=0.01``, randomk, sign, ``powersgd:rank=4``, or
    an instance. error_feedback: carry over what was lost to the next step; default: with topk, randomk, sign and powersgd. It costs
    memory the size of the gradients, in float32. state: a process group of this backend, or None for the default one. One hook belongs to
    one model, and is a part of its checkpoints. Raises UnknownName for a codec that nobody knows.
    """
    return CommHook(compressor_by_name(codec), error_feedback, collective)


class CommHook:
    """What `comm_hook` gives: a callable, with the memory of error feedback, by parameter, so that it outlives DDP's re-bucketing."""

    def __init__(self, compressor: Compressor, error_feedback: bool | None, collective: str) -> None:
        check_name(collective)
        self._compressor, self._collective = compressor, collective
        self.error_feedback = (compressor.error_feedback if error_feedback is None else error_feedback) and not compressor.exact
        self.__name__ = self.__qualname__ = f"hpcdl comm_hook({compressor.name!r})"
        self.__signature__ = _SIGNATURE  # DDP looks at annotations
        self._op = op_by_name("mean")
        self._steps: dict[int, int] = {}  # of each bucket
        self._parameters: list[torch.Tensor] = []  # in the order in which they were first seen, the same on all ranks
        self._numbers: dict[int, int] = {}  # by id
        self._kept: dict[int, Array] = {}
        self._residuals: dict[int, Array] = {}  # by number: parts of the buckets' residuals
        self._buckets: dict[int, tuple[tuple[int, ...], Layout, Array | None]] = {}

    def __call__(self, state: Any, bucket: Any) -> Future[torch.Tensor]:
        """Start to average `bucket` in place; a future of its buffer."""
        group = _group_of(state)
        with in_order(bucket.buffer()):
            return self._start(group, bucket)

    def _start(self, group: Group, bucket: Any) -> Future[torch.Tensor]:
        buffer = bucket.buffer()
        flat, index = as_array(buffer), bucket.index()
        check(self._compressor, self._op, flat.dtype, group.sums is not None and self._collective in ("auto", "horovod"))
        layout, residual = self._place(bucket, flat)
        step = self._steps[index] = self._steps.get(index, -1) + 1
        mine = Bucket(flat, residual, layout, frozenset(layout.offsets), kept=self._kept)
        how = How(self._op, self._collective, None, Constant(1 / group.transport.size), step, index)
        operation = self._compressor.reduce(mine, group, how)
        return Work([operation], buffer).get_future()

    def residuals(self) -> list[torch.Tensor]:
        """What error feedback holds for each parameter, in the order in which DDP reduces them; for checkpoints. Writing changes it."""
        return [as_tensor(self._residuals[i]).view(p.shape) for i, p in enumerate(self._parameters) if i in self._residuals]

    def rank_state_dict(self) -> dict[str, Any]:
        """What the codec keeps and has dropped on this rank; for `hpcdl.checkpoint`, between two steps. The arrays are the hook's own."""
        kept = {"codec": self._compressor.name, "kept": dict(self._kept), "steps": dict(self._steps)}
        return {"residuals": dict(self._residuals), **kept}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, on as many ranks. With another codec, what was dropped is sent yet, and the rest begins anew."""
        same = state["codec"] == self._compressor.name
        self._residuals = dict(state["residuals"]) if self.error_feedback else {}
        self._kept, self._steps = (dict(state["kept"]), dict(state["steps"])) if same else ({}, {})
        self._buckets.clear()  # made anew, from these

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the states of another number of ranks: what they have dropped is shared out over all ranks."""
        self.load_rank_state_dict(shared_out(states, dist.get_world_size()))

    def _place(self, bucket: Any, flat: Array) -> tuple[Layout, Array | None]:
        """Which parameters lie where in `bucket`, and the residual of its shape."""
        parameters = bucket.parameters()
        ids, index = tuple(map(id, parameters)), bucket.index()
        known = self._buckets.get(index)
        if known is not None and known[0] == ids:
            return known[1], known[2]
        for parameter in parameters:
            if id(parameter) not in self._numbers:
                self._numbers[id(parameter)] = len(self._parameters)
                self._parameters.append(parameter)  # held, so that nobody else gets its id
        begin, offsets, shapes = 0, {}, {}
        for parameter in parameters:
            number = self._numbers[id(parameter)]
            offsets[number], shapes[number] = begin, tuple(parameter.shape)
            begin += parameter.numel()
        layout = Layout(flat.dtype, offsets, flat.size, shapes)
        residual = of(flat).xp.zeros(flat.size, accumulator(flat.dtype)) if self.error_feedback else None
        if residual is not None:
            for number in offsets:
                part = residual[layout.cut(number)]
                before = self._residuals.get(number)
                if before is not None and before.size != part.size:
                    raise DataError(f"parameter {number} has {part.size} elements, and the hook's state is of one of {before.size}")
                part[...] = 0 if before is None else of(flat).xp.asarray(before)
                self._residuals[number] = part
        self._buckets[index] = ids, layout, residual
        return layout, residual


def _group_of(state: Any) -> Group:
    found = dist.distributed_c10d._get_default_group() if state is None else state
    if not isinstance(found, ProcessGroup):
        raise InvalidArgument(
            f"comm_hook needs a process group of the backend 'hpcdl' as state, or None for the default one; got {found!r}"
        )
    return found._group
