"""What people do with backward: accumulate, checkpoint, compile, go through twice, fail half-way, go round the wrapper."""

from __future__ import annotations

import pytest
from harness.parts import framework

torch = framework("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import hpcdl.torch as ht  # noqa: E402
from hpcdl.errors import InvalidArgument, NonFinite  # noqa: E402
from replicas.models import against_one, joined, net, rows, same, settled, squared, train  # noqa: E402


class Fail(torch.autograd.Function):
    """A copy, without a derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise ArithmeticError("no such derivative")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def pair(world, build=net, **options):
    """The same model twice: on these ranks, and in one process; with their optimizers."""
    single, model = build(), ht.DDP(build(), world=world, **options)
    return model, sgd(model.parameters()), single, sgd(single.parameters())


def everyone(world, step):
    return [rows(step, rank) for rank in range(world.size)]


@pytest.mark.parametrize("codec", [None, "fp16"])
def test_gradient_accumulation(ranks, codec):
    def body(world):
        model, ours, single, one = pair(world, codec=codec)
        for step in range(3):
            ours.zero_grad(), one.zero_grad()
            sent = world.bytes_sent
            with model.no_sync():
                for part in range(2):
                    squared(model, rows(10 * step + part, world.rank)).backward()
            assert world.bytes_sent == sent, "no_sync has sent something"
            squared(model, rows(10 * step + 2, world.rank)).backward()
            for part in range(3):
                joined(single, everyone(world, 10 * step + part)).backward()
            ours.step(), one.step()
        same(model, single, rtol=1e-3 if codec else 1e-5, atol=1e-3 if codec else 1e-5)
        model.check_replicas()

    ranks(3, body)


def test_accumulated_gradients_of_parameters_that_the_last_part_leaves_out(ranks):
    class Sides(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x, left):
            return (self.left if left else self.right)(x)

    def loss(module, batch, left):
        return nn.functional.mse_loss(module(batch[0], left), batch[1])

    def body(world):
        model, _, single, _ = pair(world, lambda: settled(Sides()))
        for module, batches in ((model, [rows(0, world.rank)]), (single, everyone(world, 0))):
            for left in (True, False):
                if left and module is model:
                    with model.no_sync():
                        loss(module, batches[0], left).backward()
                else:
                    (sum(loss(module, batch, left) for batch in batches) / len(batches)).backward()
        for p, q in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    ranks(3, body)


def test_two_forwards_one_backward_and_one_forward_two_backwards(ranks):
    def body(world):
        model, ours, single, one = pair(world)
        mine, all_of_them = rows(0, world.rank), everyone(world, 0)
        (squared(model, mine) + squared(model, rows(1, world.rank))).backward()
        (joined(single, all_of_them) + joined(single, everyone(world, 1))).backward()
        loss, other = squared(model, mine), joined(single, all_of_them)
        for _ in range(2):
            loss.backward(retain_graph=True)
            other.backward(retain_graph=True)
        ours.step(), one.step()
        same(model, single)
        first, second = squared(model, mine), squared(model, rows(1, world.rank))
        one.zero_grad(), ours.zero_grad()
        first.backward(), second.backward()
        joined(single, all_of_them).backward(), joined(single, everyone(world, 1)).backward()
        for p, q in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad)

    ranks(2, body)


def test_gradients_of_gradients(ranks):
    """A penalty on the gradient in the input: autograd.grad reduces nothing, the backward through it does."""

    def penalty(module, batch):
        x = batch[0].clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def body(world):
        model, ours, single, one = pair(world)
        for step in range(2):
            train(model, ours, [rows(step, world.rank)], penalty)
            one.zero_grad()
            joined(single, everyone(world, step), penalty).backward()
            one.step()
        same(model, single)
        model.check_replicas()

    ranks(3, body)


class Checkpointed(nn.Module):
    """One layer used twice, each time in a checkpoint."""

    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.outer, self.reentrant = nn.Linear(6, 6), nn.Linear(6, 3), reentrant

    def forward(self, x):
        x = x.clone().requires_grad_()
        for _ in range(2):
            x = checkpoint(lambda x: torch.tanh(self.inner(x)), x, use_reentrant=self.reentrant)
        return checkpoint(self.outer, x, use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(ranks, reentrant):
    ranks(3, lambda world: against_one(world, lambda: settled(Checkpointed(reentrant)), sgd, bucket_bytes=64) and None)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_of_the_whole_model(ranks, reentrant):
    def loss(module, batch):
        x, y = batch
        return nn.functional.mse_loss(checkpoint(module, x.clone().requires_grad_(), use_reentrant=reentrant), y)

    ranks(2, lambda world: against_one(world, net, sgd, loss=loss) and None)


@pytest.mark.ways("mpi")
@pytest.mark.parametrize("inside", [True, False])
def test_compiled(ranks, inside):
    """A compiled model in the wrapper, and the wrapper compiled."""

    def body(world):
        model, ours, single, one = pair(world)
        called = model
        if inside:
            model.module.compile(backend="aot_eager")
        else:
            called = torch.compile(model, backend="aot_eager")
        for step in range(3):
            train(called, ours, [rows(step, world.rank)])
            one.zero_grad()
            joined(single, everyone(world, step)).backward()
            one.step()
        same(model, single)
        model.check_replicas()
        assert model.report.passes == 3

    ranks(2, body)


def test_a_pass_that_fails_on_all_ranks_leaves_nothing_behind(ranks):
    def body(world):
        model, ours, single, one = pair(world, bucket_bytes=256)
        for step in range(4):
            if step in (0, 2):
                x, y = rows(step, world.rank)
                hidden = model.module[1](model.module[0](x))
                del hidden
                first = model.module[0]
                handle = first.register_forward_hook(lambda module, given, out: Fail.apply(out))
                with pytest.raises(ArithmeticError):
                    nn.functional.mse_loss(model(x), y).backward()
                handle.remove()
                ours.zero_grad()
            train(model, ours, [rows(step, world.rank)])
            one.zero_grad()
            joined(single, everyone(world, step)).backward()
            one.step()
        same(model, single)
        model.check_replicas()

    ranks(2, body)


def test_a_pass_that_fails_while_another_forward_waits(ranks):
    def body(world):
        model, _, single, _ = pair(world, bucket_bytes=256)
        for step in range(3):
            handle = model.module[0].register_forward_hook(lambda module, given, out: Fail.apply(out))
            failing = squared(model, rows(9, world.rank))
            handle.remove()
            waiting = squared(model, rows(step, world.rank))
            with pytest.raises(ArithmeticError):
                failing.backward()
            model.zero_grad(), single.zero_grad()
            waiting.backward()
            joined(single, everyone(world, step)).backward()
            for p, q in zip(model.parameters(), single.parameters(), strict=True):
                torch.testing.assert_close(p.grad, q.grad)

    ranks(2, body)


def test_frozen_while_its_gradient_is_not_reduced(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        with model.no_sync():
            squared(model, rows(0, world.rank)).backward()
        model.module[4].bias.requires_grad_(False)
        loss = squared(model, rows(1, world.rank))
        with pytest.raises(InvalidArgument, match=r"'4\.bias' has gradients of passes within no_sync\(\), and was frozen"):
            loss.backward()
        model.zero_grad()
        squared(model, rows(1, world.rank)).backward()

    ranks(2, body)


def test_backward_without_a_forward_of_the_wrapper(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        with pytest.raises(InvalidArgument, match=r"parameter '4.bias', but no forward .* call the wrapper, model\(x\)"):
            squared(model.module, rows(0, world.rank)).backward()
        with model.no_sync():
            squared(model, rows(0, world.rank)).backward()
        squared(model, rows(0, world.rank)).backward()

    ranks(2, body)


def test_check_finite_names_rank_and_parameter(ranks):
    def body(world):
        model = ht.DDP(net(), world=world, check_finite=True)
        loss = squared(model, rows(0, world.rank))
        with pytest.raises(NonFinite, match=r"rank 1 of 2 in the gradient of '0\.weight'"):
            (loss * (torch.nan if world.rank else 1)).backward()
        model.zero_grad()
        squared(model, rows(0, world.rank)).backward()

    ranks(2, body)


def test_outputs_of_any_kind(ranks):
    """A dataclass, and an object that hides its tensors."""
    from dataclasses import dataclass

    @dataclass
    class Seen:
        values: dict

    class Hidden:
        def __init__(self, x):
            self.x = x

    class Wraps(nn.Module):
        def __init__(self, how):
            super().__init__()
            self.inner, self.how = net(), how

        def forward(self, x):
            out = self.inner(x)
            return Seen({"out": [out]}) if self.how == "seen" else Hidden(out)

    def body(world):
        for how in ("seen", "hidden"):

            def loss(module, batch, how=how):
                out = module(batch[0])
                return nn.functional.mse_loss(out.values["out"][0] if how == "seen" else out.x, batch[1])

            against_one(world, lambda how=how: Wraps(how), sgd, loss=loss)

            def twice(module, batch, loss=loss):
                first = loss(module, batch)
                first.backward(retain_graph=True)
                return first

            model, ours, single, one = pair(world, lambda how=how: Wraps(how))
            twice(model, rows(0, world.rank)).backward()
            for batch in everyone(world, 0):
                (2 * loss(single, batch) / world.size).backward()
            ours.step(), one.step()
            same(model, single)

    ranks(2, body)


def test_copies_are_counted(ranks):
    def body(world):
        model, ours, _, _ = pair(world)
        train(model, ours, [rows(0, world.rank)] * 3)
        size = sum(4 * p.numel() for p in model.parameters())
        assert model.report.copies == (18, 3 * size, 0)
        assert model.report.passes == 3 and model.report.seconds_waiting > 0

    ranks(2, body)


def test_two_that_are_frozen_in_turn(ranks):
    """A discriminator that is frozen while the generator learns: its buckets stay, whoever is frozen when the other's backward runs."""

    def losses(generator, judge, batch, freeze):
        x, _ = batch
        judged = judge(x).square().mean()  # recorded while it is trained; its backward comes later
        freeze(False)
        fooled = (judge(generator(x)) - 1).square().mean()
        fooled.backward()
        freeze(True)
        judged.backward()

    def body(world):
        build = {"generator": lambda: settled(nn.Linear(6, 6), 1), "judge": lambda: settled(nn.Linear(6, 1), 2)}
        models = {name: ht.DDP(make(), "int8", error_feedback=True, world=world) for name, make in build.items()}
        optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models.values()]
        reducers = set()
        for step in range(6):
            for optimizer in optimizers:
                optimizer.zero_grad()
            losses(models["generator"], models["judge"], rows(step, world.rank), models["judge"].requires_grad_)
            for optimizer in optimizers:
                optimizer.step()
            reducers.add(id(models["judge"]._gradients.reducer))
            for model in models.values():
                model.check_replicas()
        assert len(reducers) == 1

    ranks(3, body)


