"""SyncBatchNorm on the ranks' shards equals BatchNorm on the joined batch: outputs, statistics, gradients."""

import copy
import io

import pytest
from harness.parts import framework

from hpcdl.errors import InvalidArgument

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402
from hpcdl.torch import samples  # noqa: E402

nn = torch.nn
KINDS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
COUNTS = {"even": (3, 3), "uneven": (5, 1, 2), "none": (4, 0, 3), "many": (1, 1, 1, 2)}


def data(counts, dims, dtype=torch.float64, mean=3.0):
    """The joined batch, and the factors that make each sample's loss; from one seed."""
    generator = torch.Generator().manual_seed(1)
    shape = (sum(counts), 4, *(2, 3, 2)[:dims])
    x = torch.randn(shape, dtype=torch.float64, generator=generator) * 2 + mean
    return x.to(dtype), torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def part(x, counts, rank):
    """This rank's shard; where it has none, a stand-in."""
    return x.split(counts)[rank] if counts[rank] else x[:1] + 7


def run(norm, x, factors, steps=2):
    """The mean over the samples of a loss that is not linear in the output; outputs, gradients of x and parameters of the last step."""
    for _ in range(steps):
        x = x.detach().clone().requires_grad_()
        norm.zero_grad()
        y = norm(x)
        loss = (y**2 * factors).flatten(1).sum(1).mean()
        loss.backward()
    return y, x.grad, {name: p.grad for name, p in norm.named_parameters()}


def make(dims, **options):
    norm = KINDS[max(dims, 1)](4, dtype=torch.float64, **options)
    for i, p in enumerate(norm.parameters()):
        nn.init.uniform_(p, 0.5, 1.5, generator=torch.Generator().manual_seed(i))
    return norm


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"momentum": None, "eps": 0.1}, {"affine": False, "track_running_stats": False}], ids=["plain", "average", "bare"]
)
def test_equals_batchnorm_of_the_joined_batch(ranks, counts, dims, options):
    counts = COUNTS[counts]
    x, factors = data(counts, dims)
    alone = make(dims, **options)
    y, grad, grads = run(alone, x, factors)

    def body(world):
        norm = ht.convert_sync_batchnorm(make(dims, **options), world)
        samples.announce(world, counts[world.rank])
        mine, mine_grad, mine_grads = run(norm, part(x, counts, world.rank), part(factors, counts, world.rank))
        share = counts[world.rank] / sum(counts)
        for name, p in mine_grads.items():
            joined = ht.allreduce(p, "mean", weight=float(counts[world.rank]), world=world)
            assert torch.allclose(joined, grads[name], rtol=1e-10, atol=1e-12), name
        if share:
            assert torch.allclose(mine, part(y, counts, world.rank), rtol=1e-10, atol=1e-10)
            assert torch.allclose(mine_grad * share, part(grad, counts, world.rank), rtol=1e-9, atol=1e-12)
        else:
            assert not mine_grad.any()
        state, expected = norm.state_dict(), alone.state_dict()
        assert list(state) == list(expected)
        for name, value in expected.items():
            assert torch.allclose(state[name].double(), value.double(), rtol=1e-10), name
        norm.eval()
        sent = world.bytes_sent
        if options.get("track_running_stats", True):
            assert torch.allclose(norm(x), copy.deepcopy(alone).eval()(x), rtol=1e-10)
        norm(x)
        assert world.bytes_sent == sent
        return b"".join(value.numpy().tobytes() for value in norm.buffers())

    found = ranks(len(counts), body)
    assert found is None or len(set(found)) == 1, "running statistics differ between ranks"


