"""The law: n ranks equal one process on the joined batch, and replicas are bitwise equal; over codecs, shards, models, dtypes."""

from __future__ import annotations

import pytest
from harness.parts import framework

torch = framework("torch")

import numpy as np  # noqa: E402
from torch import nn  # noqa: E402

import hpcdl.torch as ht  # noqa: E402
from hpcdl.reduction import compressors  # noqa: E402
from hpcdl.torch import samples  # noqa: E402
from replicas.models import against_one, joined, net, rows, same, settled, squared, train  # noqa: E402

F = nn.functional


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_adam(ranks, n):
    ranks(n, lambda world: against_one(world, net, adam, bucket_bytes=4096) and None)


@pytest.mark.parametrize("counts", [(5, 1, 3), (4, 0, 2)])
def test_unequal_shards(ranks, counts):
    """A rank without data stands in with a batch that counts for nothing."""
    ranks(3, lambda world: against_one(world, net, adam, counts=counts) and None)


def test_nothing_counts_of_a_rank_without_data(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        samples.announce(world, 3 if world.rank else 0)
        x, y = rows(0, 1)
        squared(model, (x * (1 if world.rank else np.nan), y)).backward()
        single = net()
        squared(single, (x, y)).backward()
        for p, q in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    ranks(2, body)


@pytest.mark.parametrize("codec", compressors.names())
def test_codecs_keep_replicas_equal_and_learn(ranks, codec):
    """Every codec and compressor by name; the loss falls as it does without."""

    def body(world):
        model = ht.DDP(net(), codec, world=world)
        batch = rows(0, world.rank)
        first = squared(model, batch).item()
        train(model, torch.optim.SGD(model.parameters(), lr=0.05), [batch] * 40)
        model.check_replicas()
        return first, squared(model, batch).item()

    results = ranks(3, body)
    firsts, lasts = zip(*results, strict=True)
    assert sum(lasts) < (0.97 if codec.startswith("randomk") else 0.8) * sum(firsts), (firsts, lasts)


def test_error_feedback_by_name(ranks):
    def body(world):
        model = ht.DDP(net(), "int8", error_feedback=True, world=world)
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        assert model.report.memory.error_feedback > 0

    ranks(2, body)


class TwoBranches(nn.Module):
    """One branch for each sign of the first input; a third that nobody takes."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right, self.never = (nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3))

    def forward(self, x):
        return (self.left if x[0, 0] > 0 else self.right)(self.stem(x))


def one_sided(step, rank, n=5):
    """Rank 0 goes left, others right; in step 1 all go right."""
    x, y = rows(step, rank, n)
    x[0, 0] = 1.0 if rank == 0 and step != 1 else -1.0
    return x, y


@pytest.mark.parametrize("n", [1, 3])
def test_unused_and_conditionally_used_parameters(ranks, n):
    """Weight decay and momentum show the difference between no gradient and a gradient of zero."""

    def body(world):
        def optimizer(parameters):
            return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)

        model = against_one(world, lambda: settled(TwoBranches()), optimizer, batch=one_sided)
        assert model.never.weight.grad is None and model.left.weight.grad is not None
        model.zero_grad()
        squared(model, one_sided(1, world.rank)).backward()
        assert model.left.weight.grad is None and model.right.weight.grad is not None

    ranks(n, body)


class Tied(nn.Module):
    """The same matrix at both ends."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 6)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        return self.outer(torch.tanh(self.inner(x)))[:, :3]


def test_shared_parameters(ranks):
    ranks(3, lambda world: against_one(world, lambda: settled(Tied()), adam) and None)


def test_frozen_and_unfrozen_later(ranks):
    """Error feedback goes over to the new buckets by name."""

    def body(world):
        single = net()
        model = ht.DDP(net(), world=world)
        for module in (single, model.module):
            module[0].requires_grad_(False)
        ours, one = sgd(model.parameters()), sgd(single.parameters())
        for step in range(6):
            if step == 3:
                single[0].requires_grad_(True), model.module[0].requires_grad_(True)
            train(model, ours, [rows(step, world.rank)])
            assert (model.module[0].weight.grad is None) == (step < 3)
            one.zero_grad()
            joined(single, [rows(step, rank) for rank in range(world.size)]).backward()
            one.step()
        same(model, single)
        model.check_replicas()

    ranks(3, body)


class Mixed(nn.Module):
    """A layer of each dtype."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8, dtype=torch.bfloat16)
        self.c, self.d = nn.Linear(8, 8, dtype=torch.float16), nn.Linear(8, 3, dtype=torch.float64)

    def forward(self, x):
        x = torch.tanh(self.b(self.a(x).bfloat16()))
        return self.d(torch.tanh(self.c(x.half())).double()).float()


def test_mixed_dtypes(ranks):
    """Equal to one process up to the rounding of the shortest dtype: a mean of rounded gradients is not a rounded mean."""
    ranks(3, lambda world: against_one(world, lambda: settled(Mixed()), sgd, bounds={"rtol": 2e-2, "atol": 2e-2}) and None)


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(6, 3, dtype=torch.complex64))

    def forward(self, x):
        return (x.to(torch.complex64) @ self.w).abs()


def test_complex_parameters(ranks):
    def build():
        model = Complex()
        with torch.no_grad():
            model.w.copy_(torch.complex(*[settled(nn.Linear(3, 6), seed).weight.detach() for seed in (1, 2)]))
        return model

    ranks(2, lambda world: against_one(world, build, sgd) and None)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.bag = nn.Embedding(20, 4, sparse=True), nn.EmbeddingBag(20, 4, sparse=True)
        self.out = nn.Linear(4, 3)

    def forward(self, words):
        return self.out(self.table(words).mean(1) + self.bag(words))


def words(step, rank, n=5):
    source = torch.Generator().manual_seed(77 * step + rank)
    return torch.randint(0, 20, (n, 3), generator=source), torch.randn(n, 3, generator=source)


@pytest.mark.parametrize("counts", [None, (5, 2, 0)])
def test_sparse_embedding_gradients(ranks, counts):
    def body(world):
        def optimizer(parameters):
            return torch.optim.SGD(parameters, lr=0.1)

        model = against_one(world, lambda: settled(Words()), optimizer, batch=words, counts=counts)
        assert model.table.weight.grad.is_sparse

    ranks(3, body)


def test_several_optimizers_and_gradients_that_stay_views(ranks):
    def body(world):
        single, model = net(), ht.DDP(net(), world=world)

        def optimizers(module):
            first, second = list(module.parameters())[:2], list(module.parameters())[2:]
            return torch.optim.SGD(first, lr=0.1), torch.optim.Adam(second, lr=0.01)

        pairs = [optimizers(model), optimizers(single)]
        for step in range(4):
            for optimizer in (*pairs[0], *pairs[1]):
                optimizer.zero_grad(set_to_none=False)
            squared(model, rows(step, world.rank)).backward()
            joined(single, [rows(step, rank) for rank in range(world.size)]).backward()
            for optimizer in (*pairs[0], *pairs[1]):
                optimizer.step()
        same(model, single)
        assert model.report.copies.copied == 6 and model.report.copies.in_place == 18  # the first pass finds no bucket yet

    ranks(2, body)


def test_clipping_by_global_norm(ranks):
    def body(world):
        single, model = net(), ht.DDP(net(), world=world)
        for step in range(3):
            norms = []
            for module, loss in (
                (model, squared(model, rows(step, world.rank))),
                (single, joined(single, [rows(step, r) for r in range(3)])),
            ):
                module.zero_grad()
                loss.backward()
                norms.append(nn.utils.clip_grad_norm_(module.parameters(), 0.05))
                with torch.no_grad():
                    for p in module.parameters():
                        p.sub_(p.grad)
            torch.testing.assert_close(*norms)
        same(model, single)
        model.check_replicas()

    ranks(3, body)


@pytest.mark.parametrize("n", [3])
def test_grad_scaler_skips_the_same_step_on_all_ranks(ranks, n):
    def body(world):
        model = ht.DDP(net(), world=world)
        optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=1024.0)
        found = []
        for step in range(3):
            optimizer.zero_grad()
            x, y = rows(step, world.rank)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.mse_loss(model(x).float(), y)
            if step == 1 and world.rank == 2:
                loss = loss * torch.inf
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            before = model.module[0].weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            found.append((scaler.get_scale(), bool((before == model.module[0].weight).all())))
        model.check_replicas()
        return found

    assert ranks(n, body) in (None, [[(1024.0, False), (512.0, True), (512.0, False)]] * n)


@pytest.mark.parametrize("codec", compressors.names())
def test_unused_parameters_are_known_with_every_codec(ranks, codec):
    def body(world):
        model = ht.DDP(settled(TwoBranches()), codec, world=world)
        for step in range(3):
            model.zero_grad()
            samples.announce(world, 1000.0 if world.rank else 1.0, 1000.0 * (world.size - 1) + 1)
            squared(model, one_sided(step, world.rank)).backward()
            assert model.never.weight.grad is None
            assert (model.left.weight.grad is None) == (step == 1) and model.right.weight.grad is not None

    ranks(3, body)


def images(step, rank, n=5):
    source = torch.Generator().manual_seed(55 * step + rank)
    return torch.randn(n, 3, 4, 4, generator=source), torch.randn(n, 2, generator=source)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_fused_optimizers_on_weights_that_lie_otherwise(ranks, kind):
    """Channels last: a fused kernel goes through weight and gradient as they lie in memory."""

    def build():
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        return settled(layers).to(memory_format=torch.channels_last)

    def optimizer(parameters):
        if kind == "adam":
            return torch.optim.Adam(parameters, lr=0.01, fused=True)
        return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, fused=True)

    ranks(2, lambda world: against_one(world, build, optimizer, batch=images) and None)
