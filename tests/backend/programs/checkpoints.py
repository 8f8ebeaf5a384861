"""Sharded states as a part of checkpoints: saved by four ranks, restored on them, on two, on another mesh; damaged, foreign, incomplete."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import side
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import hpcdl.torch as ht
from hpcdl.checkpoint import Checkpoint
from hpcdl.checkpoint.folder import Folder
from hpcdl.checkpoint.manifest import Entry, Manifest, digest_of
from hpcdl.errors import DataError, InvalidArgument


class Net(nn.Module):
    def __init__(self, width=10):
        super().__init__()
        self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def fsdp(ranks=None, width=10):
    """A model, its optimizer, and the process group of the ranks."""
    torch.manual_seed(1)
    group = dist.new_group(ranks) if ranks else dist.group.WORLD
    net = Net(width)
    if ranks is None or dist.get_rank() in ranks:
        fully_shard(net, mesh=DeviceMesh.from_group(group, "cpu"))
    return net, torch.optim.AdamW(net.parameters(), lr=0.01), group


def train(net, optimizer, steps=range(3)):
    for step in steps:
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        net(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return weights(net)


def weights(net):
    return {name: (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone() for name, x in net.state_dict().items()}


@contextmanager
def folder():
    """A new one, the same on all ranks."""
    made = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(made)
    yield Path(made[0])
    dist.barrier()
    shutil.rmtree(made[0], ignore_errors=True)


def saved(path, parts, *steps, world=None, **options):
    """Saved at these steps, and written."""
    with Checkpoint(path, world or ht.default_world(), parts, **options) as checkpoint:
        for step in steps:
            checkpoint.save(step)
            checkpoint.wait()
        return checkpoint.saved


def restored(path, part, world=None):
    with Checkpoint(path, world or ht.default_world(), {"model": part}) as checkpoint:
        return checkpoint.restore()


def equal(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def case_checkpoint_of_fully_sharded(s):
    """Training goes on while it is written; then from there: bitwise, on two ranks, cut another way, and whole in one piece."""
    with folder() as path:
        net, optimizer, _ = fsdp()
        train(net, optimizer)
        with Checkpoint(path, ht.default_world(), {"model": ht.sharded(net, optimizer)}) as checkpoint:
            checkpoint.save(3)
            whole = train(net, optimizer, range(3, 6))
        files = sorted(os.listdir(path / "step-000000000003" / "model.files"))
        assert files == [".metadata", *(f"__{rank}_0.distcp" for rank in range(4)), "values.safetensors"], files
        net, optimizer, _ = fsdp()
        optimizer.param_groups[0]["lr"] = 1.0
        assert restored(path, ht.sharded(net, optimizer)) == 3
        assert optimizer.param_groups[0]["lr"] == 0.01 and optimizer.param_groups[0]["betas"] == (0.9, 0.999)
        equal(train(net, optimizer, range(3, 6)), whole)

        net, optimizer, pair = fsdp([0, 1])
        if s.rank < 2:
            world = ht.default_world().group([0, 1])
            assert restored(path, ht.sharded(net, optimizer, process_group=pair), world) == 3
            near(train(net, optimizer, range(3, 6)), whole)
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
        net = Net()
        parallelize_module(net, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        fully_shard(net, mesh=mesh["data"])
        optimizer = torch.optim.AdamW(net.parameters(), lr=1.0)
        assert restored(path, ht.sharded(net, optimizer)) == 3
        near(train(net, optimizer, range(3, 6)), whole)
        net = Net()
        optimizer = ht.optimizer(torch.optim.AdamW, net.parameters(), lr=1.0, shard=True)
        assert restored(path, ht.sharded(net, optimizer)) == 3
        near(train(net, optimizer, range(3, 6)), whole)


def case_shared_out_optimizer(s):
    """ZeRO-1 over the plain door, with what its codec has dropped; on two ranks; and as the plain optimizer."""

    def made(world=None):
        torch.manual_seed(1)
        net = ht.DistributedDataParallel(Net(), "topk:ratio=0.1", world=world)
        return net, ht.optimizer(torch.optim.AdamW, net.parameters(), lr=0.01, shard=True, world=world)

    with folder() as path:
        net, optimizer = made()
        train(net, optimizer)
        saved(path, {"model": ht.sharded(net, optimizer)}, 3)
        whole = train(net, optimizer, range(3, 6))
        net, optimizer = made()
        optimizer.param_groups[0]["lr"] = 1.0
        assert restored(path, ht.sharded(net, optimizer)) == 3
        equal(train(net, optimizer, range(3, 6)), whole)
        plain = Net()
        optimizer = torch.optim.AdamW(plain.parameters(), lr=1.0)
        other = ht.sharded(plain, optimizer)
        other.rank_state_dict, other.load_rank_state_dict = dict, lambda state: None
        assert restored(path, other) == 3 and optimizer.param_groups[0]["lr"] == 0.01
        assert all(optimizer.state[p]["step"] == 3 for p in plain.parameters())
        pair = dist.new_group([0, 1])
        if s.rank < 2:
            world = ht.default_world().group([0, 1])
            net, optimizer = made(world)
            assert restored(path, ht.sharded(net, optimizer, process_group=pair), world) == 3
            equal(weights(net.module), weights(plain))
            train(net, optimizer)
            assert len(optimizer.owned()) < 4 and all(optimizer.state[p]["step"] == 6 for p in optimizer.owned())


def case_comm_hook(s):
    """What the codec of torch's own DDP has dropped: goes on as it would have; by two ranks it is shared out."""

    def made():
        torch.manual_seed(1)
        net, hook = nn.parallel.DistributedDataParallel(Net()), ht.comm_hook("topk:ratio=0.1")
        net.register_comm_hook(None, hook)
        return net, torch.optim.AdamW(net.parameters(), lr=0.01), hook

    with folder() as path:
        net, optimizer, hook = made()
        train(net, optimizer)
        saved(path, {"model": net, "optimizer": optimizer, "hook": hook}, 3)
        dropped = [x.clone() for x in hook.residuals()]
        assert any(x.any() for x in dropped)
        whole = train(net, optimizer, range(3, 6))
        net, optimizer, hook = made()
        with Checkpoint(path, ht.default_world(), {"model": net, "optimizer": optimizer, "hook": hook}) as checkpoint:
            assert checkpoint.restore() == 3
        equal(train(net, optimizer, range(3, 6)), whole)
        states = [None] * s.size
        dist.all_gather_object(
            states, {"residuals": dict(enumerate(x.flatten().numpy() for x in dropped)), "codec": "", "kept": {}, "steps": {}}
        )
        hook.load_all_rank_state_dicts(states)
        for i, x in enumerate(dropped):
            dist.all_reduce(x)
            near(s.size * torch.as_tensor(hook.rank_state_dict()["residuals"][i]), x.flatten())