def test_without_announced_samples(ranks):
    """Statistics of all values; the gradient of the mean of the ranks' mean losses, as DistributedDataParallel averages then."""
    counts = (5, 2)
    x, factors = data(counts, 1)
    alone = make(1)
    joined = x.clone().requires_grad_()
    y = alone(joined)
    losses = [(a**2 * b).flatten(1).sum(1).mean() for a, b in zip(y.split(counts), factors.split(counts), strict=True)]
    (sum(losses) / 2).backward()

    def body(world):
        norm = ht.convert_sync_batchnorm(make(1), world)
        _, grad, _ = run(norm, part(x, counts, world.rank), part(factors, counts, world.rank), steps=1)
        assert torch.allclose(grad / 2, joined.grad.split(counts)[world.rank], rtol=1e-9, atol=1e-12)

    ranks(2, body)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_short_floats_and_a_large_mean(ranks, dtype):
    counts = (5, 3, 8)
    x, factors = data(counts, 2, dtype, mean=3.0 if dtype != torch.float32 else 3000.0)
    bound = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float32: 2e-3}[dtype]
    alone = make(2)
    y, grad, _ = run(alone, x.double(), factors.double(), steps=1)

    def body(world):
        norm = ht.convert_sync_batchnorm(make(2).float(), world)
        samples.announce(world, counts[world.rank])
        mine, mine_grad, _ = run(norm, part(x, counts, world.rank), part(factors, counts, world.rank), steps=1)
        assert mine.dtype == mine_grad.dtype == dtype and norm.running_mean.dtype == torch.float32
        assert (mine.double() - part(y, counts, world.rank)).abs().max() < bound * y.abs().max()
        error = mine_grad.double() * counts[world.rank] / 16 - part(grad, counts, world.rank)
        assert error.abs().max() < 10 * bound * grad.abs().max()
        assert torch.allclose(norm.running_var.double(), alone.running_var, rtol=1e-4)

    ranks(3, body)


def test_a_stand_in_may_hold_anything(ranks):
    def body(world):
        norm = ht.SyncBatchNorm(4, world=world)
        samples.announce(world, world.rank)
        x = torch.full((2, 4, 3), float("nan")) if world.rank == 0 else torch.arange(24.0).reshape(2, 4, 3)
        x.requires_grad_()
        norm(x).sum().backward()
        assert norm.running_mean.isfinite().all() and norm.running_var.isfinite().all() and x.grad.isfinite().all()

    ranks(2, body)


def test_an_empty_batch(ranks):
    def body(world):
        norm = ht.SyncBatchNorm(2, world=world)
        x = torch.arange(8.0).reshape(4, 2)[: 4 * world.rank].requires_grad_()
        y = norm(x)
        y.sum().backward()
        assert y.shape == x.shape == x.grad.shape
        assert torch.allclose(norm.running_mean, torch.tensor([0.3, 0.4]))

    ranks(2, body)


def test_two_messages_and_none_where_no_gradient_is_wanted(ranks):
    def body(world):
        calls = []
        plain = world.allreduce
        world.allreduce = lambda x, *rest, **more: (calls.append(x.shape), plain(x, *rest, **more))[1]
        norm = ht.SyncBatchNorm(3, world=world)
        norm(torch.randn(4, 3)).sum().backward()
        assert calls == [(7,)]
        norm(torch.randn(4, 3).requires_grad_()).sum().backward()
        assert calls == [(7,), (7,), (2, 3)]

    ranks(2, body)


def test_conversion(ranks):
    def body(world):
        shared = nn.BatchNorm1d(3)
        model = nn.Sequential(nn.Linear(2, 3), shared, nn.ModuleDict({"again": shared, "other": nn.BatchNorm1d(3, affine=False)}))
        names, parameters = list(model.state_dict()), list(model.parameters())
        model.eval()
        assert ht.convert_sync_batchnorm(model, world) is model
        assert isinstance(model[1], ht.SyncBatchNorm) and model[1] is model[2]["again"] and not model[1].training
        assert isinstance(model[2]["other"], ht.SyncBatchNorm) and list(model.state_dict()) == names
        assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
        converted = model[1]
        assert ht.convert_sync_batchnorm(model, world)[1] is converted
        double = copy.deepcopy(model[1]).train()
        double(torch.randn(2, 3))
        assert double.num_batches_tracked == 1 and model[1].num_batches_tracked == 0
        file = io.BytesIO()
        torch.save(model[1], file)
        file.seek(0)
        assert torch.load(file, weights_only=False).eval()(torch.randn(2, 3)).shape == (2, 3)
        with pytest.raises(InvalidArgument, match="run one batch through the model first"):
            ht.convert_sync_batchnorm(nn.LazyBatchNorm1d(), world)

    ranks(2, body)


def test_errors(ranks):
    def body(world):
        norm = ht.SyncBatchNorm(3, world=world)
        for shape in [(3,), (2, 4)]:
            with pytest.raises(InvalidArgument, match=r"shape \(N, 3, …\)"):
                norm(torch.ones(shape))
        samples.announce(world, 1 - world.rank)
        with pytest.raises(InvalidArgument, match="one value per channel"):
            norm(torch.ones(1, 3))

    ranks(2, body)
