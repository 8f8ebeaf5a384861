"""Horovod's optimizer on four ranks: the same as one process on the joined batch; its settings; broadcast of states; elastic state."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F  # noqa: N812
from side import run
from torch import nn

import hpcdl.horovod.torch as hvd
from hpcdl.errors import HpcdlError

DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(7))
TARGET = torch.randn(64, 3, generator=torch.Generator().manual_seed(8))


def net() -> nn.Module:
    """The same on all ranks."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


def part(step: int, passes: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's batches of a step."""
    begin = 16 * (step % 4)
    rows = torch.arange(begin, begin + 16)[4 * hvd.rank() : 4 * hvd.rank() + 4]
    return [(DATA[chunk], TARGET[chunk]) for chunk in rows.chunk(passes)]


def alone(make, steps: int = 6) -> nn.Module:
    """What one process makes of the joined batches."""
    model = net()
    optimizer = make(model.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        rows = slice(16 * (step % 4), 16 * (step % 4) + 16)
        F.mse_loss(model(DATA[rows]), TARGET[rows]).backward()
        optimizer.step()
    return model


def together(make, steps: int = 6, passes: int = 1, hand=None, **settings) -> nn.Module:
    """What the ranks make of their parts."""
    model = net()
    if "groups" in settings and callable(settings["groups"]):
        settings["groups"] = settings["groups"](model)
    optimizer = hvd.DistributedOptimizer(make(model.parameters()), model.named_parameters(), backward_passes_per_step=passes, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        for data, target in part(step, passes):
            (F.mse_loss(model(data), target) / passes).backward()
        (optimizer.step if hand is None else lambda: hand(model, optimizer))()
    return model


def same(model: nn.Module, other: nn.Module, **tolerance: float) -> None:
    """Equal to `other`, and bitwise on all ranks."""
    settings = tolerance or {"rtol": 1e-5, "atol": 1e-6}
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, **settings)
        everyone = hvd.allgather(p.detach().reshape(1, -1))
        assert (everyone == everyone[0]).all()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def case_equal_to_one() -> None:
    for make in (sgd, adam):
        same(together(make), alone(make))
        same(together(make, passes=2), alone(make))
        same(together(make, gradient_predivide_factor=4.0), alone(make))


def case_sum() -> None:
    model = together(lambda p: torch.optim.SGD(p, lr=0.1 / 4), op=hvd.Sum)
    same(model, alone(lambda p: torch.optim.SGD(p, lr=0.1)))


def case_groups() -> None:
    same(together(adam, groups=2), alone(adam))
    same(together(adam, num_groups=1), alone(adam))
    same(together(adam, groups=lambda model: [[model[0].weight, model[4].bias], [model[2].weight]]), alone(adam))


def case_compressed() -> None:
    for compression in (hvd.Compression.fp16, hvd.Compression.bf16, hvd.Compression.int8):
        same(together(sgd, compression=compression), alone(sgd), rtol=0.2, atol=0.05)


def case_clipping() -> None:
    def clipped(model, optimizer) -> None:
        optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        with optimizer.skip_synchronize():
            optimizer.step()

    def one(parameters):
        optimizer = sgd(parameters)
        step = optimizer.step
        optimizer.step = lambda: (nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 0.1), step())
        return optimizer

    same(together(sgd, hand=clipped), alone(one))


def case_closure() -> None:
    model = net()
    optimizer = hvd.DistributedOptimizer(torch.optim.LBFGS(model.parameters(), max_iter=3), model.named_parameters())
    other = net()
    lone = torch.optim.LBFGS(other.parameters(), max_iter=3)

    def closure(m, o, data, target):
        def call():
            o.zero_grad()
            loss = F.mse_loss(m(data), target)
            loss.backward()
            return loss

        return call

    rows = slice(0, 16)
    [(data, target)] = part(0)
    for _ in range(2):
        optimizer.step(closure(model, optimizer, data, target))
        lone.step(closure(other, lone, DATA[rows], TARGET[rows]))
    same(model, other, rtol=1e-3, atol=1e-4)


def case_unused() -> None:
    """A parameter that only some ranks use: zeros stand for the others'."""
    model = nn.ModuleDict({"a": nn.Linear(2, 1, bias=False), "b": nn.Linear(2, 1, bias=False)})
    for p in model.parameters():
        nn.init.ones_(p)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model.named_parameters())
    x = torch.ones(1, 2)
    (model["a"](x) + (model["b"](x) if hvd.rank() == 2 else 0)).sum().backward()
    optimizer.step()
    assert (model["a"].weight == 0).all() and (model["b"].weight == 0.75).all()


def case_sparse() -> None:
    for as_dense in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(10, 3, sparse=True)
        before = model.weight.detach().clone()
        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=1.0), model.named_parameters(), sparse_as_dense=as_dense
        )
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.tensor([hvd.rank(), 9])).sum().backward()
            assert model.weight.grad.is_sparse
            optimizer.step()
        moved = before - model.weight.detach()
        torch.testing.assert_close(moved[:4], torch.full((4, 3), 0.5))
        torch.testing.assert_close(moved[9], torch.full((3,), 2.0))


