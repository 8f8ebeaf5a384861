"""Derivatives of the collectives equal those of the same computation in one process, first and second ones."""

import pytest
from harness.parts import framework

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402


def split(x, n):
    return torch.tensor_split(x, n)


# What each rank calls, and the same for all ranks at once: from a list of the ranks' inputs to one of their outputs.
CASES = {
    "sum": (lambda x, world: ht.allreduce(x, world=world), lambda xs: [sum(xs)] * len(xs)),
    "mean": (lambda x, world: ht.allreduce(x, "mean", world=world), lambda xs: [sum(xs) / len(xs)] * len(xs)),
    "weighted": (
        lambda x, world: ht.allreduce(x, "mean", weight=float(world.rank), world=world),
        lambda xs: [sum(r * x for r, x in enumerate(xs)) / sum(range(len(xs)))] * len(xs),
    ),
    "broadcast": (lambda x, world: ht.broadcast(x, 1, world=world), lambda xs: [xs[1] + 0 * sum(xs)] * len(xs)),
    "allgather": (lambda x, world: ht.allgather(x, world=world), lambda xs: [torch.cat([torch.atleast_1d(x) for x in xs])] * len(xs)),
    "reduce_scatter": (lambda x, world: ht.reduce_scatter(x, world=world), lambda xs: split(sum(xs), len(xs))),
    "reduce_scatter mean": (
        lambda x, world: ht.reduce_scatter(x, "mean", world=world),
        lambda xs: split(sum(xs) / len(xs), len(xs)),
    ),
    "alltoall": (
        lambda x, world: ht.alltoall(x, world=world),
        lambda xs: [torch.cat([split(x, len(xs))[r] for x in xs]) for r in range(len(xs))],
    ),
}
ROWS = {"even": lambda rank: 4, "odd": lambda rank: 5, "few": lambda rank: 1, "each": lambda rank: 2 * rank, "scalar": lambda rank: None}


def inputs(rank, rows):
    torch_rng = torch.Generator().manual_seed(rank)
    shape = () if rows(rank) is None else (rows(rank), 3)
    return torch.randn(shape, dtype=torch.float64, generator=torch_rng).requires_grad_()


def loss_of(y, rank):
    """Different on each rank, and not linear, so that there are second derivatives."""
    factors = torch.linspace(1 + rank, 2, y.numel(), dtype=torch.float64).reshape(y.shape)
    return (y**3 * factors).sum()


def derivatives(xs, losses):
    """First and second ones, for the sum of the losses, of which only this rank's may be known."""
    first = torch.autograd.grad(sum(losses), xs, create_graph=True)
    second = torch.autograd.grad(sum((g**2).sum() for g in first), xs)
    return first, second


@pytest.mark.parametrize(
    "case,rows",
    [(case, rows) for case in CASES for rows in ROWS if rows not in ("each", "scalar") or case == "allgather"]
    + [("sum", "scalar"), ("broadcast", "scalar")],
)
@pytest.mark.parametrize("n", [2, 3])
def test_as_in_one_process(ranks, case, rows, n):
    function, joined = CASES[case]

    def body(world):
        x = inputs(world.rank, ROWS[rows])
        first, second = derivatives([x], [loss_of(function(x, world), world.rank)])
        return [g.tolist() for g in (*first, *second)]

    xs = [inputs(rank, ROWS[rows]) for rank in range(n)]
    expected = derivatives(xs, [loss_of(y, rank) for rank, y in enumerate(joined(xs))])
    found = ranks(n, body)
    for rank, result in enumerate(found or []):
        for got, true in zip(result, (part[rank] for part in expected), strict=True):
            assert torch.allclose(torch.tensor(got, dtype=torch.float64).reshape(true.shape), true, rtol=1e-12), rank


def test_weight_zero_and_codec(ranks):
    def body(world):
        x = torch.full((4,), float("nan") if world.rank else 2.0, requires_grad=True)
        y = ht.allreduce(x, "mean", codec="fp16", weight=float(world.rank == 0), world=world)
        y.sum().backward()
        return y.tolist(), x.grad.tolist()

    assert ranks(2, body) in (None, [([2.0] * 4, [2.0] * 4), ([2.0] * 4, [0.0] * 4)])