class Stage:
    """A state of which each rank has another part, and all have one."""

    def __init__(self, rank):
        self.state = {f"{rank}.x": torch.full((3,), float(rank)), "all": torch.ones(2), f"{rank}.note": (1, [rank])}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def case_things(s):
    with folder() as path:
        saved(path, {"model": ht.sharded(Stage(s.rank))}, 5, background=False)
        stage = Stage(s.rank)
        stage.state["all"].zero_()
        stage.state[f"{s.rank}.x"].zero_()
        stage.state[f"{s.rank}.note"] = None
        assert restored(path, ht.sharded(stage)) == 5
        equal(stage.state, Stage(s.rank).state)


def case_damage(s):
    """Whatever file it is, the one before is restored, and rank 0 names both."""
    with folder() as path:
        net, optimizer, _ = fsdp()
        part = ht.sharded(net, optimizer)
        saved(path, {"model": part}, 1, 2, 3, 4, keep=4)

        def flip(file):
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)

        damages = {4: ("__2_0.distcp", flip), 3: (".metadata", flip), 2: ("__1_0.distcp", lambda file: os.truncate(file, 100))}
        if s.rank == 0:
            for step, (name, damage) in damages.items():
                damage(path / f"step-{step:012d}" / "model.files" / name)
        dist.barrier()
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            assert restored(path, part) == 1
        texts = [str(each.message) for each in told if "passed over" in str(each.message)]
        assert len(texts) == (s.rank == 0), told
        for text in texts:
            assert all(f"model.files/{name}" in text and f"step-{step:012d} is damaged" in text for step, (name, _) in damages.items()), (
                text
            )
            assert text.endswith(f"passed over for {path / 'step-000000000001'}")


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


