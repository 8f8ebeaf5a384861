"""Models in and out of the wrapper: their state, their copies, and whether the ranks agree on them."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
from harness.parts import framework

torch = framework("torch")

from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402

import hpcdl.torch as ht  # noqa: E402
from hpcdl.errors import InvalidArgument, Mismatch  # noqa: E402
from replicas.models import net, rows, same, settled, squared, train  # noqa: E402


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def test_weights_and_buffers_are_rank_0s(ranks):
    def body(world):
        model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).to(memory_format=torch.preserve_format)
        settled(model, world.rank)
        model[1].running_mean += world.rank
        strided = nn.Parameter(torch.full((3, 2), float(world.rank)).t())
        model.register_parameter("strided", strided)
        ht.DDP(model, world=world)
        return [x.tolist() for x in model.state_dict().values()]

    results = ranks(3, body)
    assert results is None or results[0] == results[1] == results[2]


def test_state_dict_of_wrapped_and_bare_models(ranks):
    def body(world):
        class Outer(nn.Module):
            def __init__(self, inner):
                super().__init__()
                self.inner = inner

        def fresh(seed):
            return settled(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), seed)

        model, bare = ht.DDP(fresh(1), world=world), fresh(2)
        assert list(model.state_dict()) == list(bare.state_dict())
        assert not bare.load_state_dict(model.state_dict()).missing_keys
        same(bare, model, rtol=0, atol=0)
        model.load_state_dict(fresh(3).state_dict())
        same(model, fresh(3), rtol=0, atol=0)
        model.load_state_dict({f"module.{name}": x for name, x in bare.state_dict().items()})  # as torch's own wrapper saves it
        same(model, bare, rtol=0, atol=0)
        outer, plain = Outer(model), Outer(fresh(4))
        assert list(outer.state_dict()) == list(plain.state_dict())
        outer.load_state_dict(plain.state_dict())
        same(outer, plain, rtol=0, atol=0)
        with pytest.raises(RuntimeError, match=r"Missing key.*1\.weight"):
            model.load_state_dict({name: x for name, x in bare.state_dict().items() if name != "1.weight"})
        with pytest.raises(RuntimeError, match="Unexpected key"):
            model.load_state_dict({**bare.state_dict(), "extra": torch.zeros(1)})

    ranks(2, body)


def test_deep_copy_is_not_collective_and_trains_by_itself(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        average = copy.deepcopy(model) if world.rank == 0 else None
        train(model, sgd(model.parameters()), [rows(1, world.rank)])
        if average is not None:
            assert not torch.equal(average.module[0].weight, model.module[0].weight)
        twin = copy.deepcopy(model)
        same(twin, model, rtol=0, atol=0)
        for one in (model, twin):
            train(one, sgd(one.parameters()), [rows(2, world.rank)])
        same(twin, model, rtol=0, atol=0)

    ranks(2, body)


def test_two_models_in_one_process(ranks):
    """Their buckets are under way at the same time, their backward passes nested in one."""

    def body(world):
        first, second = ht.DDP(net(1), world=world), ht.DDP(settled(nn.Linear(3, 3), 2), "fp16", world=world)
        optimizer = sgd([*first.parameters(), *second.parameters()])
        for step in range(3):
            x, y = rows(step, world.rank)
            optimizer.zero_grad()
            nn.functional.mse_loss(second(first(x)), y).backward()
            optimizer.step()
        first.check_replicas(), second.check_replicas()
        first.close()
        x, y = rows(0, world.rank, 5)
        nn.functional.mse_loss(second(x[:, :3]), y).backward()

    ranks(3, body)


def test_wrapped_again(ranks):
    """The last wrapper wins; what holds a part of a distributed model is refused as long as that is in use."""

    def body(world):
        old = ht.DDP(net(), world=world)
        train(old, sgd(old.parameters()), [rows(0, world.rank)])
        model = ht.DDP(old.module, world=world)
        train(model, sgd(model.parameters()), [rows(1, world.rank)])
        model.check_replicas()
        with pytest.raises(InvalidArgument, match="its module was wrapped again"):
            old(rows(0, 0)[0])
        outer = nn.Sequential(nn.Linear(6, 6), model.module)
        with pytest.raises(InvalidArgument, match=r"'1\.0\.weight' belongs to another DistributedDataParallel already"):
            ht.DDP(outer, world=world)
        del model, old
        against = ht.DDP(outer, world=world)
        train(against, sgd(against.parameters()), [rows(1, world.rank)])
        against.check_replicas()

    ranks(2, body)


def test_parameters_that_come_later(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        with pytest.raises(InvalidArgument, match=r"'1\.weight' is not one of those"):
            model.module[1] = nn.Linear(40, 40)
            model(rows(0, 0)[0])
        model.module[1] = nn.Tanh()
        prune.l1_unstructured(model.module[0], "weight", 0.5)
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        prune.remove(model.module[0], "weight")
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        with pytest.raises(InvalidArgument, match=r"parameter '0\.\w+' is not one of those .* cure: .* assign=False"):
            model.load_state_dict(net().state_dict(), assign=True)
            model(rows(0, 0)[0])

    ranks(2, body)


def test_arguments_of_torchs_own_wrapper(ranks):
    def body(world):
        for name, says in (("device_ids", "world.device"), ("bucket_cap_mb", "bucket_bytes="), ("find_unused_parameters", "always found")):
            with pytest.raises(InvalidArgument, match=rf"{name} is an argument of torch's own .*{says}"):
                ht.DDP(net(), world=world, **{name: None})
        with pytest.raises(TypeError, match="unexpected keyword argument 'buckets'"):
            ht.DDP(net(), world=world, buckets=3)

    ranks(1, body)
    assert "Members" not in dir(ht) and "living" not in dir(ht) and "DDP" in dir(ht)


def test_attributes_of_the_module(ranks):
    def body(world):
        class Net(nn.Linear):
            def greeting(self):
                return "here"

        model = ht.DDP(Net(3, 3), world=world)
        assert model.greeting() == "here" and model.in_features == 3
        with pytest.raises(AttributeError, match="'Net' object has no attribute 'nothing'"):
            print(model.nothing)
        with pytest.raises(InvalidArgument, match=r"save model\.state_dict"):
            torch.save(model, io.BytesIO())

    ranks(1, body)


def test_running_statistics_are_rank_0s(ranks):
    """Without synchronised statistics each rank normalises by its own batch, as torch's own DDP does."""

    def body(world):
        model = ht.DDP(settled(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))), world=world)
        alone = copy.deepcopy(model.module)
        train(model, sgd(model.parameters()), [rows(0, world.rank)])
        alone(rows(0, 0)[0])
        torch.testing.assert_close(model.module[1].running_mean, alone[1].running_mean)
        kept = ht.DDP(copy.deepcopy(model.module), world=world, broadcast_buffers=False)
        train(kept, sgd(kept.parameters()), [rows(0, world.rank)])
        return model.module[1].running_var.tolist(), kept.module[1].running_var.tolist()

    results = ranks(3, body)
    if results is not None:
        assert results[0][0] == results[1][0] == results[2][0] and results[0][1] != results[1][1]