def test_sets_of_trained_parameters_come_and_go(ranks):
    """Buckets of two sets are kept; what error feedback holds moves along."""

    def body(world):
        model = ht.DDP(net(), "int8", error_feedback=True, world=world, collective="ring")
        layers = [model.module[0], model.module[2], model.module[4]]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(9):
            for number, layer in enumerate(layers):
                layer.requires_grad_(number != step % 3)
            train(model, optimizer, [rows(step, world.rank)])
            assert [layer.weight.grad is None for layer in layers] == [number == step % 3 for number in range(3)]
            model.check_replicas()
        assert len(model._gradients._sets) == 2

    ranks(2, body)


def test_frozen_between_forward_and_backward(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        loss = squared(model, rows(0, world.rank))
        model.module[4].bias.requires_grad_(False)
        with pytest.raises(InvalidArgument, match=r"'4\.bias' was frozen between forward and backward"):
            loss.backward()

    ranks(2, body)


def test_the_bare_module_trains_alone_once_the_wrapper_is_closed(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        model.close()
        sent = world.bytes_sent
        train(model.module, sgd(model.module.parameters()), [rows(0, world.rank)])
        assert world.bytes_sent == sent

    ranks(2, body)


@pytest.mark.parametrize("how", ["clamp", "there_and_back", "layout"])
def test_gradients_that_get_other_memory(ranks, how):
    """``.data =`` and ``module.to`` put other memory into the object that ``grad`` is; the bucket stays a bucket."""

    def body(world):
        model, ours, single, one = pair(world)
        for step in range(4):
            for module, optimizer, loss in ((model, ours, squared), (single, one, None)):
                optimizer.zero_grad(set_to_none=False)
                (joined(single, everyone(world, step)) if loss is None else loss(model, rows(step, world.rank))).backward()
                if how == "clamp":
                    for p in module.parameters():
                        p.grad.data = p.grad.data.clamp(-0.1, 0.1)
                optimizer.step()
                if how == "there_and_back":
                    module.double(), module.float()
                elif how == "layout":
                    module.share_memory()
        same(model, single)
        model.check_replicas()

    ranks(2, body)


def test_a_graph_of_the_gradients_does_not_stay(ranks):
    def body(world):
        model, ours, _, _ = pair(world)
        for step in range(3):
            ours.zero_grad()
            squared(model, rows(step, world.rank)).backward(create_graph=step < 2)
            assert all(not p.grad.requires_grad and p.grad.grad_fn is None for p in model.parameters())
            ours.step()
        model.check_replicas()

    ranks(2, body)


def test_a_parameter_that_is_returned_keeps_no_hooks(ranks):
    class Returns(nn.Linear):
        def forward(self, x):
            return super().forward(x), self.weight

    def body(world):
        model = ht.DDP(settled(Returns(6, 3)), world=world)
        for step in range(3):
            out, _ = model(rows(step, world.rank)[0])
            out.sum().backward()
        assert not model.module.weight._backward_hooks

    ranks(2, body)


def test_round_the_wrapper_within_no_sync(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        sent = world.bytes_sent
        with model.no_sync():
            squared(model.module, rows(0, world.rank)).backward()
        assert world.bytes_sent == sent and model.module[0].weight.grad is not None

    ranks(2, body)
