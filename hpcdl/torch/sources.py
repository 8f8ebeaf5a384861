"""Where a sharded state comes from and goes to: flat dicts by the names of parameters, the same names for any optimizer and mesh."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import InvalidArgument
from .sharded import ShardedOptimizer

__all__ = ["Source", "modules", "shared_out", "stateful"]

_MODEL, _OPTIMIZER = "model.", "optimizer."
_State = dict[str, Any]


class Source(NamedTuple):
    """get(saved): this rank's state, to be saved (saved is empty then), or to be overwritten by what was saved: tensors, on the device
    ``meta``, and values. put(state): take it back, also what is of other sources.
    """

    get: Callable[[Mapping[str, Any]], _State]
    put: Callable[[_State], None]


def modules(module: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> Source:
    """A module and its optimizers, by torch's own functions for such."""
    from torch.distributed.checkpoint import state_dict as theirs

    options = theirs.StateDictOptions(flatten_optimizer_state_dict=True)

    def get(saved: Mapping[str, Any]) -> _State:
        weights = theirs.get_model_state_dict(module, options=options)
        with warnings.catch_warnings():  # what has no state yet is stepped once, with a rate of 0, which schedulers remark on
            warnings.simplefilter("ignore")
            state = theirs.get_optimizer_state_dict(module, optimizers, options=options) if optimizers else {}
        return {**_prefixed(_MODEL, weights), **_prefixed(_OPTIMIZER, state)}

    def put(state: _State) -> None:
        theirs.set_model_state_dict(module, _within(_MODEL, state), options=options)
        if optimizers:
            theirs.set_optimizer_state_dict(module, optimizers, optim_state_dict=_within(_OPTIMIZER, state), options=options)

    return Source(get, put)


def shared_out(module: torch.nn.Module, optimizer: ShardedOptimizer) -> Source:
    """An optimizer whose state is shared out: of each parameter whole, on one rank. Under the names that torch gives to any optimizer's."""
    names = {p: name.replace("_orig_mod.", "") for name, p in module.named_parameters()}
    lacking = sum(p not in names for group in optimizer.param_groups for p in group["params"])
    if lacking:
        raise InvalidArgument(f"the module lacks {lacking} of the parameters that the sharded optimizer updates; give the module of both")

    def get(saved: Mapping[str, Any]) -> _State:
        state = {f"state.{names[p]}.{key}": x for p in optimizer.owned() for key, x in optimizer.state.get(p, {}).items()}
        if saved:
            mine = {f"{_OPTIMIZER}state.{names[p]}": p for p in optimizer.owned()}
            there = {name: (x, mine.get(name.rpartition(".")[0])) for name, x in saved.items()}
            made = {name: torch.empty_like(x, device=p.device) for name, (x, p) in there.items() if p is not None and torch.is_tensor(x)}
            state = {name.removeprefix(_OPTIMIZER): made.get(name, x) for name, (x, p) in there.items() if p is not None}
        for group in optimizer.param_groups:
            for p in group["params"]:
                state |= {f"param_groups.{names[p]}.{key}": x for key, x in group.items() if key != "params"}
        return _prefixed(_OPTIMIZER, state)

    def put(state: _State) -> None:
        mine: dict[int, _State] = {}
        groups: list[_State] = []
        number = 0
        for group in optimizer.param_groups:
            values: _State = {}
            for i, p in enumerate(group["params"], number):
                mine[i] = _within(f"{_OPTIMIZER}state.{names[p]}.", state)
                values = _within(f"{_OPTIMIZER}param_groups.{names[p]}.", state)
            groups.append({**values, "params": list(range(number, number + len(group["params"])))})
            number += len(group["params"])
        optimizer.load_state_dict({"state": {i: each for i, each in mine.items() if each}, "param_groups": groups})

    return Source(get, put)


def stateful(thing: Any) -> Source:
    """A thing with a state of its own. Its tensors are overwritten in place before it gets them back."""

    def get(saved: Mapping[str, Any]) -> _State:
        state = dict(thing.state_dict())
        nested = next((name for name, x in state.items() if isinstance(x, Mapping) and any(map(torch.is_tensor, x.values()))), None)
        if nested is not None or not all(isinstance(name, str) for name in state):
            raise InvalidArgument(f"a sharded state is one dict from strings to tensors and values; {nested!r} is a dict of tensors")
        return state

    return Source(get, thing.load_state_dict)


def _prefixed(prefix: str, state: Mapping[str, Any]) -> _State:
    return {prefix + name: x for name, x in state.items()}


def _within(prefix: str, state: _State) -> _State:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