def case_code_in_the_metadata(s):
    """Somebody has made it all anew, checksums included: what it names is not run."""
    with folder() as path:
        net, optimizer, _ = fsdp()
        part = ht.sharded(net, optimizer)
        saved(path, {"model": part}, 1)
        sly = b"\x80\x04\x8c\x29torch.distributed.checkpoint.metadata\x8c\x09os.system\x93\x8c\x05false\x85R."
        sly = sly.replace(b"\x8c\x29", bytes([0x8C, len("torch.distributed.checkpoint.metadata")]))
        for text, named in ((pickle.dumps(Evil()), "system"), (sly, "os.system")):
            if s.rank == 0:
                there, whole = path / "step-000000000001", Folder(path).manifest(1)
                (there / "model.files" / ".metadata").write_bytes(text)
                kept = [entry for entry in whole.files if not entry.name.endswith(".metadata")]
                entries = (*kept, Entry("model.files/.metadata", len(text), digest_of(text)))
                (there / "manifest.json").write_text(Manifest(1, s.size, entries).to_json())
            dist.barrier()
            told = error(DataError, lambda: restored(path, part))
            assert "its metadata name" in told and named in told and "which torch does not write there" in told, told


def error(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


def case_other_models(s):
    """Names and shapes that differ are listed, the same on all ranks, before anything has changed."""
    with folder() as path:
        net, optimizer, _ = fsdp()
        saved(path, {"model": ht.sharded(net, optimizer)}, 1)
        net, optimizer, _ = fsdp(width=5)
        before = weights(net)
        told = error(DataError, lambda: restored(path, ht.sharded(net, optimizer)))
        assert "model.up.weight is torch.float32 of shape [5, 8] here, and torch.float32 of shape [10, 8] was saved" in told, told
        equal(weights(net), before)
        net = fsdp()[0]
        told = error(DataError, lambda: restored(path, ht.sharded(net, torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9))))
        assert "optimizer.state.up.weight.momentum_buffer was not saved" in told, told
        told = error(DataError, lambda: restored(path, ht.sharded(net)))
        assert "exp_avg was saved, and is not here" in told, told
        texts = [None] * s.size
        dist.all_gather_object(texts, told)
        assert len(set(texts)) == 1
        told = error(DataError, lambda: restored(path, {"x": 1}))
        assert "or are of another kind" in told


def case_a_full_disk(s):
    """Of one rank: no rank has the checkpoint, training goes on, and a later one succeeds."""
    with folder() as path, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        net, optimizer, _ = fsdp()
        part = ht.sharded(net, optimizer)
        assert saved(path, {"model": part}, 1) == 1
        limit, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if s.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        try:
            assert saved(path, {"model": part}, 2) is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, ignored)
        texts = [str(each.message) for each in told if "could not be written" in str(each.message)]
        assert len(texts) == (s.rank == 0), [str(each.message) for each in told]
        assert s.rank or ("rank 1:" in texts[0] and sorted(os.listdir(path)) == ["step-000000000001"]), texts
        assert saved(path, {"model": part}, 3) == 3


def case_refused(s):
    with folder() as path:
        net, optimizer, _ = fsdp()
        for thing, kind, told in (
            (lambda: ht.sharded(object()), InvalidArgument, "sharded() takes a torch.nn.Module and its optimizers"),
            (lambda: ht.sharded(Stage(0), optimizer), InvalidArgument, "got Stage, AdamW"),
            (lambda: saved(path, {"model": net}, 1), InvalidArgument, "give it hpcdl.torch.sharded(model, optimizer)"),
            (
                lambda: ht.sharded(nn.Linear(2, 2), ht.optimizer(torch.optim.SGD, Net().parameters(), lr=1.0, shard=True)),
                InvalidArgument,
                "the module lacks 4 of the parameters",
            ),
        ):
            assert told in error(kind, thing)


if __name__ == "__main__":
    side.run(globals())
