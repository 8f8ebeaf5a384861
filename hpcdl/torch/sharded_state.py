"""States that are cut up over the ranks (FSDP2, tensor parallelism, ZeRO-1) as a part of checkpoints, by torch's distributed checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ..checkpoint.bundle import Bundle, dump, load, merged, snapshot
from ..checkpoint.parts import FileWriter
from ..errors import DataError, InvalidArgument
from .backend.registration import init_process_group
from .ddp import DistributedDataParallel
from .sharded import ShardedOptimizer
from .sources import Source, modules, shared_out, stateful

__all__ = ["ShardedState", "sharded"]

_VALUES = "values.safetensors"  # what is no tensor
_PATIENCE = timedelta(days=1)  # that ranks have for one that writes
_SHOWN = 5  # differences that an error lists
_RANK_STATE = ("rank_state_dict", "load_rank_state_dict", "load_all_rank_state_dicts")


def sharded(thing: Any, *optimizers: torch.optim.Optimizer, process_group: Any = None) -> ShardedState:
    """A part of a `hpcdl.checkpoint.Checkpoint` whose state lies in pieces on the ranks: each writes its own. Called by all ranks.

    thing: a module, with its optimizers: FSDP2, DTensors, `ShardedOptimizer`, wrapped in either DistributedDataParallel or not. It is
    restored on any number of ranks and any mesh. Or a thing with ``state_dict()`` and ``load_state_dict(state)``, whose state is one dict
    without further ones in it; what some ranks only have in it (stages of a pipeline) is saved too. process_group: whose ranks the
    checkpoint's world has; default: all. Where torch.distributed has not begun, it begins.

    Raises InvalidArgument for what is neither, and for parameters of a ShardedOptimizer that the module lacks.
    """
    if not dist.is_initialized():
        init_process_group()
    if not isinstance(thing, torch.nn.Module):
        if optimizers or not (hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")):
            raise InvalidArgument(
                f"sharded() takes a torch.nn.Module and its optimizers, or a thing with state_dict() and load_state_dict(state); "
                f"got {', '.join(type(each).__name__ for each in (thing, *optimizers))}"
            )
        return ShardedState(thing, [stateful(thing)], process_group)
    wrapped = isinstance(thing, (DistributedDataParallel, torch.nn.parallel.DistributedDataParallel))
    module = thing.module if wrapped else thing
    ours = [each for each in optimizers if isinstance(each, ShardedOptimizer)]
    theirs = [each for each in optimizers if not isinstance(each, ShardedOptimizer)]
    return ShardedState(thing, [modules(module, theirs), *(shared_out(module, each) for each in ours)], process_group)


class ShardedState:
    """What `sharded` gives. Tensors go through `torch.distributed.checkpoint`, other values beside them, without pickle.

    Where the thing has a ``rank_state_dict``, as what a codec has dropped, this has it too.
    """

    def __init__(self, thing: Any, sources: Sequence[Source], process_group: Any) -> None:
        self._sources = sources
        for name in _RANK_STATE:
            if hasattr(thing, name):
                setattr(self, name, getattr(thing, name))
        ranks = None if process_group is None else dist.get_process_group_ranks(process_group)
        # of its own: a thread writes while the training communicates
        self._group = dist.new_group(ranks, timeout=_PATIENCE, use_local_synchronization=ranks is not None)

    def file_writer(self) -> FileWriter:
        """What writes a copy of the state as it is now: into a folder, on all ranks at once; the names of this rank's files."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        tensors, values = _split(self._state({}))
        bundle = snapshot(values)
        staged = DefaultStager(StagingOptions(False, False, False, False)).stage(tensors)
        return lambda folder: self._write(folder, staged, bundle)

    def load_files(self, folder: Path) -> None:
        """Take back what such files hold. Raises DataError, the same on every rank, where they are of another model."""
        from . import distributed_files

        tensors: dict[str, Any] = {}
        values: dict[str, Any] = {}
        saved: Mapping[str, Any] = {}
        problems: list[str] = []
        try:
            reader = distributed_files.Reader(folder)
            saved = {**reader.forms(), **merged([load((folder / _VALUES).read_bytes())])}
            tensors, values = _split(self._state(saved))
            problems = list(_differences({**tensors, **values}, saved))
        except Exception as error:  # all ranks are to hear of it
            problems = [f"{type(error).__name__}: {error}"]
        everyone: list[Any] = [None] * dist.get_world_size(self._group)
        dist.all_gather_object(everyone, ([*tensors, *values], problems), group=self._group)
        here = {name for names, _ in everyone for name in names}
        found = [problem for _, problems in everyone for problem in problems]
        found += [f"{name} was saved, and is not here" for name in saved if name not in here and found == []]
        if found:
            different = list(dict.fromkeys(found))
            more = f"; and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
            raise DataError(f"it is of another model: {'; '.join(different[:_SHOWN])}{more}")
        reader.load(tensors, self._group)
        for source in self._sources:
            source.put({name: saved[name] if name in values else x for name, x in {**tensors, **values}.items()})

    def _state(self, saved: Mapping[str, Any]) -> dict[str, Any]:
        return {name: x for source in self._sources for name, x in source.get(saved).items()}

    def _write(self, folder: Path, tensors: dict[str, torch.Tensor], values: Bundle) -> list[str]:
        from . import distributed_files

        names = distributed_files.write(folder, tensors, self._group)
        first = dist.get_rank(self._group) == 0
        everyone: list[Any] | None = [None] * dist.get_world_size(self._group) if first else None
        dist.gather_object(values, everyone, group=self._group, group_dst=0)
        if everyone is None:
            return names
        packed = {name: x for bundle in reversed(everyone) for name, x in bundle.packed.items()}
        (folder / _VALUES).write_bytes(
            dump(Bundle(packed, {name: x for bundle in reversed(everyone) for name, x in bundle.arrays.items()}))
        )
        return [*names, _VALUES]


def _split(state: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors, and other values."""
    tensors = {name: x for name, x in state.items() if torch.is_tensor(x)}
    return tensors, {name: x for name, x in state.items() if name not in tensors}


def _differences(here: Mapping[str, Any], saved: Mapping[str, Any]) -> Iterator[str]:
    for name, x in here.items():
        if name not in saved:
            yield f"{name} was not saved"
        elif _form(x) != _form(saved[name]):
            yield f"{name} is {_form(x)} here, and {_form(saved[name])} was saved"


def _form(x: Any) -> str:
    return f"{x.dtype} of shape {list(x.shape)}" if torch.is_tensor(x) else "no tensor"
