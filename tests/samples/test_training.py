"""The whole loop: loader, SyncBatchNorm and DistributedDataParallel on n ranks do what one process does on the joined batches."""

from contextlib import nullcontext

import pytest
from harness.parts import framework

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402
from hpcdl.errors import InvalidArgument  # noqa: E402
from hpcdl.world import World  # noqa: E402

nn = torch.nn


def model_of():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    for i, p in enumerate(model.parameters()):
        nn.init.uniform_(p, -1, 1, generator=torch.Generator().manual_seed(i))
    return model


def train(model, batches, epochs):
    """Three lines differ from a script for one process, and none of them is here."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            ((model(x) - y) ** 2).mean().backward()
            optimizer.step()
    state = [value for one in optimizer.state_dict()["state"].values() for value in (one["exp_avg"], one["exp_avg_sq"])]
    return torch.cat([p.detach().flatten().double() for p in (*model.parameters(), *model.buffers(), *state)])


def rows(n):
    generator = torch.Generator().manual_seed(9)
    return torch.randn(n, 3, dtype=torch.float64, generator=generator), torch.randn(n, 1, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("length,batch_size", [(23, 8), (14, 3)])  # at 4 ranks: parts of different sizes; ranks without a sample
@pytest.mark.parametrize("n", [1, 2, 4])
def test_equals_one_process(ranks, n, length, batch_size):
    dataset = torch.utils.data.TensorDataset(*rows(length))

    def body(world):
        model = ht.DistributedDataParallel(ht.convert_sync_batchnorm(model_of(), world), world=world)
        return train(model, ht.loader(dataset, batch_size, world=world, seed=2), epochs=3).numpy().tobytes()

    solo = ht.loader(dataset, batch_size, world=World.solo(), seed=2)
    alone = train(model_of(), solo, epochs=3)
    found = ranks(n, body)
    if found:
        assert len(set(found)) == 1, "replicas or optimizer states differ"
        result = torch.frombuffer(bytearray(found[0]), dtype=torch.float64)
        assert torch.allclose(result, alone, rtol=1e-6, atol=1e-8)


def test_uneven_batches_of_each_rank(ranks):
    """Three, one and no batches, of different sizes: the joined batches are made of what the ranks still have."""
    x, y = rows(14)
    sizes = [[4, 2, 1], [7], []]
    parts = [
        list(zip(x[a:b].split(each), y[a:b].split(each), strict=True))
        for each, (a, b) in zip(sizes, [(0, 7), (7, 14), (14, 14)], strict=True)
    ]

    def body(world):
        model = ht.DistributedDataParallel(ht.convert_sync_batchnorm(model_of().eval(), world), world=world)
        return train(model, ht.loader(parts[world.rank], world=world), epochs=2).numpy().tobytes()

    joined = [tuple(torch.cat(one) for one in zip(*(part[step] for part in parts if step < len(part)), strict=True)) for step in range(3)]
    alone = train(model_of().eval(), joined, epochs=2)
    found = ranks(3, body)
    if found:
        assert len(set(found)) == 1, "replicas or optimizer states differ"
        assert torch.allclose(torch.frombuffer(bytearray(found[0]), dtype=torch.float64), alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("when", ["before backward", "after step", "zeros"])
@pytest.mark.parametrize("n,length,batch_size,parts", [(4, 23, 6, 3), (4, 14, 3, 2), (3, 16, 5, 2)])
def test_accumulation_of_uneven_batches(ranks, n, length, batch_size, parts, when):
    """Each batch of the sum counts by its own samples, also those of which a rank has none; the last step's sum is shorter."""
    dataset = torch.utils.data.TensorDataset(*rows(length))

    def gradients(model, batches):
        found = []
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            for number, (x, y) in enumerate(batches, 1):
                last = number % parts == 0 or number == len(batches)
                with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                    loss = ((model(x) - y) ** 2).mean()
                    if when == "before backward" and number % parts == 1:
                        optimizer.zero_grad()
                    loss.backward()
                if last:
                    found += [p.grad.flatten().clone() for p in model.parameters()]
                    optimizer.step()
                    if when != "before backward":
                        optimizer.zero_grad(set_to_none=when != "zeros")
        return torch.cat(found)

    def body(world):
        model = ht.DistributedDataParallel(model_of().eval(), world=world)
        return gradients(model, ht.loader(dataset, batch_size, world=world, seed=2)).numpy().tobytes()

    alone = gradients(model_of().eval(), ht.loader(dataset, batch_size, world=World.solo(), seed=2))
    found = ranks(n, body)
    if found:
        assert len(set(found)) == 1
        torch.testing.assert_close(torch.frombuffer(bytearray(found[0]), dtype=torch.float64), alone)


@pytest.mark.parametrize("how", ["next", "break", "within"])
def test_a_batch_counts_wherever_the_loop_is_left(ranks, how):
    """A batch in hand keeps its weight, until another one is handed out."""
    dataset = torch.utils.data.TensorDataset(*rows(5))

    def gradients(model, world):
        if how == "next":
            x, y = next(iter(ht.loader(dataset, 5, world=world)))
            ((model(x) - y) ** 2).mean().backward()
        elif how == "break":
            for batch in ht.loader(dataset, 5, world=world):
                x, y = batch
                break
            ((model(x) - y) ** 2).mean().backward()
        else:
            for x, y in ht.loader(dataset, 5, world=world):
                for _ in ht.loader(dataset, 4, world=world, drop_last=True):
                    pass
                ((model(x) - y) ** 2).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    def body(world):
        return gradients(ht.DistributedDataParallel(model_of().eval(), world=world), world).numpy().tobytes()

    alone = gradients(model_of().eval(), World.solo())
    found = ranks(2, body)
    if found:
        torch.testing.assert_close(torch.frombuffer(bytearray(found[0]), dtype=torch.float64), alone)


def test_two_loaders_that_are_cut_differently(ranks):
    """Alike, they may be zipped; else nobody knows how to weight the gradients."""

    def body(world):
        model = ht.DistributedDataParallel(model_of().eval(), world=world)
        one = ht.loader(torch.utils.data.TensorDataset(*rows(8)), 4, world=world)
        for length, fits in ((6, True), (5, False)):
            other = ht.loader(torch.utils.data.TensorDataset(*rows(length)), length, world=world)
            for (x, _), (_, y) in zip(one, other, strict=False):
                loss = model(x).mean() + y.mean()
                if fits:
                    loss.backward()
                else:
                    with pytest.raises(InvalidArgument, match=r"batches of 2 loaders are at hand, .* 2 of 4 samples and [23] of 5 samples"):
                        loss.backward()

    ranks(2, body)
