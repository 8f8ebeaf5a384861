"""What the programs here share: each case runs over this backend and over gloo, in the same processes, and tells how it ended."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import hpcdl.torch as ht
from hpcdl.errors import InvalidArgument

sys.path.append(str(Path(__file__).parents[2]))
from harness.tell import joined, tell  # noqa: F401  (joined is every.py's)

warnings.filterwarnings("ignore")


class Sides:
    """Both backends. `ours` and `gloo` are process groups of all ranks."""

    def __init__(self) -> None:
        ht.init_process_group()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.ours, self.gloo = dist.group.WORLD, dist.new_group(backend="gloo")

    def same(self, body: Callable[[Any], Any], exact: bool = True, **tolerance: float) -> Any:
        """`body(group)` over both; results must be equal. Ours."""
        torch.manual_seed(self.rank)
        mine = body(self.ours)
        torch.manual_seed(self.rank)
        theirs = body(self.gloo)
        settings = {"rtol": 0, "atol": 0} if exact else (tolerance or {"rtol": 1e-5, "atol": 1e-6})
        torch.testing.assert_close(mine, theirs, equal_nan=True, **settings)
        return mine

    def new(self, ranks: list[int]) -> tuple[Any, Any]:
        """A sub-group of either kind."""
        return dist.new_group(ranks), dist.new_group(ranks, backend="gloo")


def broken(s, kind, *told, **options):
    """A context in which every rank must meet an error of that kind that tells all this, in the same words."""

    class Breaking:
        def __enter__(self):
            self.group = dist.new_group(**options)
            return self.group

        def __exit__(self, got, error, trace):
            assert got is not None, "no error"
            assert issubclass(got, kind), error
            for text in told:
                assert text in str(error), (text, str(error))
            texts = [None] * s.size
            dist.all_gather_object(texts, str(error))
            assert len(set(texts)) == 1, texts
            return True

    return Breaking()


@contextmanager
def refused(told: str) -> Iterator[None]:
    """Within, InvalidArgument is raised that tells this."""
    try:
        yield
    except InvalidArgument as error:
        assert told in str(error), error
    else:
        raise AssertionError(f"no error: {told}")


def run(cases: dict[str, Any]) -> None:
    """Every case, over both backends."""
    sides = Sides()
    tell(cases, sides.rank, sides, after=dist.barrier)
    dist.destroy_process_group()