def test_models_that_differ(ranks):
    def body(world):
        layers = {"0": nn.Linear(6, 4), "1": nn.Linear(4, 3 if world.rank != 1 else 2)}
        if world.rank == 2:
            layers["extra"] = nn.Linear(1, 1, dtype=torch.float64)
        texts = []
        for module in (
            nn.ModuleDict(layers),
            nn.ModuleDict({"0": nn.Linear(2, 2).to(torch.float64 if world.rank == 2 else torch.float32)}),
        ):
            with pytest.raises(Mismatch) as caught:
                ht.DDP(module, world=world)
            texts.append(str(caught.value))
        assert "'1.weight' is float32[3, 4] on cpu on rank 0 and float32[2, 4] on cpu on rank 1" in texts[0]
        assert "'extra.weight' is on rank 2, but not on rank 0" in texts[0] and "build the same model" in texts[0]
        assert "'0.weight' is float32[2, 2] on cpu on rank 0 and float64[2, 2] on cpu on rank 2" in texts[1]
        ht.DDP(net(), world=world)  # the world is none the worse
        return texts

    results = ranks(3, body)
    assert results is None or results[0] == results[1] == results[2]


def test_models_that_differ_in_order(ranks):
    def body(world):
        names = ["a", "b"] if world.rank == 0 else ["b", "a"]
        module = nn.Module()
        for name in names:
            setattr(module, name, nn.Linear(2, 2))
        with pytest.raises(Mismatch, match=r"number 0 is 'a.weight' on rank 0 and 'b.weight' on rank 1"):
            ht.DDP(module, world=world)

    ranks(2, body)


def test_parameters_frozen_on_one_rank(ranks):
    def body(world):
        model = ht.DDP(net(), world=world)
        model.module[0].requires_grad_(world.rank != 1)
        with pytest.raises(Mismatch, match=r"which parameters are trained differ.*'0\.weight' is on rank 0, but not on rank 1"):
            squared(model, rows(0, world.rank)).backward()

    ranks(2, body)


def test_replicas_that_drift_are_named(ranks):
    def body(world):
        model = ht.DDP(net(), world=world, check_every=2)
        model.check_replicas()
        if world.rank == 1:
            with torch.no_grad():
                model.module[2].bias[7] += 1e-3
        texts = []
        with pytest.raises(Mismatch) as caught:
            model.check_replicas()
        texts.append(str(caught.value))
        squared(model, rows(0, world.rank)).backward()
        with pytest.raises(Mismatch) as caught:
            squared(model, rows(0, world.rank)).backward()
        assert str(caught.value) == texts[0]
        model.broadcast_parameters()
        model.check_replicas()
        assert "'2.bias' is the first of 1 parameters that differ; rank 1 of 3 hold" in texts[0]
        return texts

    results = ranks(3, body)
    assert results is None or results[0] == results[1] == results[2]


@pytest.mark.ways("mpi")
@pytest.mark.parametrize("sharded", [True, False])
def test_ranks_that_see_the_same_samples_are_told(ranks, sharded):
    def body(world):
        model = ht.DDP(net(), world=world)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            for _ in range(2):
                squared(model, rows(0, world.rank if sharded else 0)).backward()
        told = [str(w.message) for w in found if "same batch" in str(w.message)]
        assert len(told) == (not sharded and world.rank == 0)
        assert sharded or world.rank or "ranks 0 and 1 train on the same batch" in told[0]

    ranks(2, body)


def test_bad_arguments(ranks):
    def body(world):
        for wrong, text in ((3, "wraps a torch.nn.Module, got int"), (ht.DDP(net(), world=world), "distributed already")):
            with pytest.raises(InvalidArgument, match=text):
                ht.DDP(wrong, world=world)
        with pytest.raises(InvalidArgument, match="the model is on cpu and meta"):
            ht.DDP(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")), world=world)
        with pytest.raises(InvalidArgument, match="check_every must be 0"):
            ht.DDP(net(), world=world, check_every=-1)

    ranks(1, body)
