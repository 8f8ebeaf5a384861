"""The whole loop: loader, SyncBatchNorm and DistributedDataParallel on n ranks do what one process does on the joined batches."""

import pytest
from harness.parts import framework

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402
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
