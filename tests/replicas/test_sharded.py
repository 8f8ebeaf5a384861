"""Sharded optimizer state: the same training, bit for bit, with a part of the state on each rank."""

from __future__ import annotations

import copy

import pytest
from harness.parts import framework

torch = framework("torch")

from torch import nn  # noqa: E402

import hpcdl.torch as ht  # noqa: E402
from hpcdl.errors import InvalidArgument, Mismatch  # noqa: E402
from replicas.models import net, rows, same, settled, squared, train  # noqa: E402

KINDS = {
    "adam": lambda **more: (torch.optim.Adam, {"lr": 0.01, **more}),
    "adamw": lambda **more: (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, **more}),
    "momentum": lambda **more: (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, **more}),
}


def groups(module):
    matrices = [p for p in module.parameters() if p.ndim == 2]
    return [{"params": matrices, "lr": 0.02}, {"params": [p for p in module.parameters() if p.ndim == 1], "weight_decay": 0.0}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_equal_to_the_plain_optimizer(ranks, kind, n):
    """With parameter groups, a schedule, a group added later; parameters of several dtypes."""

    def build():
        return settled(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 9, dtype=torch.float64), nn.Linear(9, 3)))

    def loss(module, batch):
        x, y = batch
        inner = module.module
        hidden = inner[2](torch.tanh(inner[0](x)).double()).float()
        return nn.functional.mse_loss(inner[3](hidden), y)

    class Whole(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.module = layers

        def forward(self, batch):
            return loss(self, batch)

    def body(world):
        make, options = KINDS[kind]()
        models = [ht.DDP(Whole(build()), world=world) for _ in range(2)]
        extras = [nn.Parameter(torch.ones(3, 2)) for _ in models]
        optimizers = [
            ht.optimizer(make, groups(model), shard=shard, world=world, **options)
            for model, shard in zip(models, (True, False), strict=True)
        ]
        schedules = [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5) for optimizer in optimizers]
        for step in range(4):
            if step == 2:
                for optimizer, extra in zip(optimizers, extras, strict=True):
                    optimizer.add_param_group({"params": [extra]})
            for model, optimizer, extra, schedule in zip(models, optimizers, extras, schedules, strict=True):
                optimizer.zero_grad()
                model(rows(step, world.rank)).backward()
                extra.grad = torch.ones_like(extra) * step
                optimizer.step()
                schedule.step()
        same(*models, rtol=0, atol=0)
        assert torch.equal(*extras)
        models[0].check_replicas()
        held = sum(x.numel() for state in optimizers[0].state.values() for x in state.values() if torch.is_tensor(x) and x.ndim)
        whole = sum(x.numel() for state in optimizers[1].state.values() for x in state.values() if torch.is_tensor(x) and x.ndim)
        return held, whole

    results = ranks(n, body)
    if results is not None:
        held, whole = [h for h, _ in results], results[0][1]
        assert sum(held) == whole and max(held) < whole * (1 if n == 1 else 0.75) + (n == 1)


def test_state_goes_to_a_plain_optimizer_and_back(ranks):
    def body(world):
        def steps(model, optimizer, which):
            train(model, optimizer, [rows(step, world.rank) for step in which])

        models = [ht.DDP(net(), world=world) for _ in range(2)]
        sharded = ht.optimizer(torch.optim.Adam, models[0].parameters(), shard=True, world=world, lr=0.01)
        plain = torch.optim.Adam(models[1].parameters(), lr=0.01)
        steps(models[0], sharded, range(2)), steps(models[1], plain, range(2))
        with pytest.raises(InvalidArgument, match=r"rank \d of 3: the state lies on all ranks; call consolidate"):
            sharded.state_dict()
        sharded.consolidate(to=1)
        if world.rank == 1:
            ours, theirs = sharded.state_dict(), plain.state_dict()
            assert ours["param_groups"] == theirs["param_groups"] and list(ours["state"]) == list(theirs["state"])
            for i, state in theirs["state"].items():
                assert all(torch.equal(ours["state"][i][name], x) for name, x in state.items())
            plain.load_state_dict(ours)
        else:
            with pytest.raises(InvalidArgument, match="consolidated to another rank"):
                sharded.state_dict()
        fresh = ht.optimizer(torch.optim.Adam, models[0].parameters(), shard=True, world=world, lr=0.5)
        fresh.load_state_dict(copy.deepcopy(plain.state_dict()))
        assert fresh.param_groups[0]["lr"] == 0.01
        steps(models[0], fresh, range(2, 4)), steps(models[1], plain, range(2, 4))
        same(*models, rtol=0, atol=0)
        with pytest.raises(InvalidArgument, match=r"groups of \[1\] parameters, this optimizer has groups of \[6\]"):
            fresh.load_state_dict({"state": {}, "param_groups": [{"params": [0]}]})

    ranks(3, body)


def test_more_ranks_than_parameters_and_a_scaler(ranks):
    def body(world):
        model = ht.DDP(settled(nn.Linear(6, 3)), world=world)
        optimizer = ht.optimizer(torch.optim.SGD, model.parameters(), shard=True, world=world, lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        before = model.module.weight.detach().clone()
        for bad in (True, False):
            optimizer.zero_grad()
            scaler.scale(squared(model, rows(0, world.rank)) * (torch.inf if bad and world.rank == 1 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, model.module.weight) == bad
        model.check_replicas()
        optimizer.consolidate()

    ranks(4, body)


def test_bad_arguments(ranks):
    def body(world):
        with pytest.raises(InvalidArgument, match="LBFGS looks at all parameters at once"):
            ht.optimizer(torch.optim.LBFGS, net().parameters(), shard=True, world=world)
        with pytest.raises(Mismatch, match=r"'parameter 0' is torch.float32\[2\] on rank 0 and torch.float32\[3\] on rank 1"):
            ht.optimizer(torch.optim.SGD, [nn.Parameter(torch.zeros(2 + world.rank))], shard=True, world=world)
        good = ht.optimizer(torch.optim.SGD, net().parameters(), shard=True, world=world)
        with pytest.raises(InvalidArgument, match=r"consolidate\(to=2\): ranks are 0 to 1"):
            good.consolidate(to=2)

    ranks(2, body)