def case_training_by_adasum() -> None:
    """Ranks whose gradients agree step as one; the model gets better."""
    model = together(lambda p: torch.optim.SGD(p, lr=0.1), steps=40, op=hvd.Adasum)
    assert F.mse_loss(model(DATA), TARGET) < F.mse_loss(net()(DATA), TARGET)
    same(model, model)


def case_kept() -> None:
    """The class, the state and what is tied to the parameter groups stay."""
    model = net()
    optimizer = adam(model.parameters())
    F.mse_loss(model(DATA), TARGET).backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    wrapped = hvd.DistributedOptimizer(optimizer, model.named_parameters())
    assert isinstance(wrapped, torch.optim.Adam) and type(wrapped).__name__ == "Adam" and wrapped.state
    model.zero_grad()
    F.mse_loss(model(DATA), TARGET).backward()
    wrapped.step()
    schedule.step()
    assert wrapped.param_groups[0]["lr"] == 0.005
    state = copy.deepcopy(wrapped.state_dict())
    wrapped.load_state_dict(state)
    assert wrapped.state_dict()["state"][0]["step"] == 2


def case_wrong_use() -> None:
    model = net()
    for settings in (
        {"named_parameters": list(model.named_parameters())[:2]},
        {"named_parameters": [("a", p) for p in model.parameters()]},
        {"named_parameters": list(model.parameters())},
        {"gradient_predivide_factor": 2.0, "op": hvd.Sum},
        {"backward_passes_per_step": 0},
        {"groups": -1},
        {"groups": [[model[0].weight], [model[0].weight]]},
    ):
        try:
            hvd.DistributedOptimizer(sgd(model.parameters()), **settings)
        except ValueError:
            continue
        raise AssertionError(f"no error for {settings}")
    optimizer = hvd.DistributedOptimizer(sgd(model.parameters()), model.named_parameters())
    F.mse_loss(model(DATA), TARGET).backward()
    for call in (optimizer.zero_grad, lambda: F.mse_loss(model(DATA), TARGET).backward()):
        try:
            call()
        except AssertionError:
            continue
        raise RuntimeError("no error")
    optimizer.step()


def case_process_set() -> None:
    pair = hvd.add_process_set([1, 3])
    model = net()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), model.named_parameters(), process_set=pair)
    model(torch.ones(1, 6) * (hvd.rank() + 1)).sum().backward()
    optimizer.step()
    bias = hvd.allgather(model[4].weight.detach().reshape(1, -1))
    assert (bias[1] == bias[3]).all() and not (bias[0] == bias[2]).all()
    hvd.remove_process_set(pair)


def case_broadcast() -> None:
    torch.manual_seed(hvd.rank())
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1 * (hvd.rank() + 1))
    if hvd.rank() == 1:
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
    hvd.broadcast_parameters(model.state_dict(), root_rank=1)
    hvd.broadcast_optimizer_state(optimizer, root_rank=1)
    assert optimizer.param_groups[0]["lr"] == 0.2
    told = hvd.allgather_object([x.tolist() for x in (*model.state_dict().values(), *(s["exp_avg"] for s in optimizer.state.values()))])
    assert all(one == told[1] for one in told) and len(told[0]) > 7


def case_elastic() -> None:
    torch.manual_seed(hvd.rank())
    model = nn.Linear(4, 2)
    optimizer = hvd.DistributedOptimizer(sgd(model.parameters()), model.named_parameters())
    sampler = hvd.elastic.ElasticSampler(list(range(41)), shuffle=True)
    assert len(sampler) == 11 and len({i for mine in hvd.allgather_object(list(sampler)) for i in mine}) == 41
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler, epoch=0, seen=[])
    tries = []

    @hvd.elastic.run
    def train(state, last):
        tries.append(state.epoch)
        while state.epoch < last:
            model(torch.ones(1, 4)).sum().backward()
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.seen.append(state.epoch)
            sampler.record_batch(0, 2)
            if state.epoch == 2 and len(tries) == 1:
                hvd.allreduce(torch.ones(1 + hvd.rank()), name="wrong")
            state.epoch += 1
            if state.epoch == 2:
                state.commit()
        return state.seen

    assert train(state, 4) == [0, 1, 2, 3] and tries == [0, 2]
    assert sampler.processed_num == 4 * 8
    same(model, model)


def case_changed_hosts() -> None:
    from hpcdl.horovod.errors import HostsUpdatedInterrupt

    @hvd.elastic.run
    def train(state):
        raise HostsUpdatedInterrupt(False)

    try:
        train(hvd.elastic.TorchState(epoch=0))
    except HpcdlError as error:
        assert "comes with a later version" in str(error)
        return
    raise AssertionError("no error")


if __name__ == "__main__":
    run(globals())
