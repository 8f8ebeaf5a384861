"""Data parallelism for a PyTorch model: each rank computes the gradients of its batch, and `backward` leaves their mean over all ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from ..agree import compare
from ..codecs import Codec
from ..errors import InvalidArgument
from ..reduction.compressor import Compressor
from ..reduction.memory import Memory
from ..reduction.state import shared_out
from ..world import World
from . import living, start, state
from .agree import compare_values
from .gradients import Copies, Gradients
from .members import Members, check_tensors, everything
from .options import refuse
from .same_samples import SameSamples

__all__ = ["DistributedDataParallel", "Report"]

_BUCKET_BYTES = 4 << 20


class Report(NamedTuple):
    """What a model's gradients have cost on this rank so far."""

    passes: int  # backward passes whose gradients were reduced
    copies: Copies
    seconds_waiting: float
    memory: Memory | None  # None before the first pass


class DistributedDataParallel(torch.nn.Module):
    """`module`, trained by all ranks of `world` together; n ranks do what one process does on the joined batch.

    Made by all ranks. Rank 0's parameters and buffers are broadcast. Gradients are reduced while backward runs, and when ``backward()``
    returns every ``p.grad`` is the mean over all ranks, bitwise equal on all, so clipping, unscaling and any optimizer do what they do on
    one process. A gradient stays None where no rank has used the parameter. The mean is weighted by samples where the batches come from
    `hpcdl.torch.loader`; else all ranks count the same.

    ``p.grad`` is a view of a bucket. After ``zero_grad()`` autograd makes a new tensor, which is copied into the bucket once;
    ``zero_grad(set_to_none=False)`` keeps the views (`report` counts both). The next backward writes there again: clone what is to stay.

    codec, collective, error_feedback, bucket_bytes, in_flight, check_finite: as for `hpcdl.Reducer`. broadcast_buffers: after each backward
    in training mode every rank's buffers (running statistics) are rank 0's. check_every: compare the parameters of all ranks every so many
    passes, and raise Mismatch with the name of the first that differs; 0: only when `check_replicas` is called. overlap: start the buckets
    while backward runs; needed off only where one pass adds to a parameter's gradient more than once (reentrant checkpoints of shared
    parameters). world: default, the one that `init` made. Arguments that only torch's own wrapper has are refused, with what to do.

    `state_dict` has the names of the bare module, and `load_state_dict` takes those and torch's own with "module." before them. A deep copy
    is not collective: it keeps the values it has, and communicates from its first backward on.

    A module that is wrapped again belongs to the last wrapper. A parameter belongs to one wrapper, and to none if it came later than that:
    both raise InvalidArgument.

    Raises Mismatch, the same on every rank, where names, shapes, dtypes or devices of parameters and buffers differ between ranks.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        codec: Codec | Compressor | str | None = None,
        *,
        world: World | None = None,
        collective: str = "auto",
        error_feedback: bool | None = None,
        bucket_bytes: int = _BUCKET_BYTES,
        in_flight: int = 2,
        check_finite: bool = False,
        check_every: int = 0,
        broadcast_buffers: bool = True,
        overlap: bool = True,
        **others: Any,
    ) -> None:
        super().__init__()
        refuse(others)
        if not isinstance(module, torch.nn.Module):
            raise InvalidArgument(f"DistributedDataParallel wraps a torch.nn.Module, got {type(module).__name__}")
        if isinstance(module, DistributedDataParallel):
            raise InvalidArgument("the model is distributed already; wrap it once")
        if check_every < 0:
            raise InvalidArgument(f"check_every must be 0 (never) or a number of passes, got {check_every}")
        world = start.default_world() if world is None else world
        options = {
            "codec": codec,
            "collective": collective,
            "error_feedback": error_feedback,
            "bucket_bytes": bucket_bytes,
            "in_flight": in_flight,
            "check_finite": check_finite,
            "overlap": overlap,
        }
        check_tensors(world, module)
        living.retire_others(module)
        self._settle_in(module, world, options, check_every, broadcast_buffers)
        compare(world, [_line(name, x) for name, x in everything(module)], "models")
        self.broadcast_parameters()

    def _settle_in(self, module: torch.nn.Module, world: World, options: dict[str, Any], check_every: int, broadcast_buffers: bool) -> None:
        self.module = module
        self.world = world
        self._options, self._check_every, self._broadcast_buffers = options, check_every, broadcast_buffers
        self._passes = 0
        self._members = Members(module)
        self._same_samples = SameSamples(world)
        self._gradients = Gradients(world, module.named_parameters(), _sparse(module), options, self._at_end)
        self._gradients.refresh()
        self.register_load_state_dict_pre_hook(_rename)
        living.add(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module returns for these arguments."""
        follows = torch.is_grad_enabled()
        if follows:
            if not living.has(self):
                raise InvalidArgument("this DistributedDataParallel was closed, or its module was wrapped again; use the new one")
            self._members.check()
            self._gradients.refresh()
            self._same_samples.note(args, kwargs)
        outputs = self.module(*args, **kwargs)
        if follows:
            self._gradients.passes.watch(outputs)
        return outputs

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Within: forward and backward only add to this rank's gradients; the next backward outside reduces the whole sum.

        Where batches of `hpcdl.torch.loader` are of different sizes, each counts in the sum by its own samples.
        """
        passes = self._gradients.passes
        before, passes.reduce = passes.reduce, False
        try:
            yield
        finally:
            passes.reduce = before

    def broadcast_parameters(self, root: int = 0) -> None:
        """Overwrite parameters and buffers with rank `root`'s. Called by all ranks."""
        state.broadcast(self.world, [x for _, x in everything(self.module)], root)

    def check_replicas(self) -> None:
        """Raise the same Mismatch on every rank unless the parameters are bitwise equal on all. Called by all ranks; reads all of them."""
        compare_values(self.world, self.module.named_parameters())

    @property
    def report(self) -> Report:
        """What the gradients have cost on this rank so far. Not collective."""
        reducer = self._gradients.reducer
        waiting, memory = (0.0, None) if reducer is None else (reducer.seconds_waiting, reducer.memory)
        return Report(self._passes, self._gradients.copies, waiting, memory)

    def close(self) -> None:
        """Give back communicators and memory; the module stays as it is. Called by all ranks. Not needed at the end of a program."""
        living.discard(self)
        self._gradients.close()

    def retire(self) -> None:
        """Reduce nothing any more; memory and communicators are kept. Not collective."""
        self._gradients.passes.forget()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The bare module's."""
        return self.module.state_dict(*args, **kwargs)

    def rank_state_dict(self) -> dict[str, Any]:
        """What the codec keeps and has dropped on this rank; for `hpcdl.checkpoint`, between two steps."""
        return {"reducer": self._gradients.state()}

    def load_rank_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, on as many ranks."""
        self._gradients.take(state["reducer"])

    def load_all_rank_state_dicts(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Go on from the states of ranks of another number: what they have dropped is shared out."""
        self._gradients.take(shared_out([state["reducer"] for state in states], self.world.size))

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def __deepcopy__(self, memo: dict[int, Any]) -> DistributedDataParallel:
        twin = type(self).__new__(type(self))
        torch.nn.Module.__init__(twin)
        memo[id(self)] = twin
        twin._settle_in(copy.deepcopy(self.module, memo), self.world, self._options, self._check_every, self._broadcast_buffers)
        twin.train(self.training)
        return twin

    def __getstate__(self) -> Any:
        raise InvalidArgument("a distributed model belongs to its ranks and cannot be saved whole; save model.state_dict() or model.module")

    def _at_end(self) -> Callable[[], None]:
        """What all ranks do at the end of a backward pass, beside the gradients: started here, finished by the result."""
        self._passes += 1
        self._same_samples.check()
        if self._check_every and self._passes % self._check_every == 0:
            self.check_replicas()
        buffers = list(self.module.buffers()) if self._broadcast_buffers and self.training else []
        return state.start_broadcast(self.world, buffers)


def _line(name: str, x: torch.Tensor) -> str:
    return f"{name}: {str(x.dtype).removeprefix('torch.')}{list(x.shape)} on {x.device.type}"


def _sparse(module: torch.nn.Module) -> frozenset[str]:
    """Names of the parameters whose gradients are sparse."""
    tables = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    weights = {id(part.weight) for part in module.modules() if isinstance(part, tables) and part.sparse}
    return frozenset(name for name, p in module.named_parameters() if id(p) in weights)


def _rename(self: DistributedDataParallel, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Let a bare module's names do for the wrapped one."""
    del args
    inner = prefix + "module."
    ours = [key for key in state_dict if key.startswith(prefix)]
    if all(key.startswith(inner) for key in ours) and not hasattr(self.module, "module"):
        return
    for key in ours:
        state_dict[inner + key.removeprefix(prefix)] = state_dict.pop(key)
