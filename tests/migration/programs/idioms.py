"""What Horovod's users write around it, for the real one and for this package; each rank tells what each idiom has trained."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import horovod.torch as hvd
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

even, odd = hvd.ProcessSet([0, 2]), hvd.ProcessSet([1, 3])
hvd.init(process_sets=[even, odd])
RANK, SIZE = hvd.rank(), hvd.size()
torch.set_num_threads(1)
DATA = torch.randn(96, 6, generator=torch.Generator().manual_seed(7))
TARGET = torch.randn(96, 3, generator=torch.Generator().manual_seed(8))


def net(norm: bool = False) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), *([nn.BatchNorm1d(8)] if norm else []), nn.Linear(8, 3))


def batches(epoch: int = 0, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's, by torch's own sampler."""
    dataset = torch.utils.data.TensorDataset(DATA, TARGET)
    sampler = torch.utils.data.distributed.DistributedSampler(dataset, num_replicas=SIZE, rank=RANK)
    sampler.set_epoch(epoch)
    return list(torch.utils.data.DataLoader(dataset, batch_size=size, sampler=sampler))


def sgd(model: nn.Module, lr: float = 0.05) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def accumulated() -> nn.Module:
    """Batches in parts, the last one of fewer; clipped between `synchronize` and `step`."""
    model = net(norm=True)
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters(), backward_passes_per_step=3)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    for data, target in batches(size=9):
        optimizer.zero_grad()
        for i in range(0, len(data), 3):
            (F.mse_loss(model(data[i : i + 3]), target[i : i + 3]) / math.ceil(len(data) / 3)).backward()
        optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        with optimizer.skip_synchronize():
            optimizer.step()
    return model


def scaled() -> nn.Module:
    """Mixed precision with loss scaling, and one step whose gradients are infinite on one rank."""
    model = net()
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step, (data, target) in enumerate(batches()):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=False):
            loss = F.mse_loss(model(data), target)
        scaler.scale(loss * (math.inf if step == 2 and RANK == 1 else 1)).backward()
        optimizer.synchronize()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with optimizer.skip_synchronize():
            scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 512.0
    return model


def scheduled() -> nn.Module:
    """Warm-up by hand, then torch's schedules, over the wrapped optimizer and over the one within; and the metric that they ask for."""
    model = net()
    inner = torch.optim.Adam(model.parameters(), lr=0.01 * SIZE)
    before = torch.optim.lr_scheduler.StepLR(inner, 2, gamma=0.5)
    optimizer = hvd.DistributedOptimizer(inner, named_parameters=model.named_parameters(), compression=hvd.Compression.none)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)
    for epoch in range(4):
        losses = []
        for i, (data, target) in enumerate(batches(epoch)):
            if epoch == 0:
                for group in optimizer.param_groups:
                    group["lr"] = 0.01 * (1 + i)
            optimizer.zero_grad()
            loss = F.mse_loss(model(data), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        before.step()
        plateau.step(hvd.allreduce(torch.stack(losses).mean(), name="loss").item())
    model.rate = torch.tensor(optimizer.param_groups[0]["lr"])
    return model


def adasum() -> nn.Module:
    """Adasum of the ranks' steps, each over two backward passes."""
    model = net()
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters(), op=hvd.Adasum, backward_passes_per_step=2)
    for _ in range(3):
        optimizer.zero_grad()
        for data, target in batches()[:2]:
            F.mse_loss(model(data), target).backward()
        optimizer.step()
    return model


def joined() -> nn.Module:
    """Ranks of which each has one batch more than the one before; then all take over the weights of the last."""
    model = net()
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters())
    for data, target in batches()[: 2 + RANK]:
        optimizer.zero_grad()
        F.mse_loss(model(data), target).backward()
        optimizer.step()
    last = hvd.join()
    assert last == SIZE - 1
    hvd.broadcast_parameters(model.state_dict(), root_rank=last)
    return model


def halves() -> nn.Module:
    """Process sets that were given to `init`: two trainings at once."""
    mine = even if even.included() else odd
    model = net()
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters(), process_set=mine)
    for data, target in batches():
        optimizer.zero_grad()
        F.mse_loss(model(data), target).backward()
        optimizer.step()
    model.seen = hvd.allgather(torch.full((RANK + 1,), RANK), name="seen", process_set=mine)
    return model


def adversaries() -> nn.Module:
    """Two networks, two optimizers, parameters without names, one backward through both."""
    maker, judge = net(), nn.Linear(3, 1)
    with torch.no_grad():
        judge.weight.fill_(0.1)
        judge.bias.zero_()
    of_maker = hvd.DistributedOptimizer(sgd(maker), named_parameters=[(f"maker.{name}", p) for name, p in maker.named_parameters()])
    of_judge = hvd.DistributedOptimizer(sgd(judge), named_parameters=[(f"judge.{name}", p) for name, p in judge.named_parameters()])
    for data, target in batches():
        of_judge.zero_grad()
        (F.softplus(-judge(target)) + F.softplus(judge(maker(data).detach()))).mean().backward()
        of_judge.step()
        of_maker.zero_grad()
        F.softplus(-judge(maker(data))).mean().backward()
        of_maker.step()
        of_judge.synchronize()
    return nn.ModuleList([maker, judge])


def elastic() -> nn.Module:
    """The loop of an elastic script, in which nobody comes or goes."""
    model = net()
    optimizer = hvd.DistributedOptimizer(sgd(model), named_parameters=model.named_parameters())
    dataset = torch.utils.data.TensorDataset(DATA, TARGET)
    sampler = hvd.elastic.ElasticSampler(dataset, shuffle=False)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, sampler=sampler)

    @hvd.elastic.run
    def train(state: Any) -> None:
        for state.epoch in range(state.epoch, 2):  # noqa: B020
            for state.batch, (data, target) in enumerate(loader):
                state.optimizer.zero_grad()
                F.mse_loss(state.model(data), target).backward()
                state.optimizer.step()
                state.sampler.record_batch(state.batch, len(data))
                if state.batch % 3 == 0:
                    state.commit()
                else:
                    state.check_host_updates()
            state.sampler.set_epoch(state.epoch + 1)
            state.batch = 0
            state.commit()

    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler, epoch=0, batch=0)
    state.register_reset_callbacks([lambda: None])
    train(state)
    model.told = torch.tensor([state.epoch, state.batch, sampler.epoch, sampler.processed_num])
    return model


def weights(model: nn.Module) -> list[float]:
    more = [x for x in vars(model).values() if isinstance(x, torch.Tensor)]
    return torch.cat([x.detach().double().flatten() for x in (*model.parameters(), *more)]).tolist()


for idiom in (accumulated, scaled, scheduled, adasum, joined, halves, adversaries, elastic):
    os.write(1, f"\n@{json.dumps([idiom.__name__, RANK, weights(idiom())])}\n".encode())
hvd.barrier()
hvd.shutdown()
