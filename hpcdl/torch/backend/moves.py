"""Collectives that move and reduce nothing: any dtype, without a copy where the tensors are dense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...collectives import moves
from ...collectives.into import all_gather_into, all_to_all_into, gather_into, scatter_from
from ...errors import InvalidArgument
from ..streams import all_ordered
from .base import Part, only
from .memory import about, apart, check_dtypes, incoming, outgoing, raw
from .work import Work

__all__ = ["Moves"]


@all_ordered
class Moves(Part):
    """broadcast, all_gather, gather, scatter, all_to_all and barrier, in all their forms. The names are those of torch's C++ interface."""

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Any = None) -> Work:
        """Overwrite the tensors with those of rank `rootRank`."""
        if isinstance(tensors, torch.Tensor):
            tensors = [tensors]
        root = opts if isinstance(opts, int) else opts.rootRank
        operations, restores = [], []
        for x in tensors:
            there, restore = incoming(x, keep=self._rank == root)
            operations.append(moves.broadcast(self._group, raw(there), root, (about(x)[0], (x.numel(),))))
            restores.append(None if self._rank == root else restore)
        return self._work(operations, tensors, restores, opts)

    def allgather(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Work:
        """outputs[r] = rank r's tensor. Sizes may differ between ranks, if all know them."""
        if isinstance(inputs, torch.Tensor):
            outputs, inputs = [outputs], [inputs]
        outs, x = only(outputs, "all_gather"), only(inputs, "all_gather")
        return self._gathered([(x, outs)], outs, opts)

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Work:
        """The same with one output, which holds every rank's tensor in rank order. The input may be this rank's part of it."""
        return self._gathered([(input, output)], [output], opts)

    def allgather_coalesced(self, output_lists: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None) -> Work:
        """output_lists[r][i] = rank r's inputs[i], for every r and i."""
        pairs = [(x, [outs[i] for outs in output_lists]) for i, x in enumerate(inputs)]
        return self._gathered(pairs, [out for outs in output_lists for out in outs], opts)

    def all_gather_single_coalesced(self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None) -> Work:
        """all_gather_single for several, all under way at once."""
        return self._gathered(list(zip(inputs, outputs, strict=True)), outputs, opts)

    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def gather(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Work:
        """On rank `rootRank`, outputs[r] = rank r's tensor; all of one shape. The others give no outputs."""
        if isinstance(inputs, torch.Tensor):
            outputs, inputs = [outputs] if outputs else [], [inputs]
        x, root = only(inputs, "gather"), opts if isinstance(opts, int) else opts.rootRank
        check_dtypes("gather", [x, *(only(outputs, "gather") if self._rank == root else ())])
        landings = [incoming(out) for out in only(outputs, "gather")] if self._rank == root else []
        parts = [raw(there) for there, _ in landings] if self._rank == root else None
        operation = gather_into(self._group, raw(outgoing(x)), parts, root, about(x))
        return self._work([operation], outputs[0] if outputs else [], [restore for _, restore in landings], opts)

    def scatter(self, outputs: Any, inputs: Any, opts: Any = None, timeout: Any = None) -> Work:
        """Every rank r's output = inputs[r] of rank `rootRank`; all of one shape. The others give no inputs."""
        if isinstance(outputs, torch.Tensor):
            outputs, inputs = [outputs], [inputs] if inputs else []
        out, root = only(outputs, "scatter"), opts if isinstance(opts, int) else opts.rootRank
        given = only(inputs, "scatter") if self._rank == root else []
        check_dtypes("scatter", [out, *given])
        there, restore = incoming(out)
        parts = [raw(x) for x in apart([outgoing(x) for x in given], [there])] if self._rank == root else None
        return self._work([scatter_from(self._group, raw(there), parts, root, about(out))], outputs, [restore], opts)

    def alltoall(self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None) -> Work:
        """outputs[r] = rank r's inputs[this rank]. Sizes may be anything that both sides know."""
        check_dtypes("all_to_all", [*inputs, *outputs])
        landings = [incoming(out) for out in outputs]
        parts = [raw(x) for x in apart([outgoing(x) for x in inputs], [there for there, _ in landings])]
        dtype = about(inputs[0])[0] if inputs else ""
        operation = all_to_all_into(self._group, parts, [raw(there) for there, _ in landings], (dtype, ()))
        return self._work([operation], outputs, [restore for _, restore in landings], opts)

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_splits: Sequence[int] = (),
        input_splits: Sequence[int] = (),
        opts: Any = None,
    ) -> Work:
        """Rank r gets the r-th part of each rank's `input`, cut along the first dimension: evenly, or as the splits say."""
        check_dtypes("all_to_all", [input, output])
        there, restore = incoming(output)
        x = apart([outgoing(input)], [there])[0]
        parts, outs = self._split(x, input_splits, "input"), self._split(there, output_splits, "output")
        even = not output_splits and not input_splits
        operation = all_to_all_into(self._group, parts, outs, about(input), even)
        return self._work([operation], [output], [restore], opts)

    alltoall_base = all_to_all_single

    def barrier(self, opts: Any = None, timeout: Any = None) -> Work:
        """Done once every rank has come; after its time-out all ranks end in Stalled, which names those that have not."""
        if timeout is not None or opts is None:
            from torch.distributed import BarrierOptions

            opts = BarrierOptions()
            if timeout is not None:
                opts.timeout = timeout
        return self._work([moves.barrier(self._group)], [], opts=opts)

    def _gathered(self, pairs: Sequence[tuple[torch.Tensor, Any]], outputs: list[torch.Tensor], opts: Any) -> Work:
        operations, restores = [], []
        for x, outs in pairs:
            check_dtypes("all_gather", [x, outs] if isinstance(outs, torch.Tensor) else [x, *outs])
            mine = raw(outgoing(x))
            if isinstance(outs, torch.Tensor):
                there, restore = incoming(outs)
                parts = self._even(raw(there), mine.nbytes, outs, x)
                restores.append(restore)
            else:
                landings = [incoming(out) for out in outs]
                parts = [raw(there) for there, _ in landings]
                restores += [restore for _, restore in landings]
            operations.append(all_gather_into(self._group, mine, parts, about(x)))
        return self._work(operations, outputs, restores, opts)

    def _even(self, everything: Any, nbytes: int, out: torch.Tensor, x: torch.Tensor) -> list[Any]:
        if everything.nbytes != nbytes * self._size:
            raise InvalidArgument(
                f"all_gather: an output of shape {tuple(out.shape)}, {out.dtype} for {self._size} × shape {tuple(x.shape)}, {x.dtype}"
            )
        return [everything[nbytes * rank : nbytes * (rank + 1)] for rank in range(self._size)]

    def _split(self, x: torch.Tensor, splits: Sequence[int], what: str) -> list[Any]:
        """The bytes of the parts of `x` along its first dimension."""
        length = len(x) if x.ndim else 1
        row = x.numel() // length * x.itemsize if length else 0
        if not splits:
            if length % self._size:
                raise InvalidArgument(f"all_to_all: an {what} of {length} rows does not divide by {self._size} ranks; give the splits")
            splits = [length // self._size] * self._size
        if len(splits) != self._size or sum(splits) != length:
            raise InvalidArgument(f"all_to_all: {what} splits {list(splits)} for {length} rows and {self._size} ranks")
        flat, begin, parts = raw(x), 0, []
        for rows in splits:
            parts.append(flat[begin * row : (begin + rows) * row])
            begin += rows
        return parts
