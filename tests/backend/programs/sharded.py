"""FSDP2, DTensor and tensor parallelism, meshes, pipelines and checkpoints over this backend and over gloo, with equal results."""

from __future__ import annotations

import contextlib
import tempfile

import side
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def model(blocks=3):
    torch.manual_seed(7)
    return nn.Sequential(*[Block() for _ in range(blocks)])


def batch(step, number, size=4):
    return torch.randn(size, 16, generator=torch.Generator().manual_seed(10 * step + number))


def mesh_of(group, s, shape=None, names=None):
    """The mesh of all ranks whose groups are of the same backend as `group`."""
    if shape is None:
        return DeviceMesh.from_group(group, "cpu")
    if group is s.ours:
        return init_device_mesh("cpu", shape, mesh_dim_names=names)
    return init_device_mesh("cpu", shape, mesh_dim_names=names, backend_override=dict.fromkeys(names, "gloo"))


def full(net):
    return {
        name: (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone() for name, value in net.state_dict().items()
    }


def steps(net, s, optimizer=torch.optim.Adam, forward=lambda net, x: net(x), number=None):
    optimizer = optimizer(net.parameters(), lr=0.01)
    for step in range(3):
        forward(net, batch(step, s.rank if number is None else number)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def alone(ranks, size):
    """The same training on one process, on the joined batch."""
    net = model()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(3):
        net(torch.cat([batch(step, r, size) for r in range(ranks)])).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def case_fully_sharded(s):
    def body(group, **options):
        net, mesh = model(), mesh_of(group, s)
        for block in net:
            fully_shard(block, mesh=mesh, **options)
        fully_shard(net, mesh=mesh, **options)
        steps(net, s)
        return full(net)

    got = s.same(body, exact=False)
    torch.testing.assert_close(got, alone(s.size, 4), rtol=1e-4, atol=1e-5)
    s.same(lambda group: body(group, reshard_after_forward=False), exact=False)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    s.same(lambda group: body(group, mp_policy=half), exact=False, rtol=0.02, atol=0.02)


def case_tensor_parallel(s):
    def body(group):
        net, mesh = model(), mesh_of(group, s)
        for block in net:
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
        steps(net, s, number=0)
        return full(net)

    got = s.same(body, exact=False)
    torch.testing.assert_close(got, alone(1, 4), rtol=1e-4, atol=1e-5)


def case_dtensor(s):
    def body(group):
        mesh = mesh_of(group, s)
        x = torch.arange(72.0).reshape(8, 9)
        rows = distribute_tensor(x, mesh, [Shard(0)])
        columns = rows.redistribute(mesh, [Shard(1)])  # all-to-all
        product = rows @ distribute_tensor(x.t().contiguous(), mesh, [Replicate()])
        return rows.full_tensor(), columns.full_tensor(), product.full_tensor(), columns.sum(1).full_tensor(), columns.to_local()

    s.same(body)


def case_two_dimensions(s):
    def body(group):
        mesh = mesh_of(group, s, (2, 2), ("data", "tensor"))
        net = model()
        for block in net:
            parallelize_module(block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
            fully_shard(block, mesh=mesh["data"])
        fully_shard(net, mesh=mesh["data"])
        steps(net, s, number=s.rank // 2)
        return full(net)

    got = s.same(body, exact=False)
    torch.testing.assert_close(got, alone(2, 4), rtol=1e-4, atol=1e-5)


def case_hybrid(s):
    def body(group):
        mesh = mesh_of(group, s, (2, 2), ("replicate", "shard"))
        net = model()
        fully_shard(net, mesh=mesh)
        steps(net, s)
        return full(net)

    got = s.same(body, exact=False)
    torch.testing.assert_close(got, alone(s.size, 4), rtol=1e-4, atol=1e-5)


def case_three_dimensions(s):
    def body(group):
        mesh = mesh_of(group, s, (2, 1, 2), ("pipe", "data", "tensor"))
        results = []
        for name in mesh.mesh_dim_names:
            x = torch.full((3,), float(s.rank))
            dist.all_reduce(x, group=mesh.get_group(name))
            results.append(x)
        inner = mesh["data", "tensor"]
        flat = inner._flatten("inner") if group is s.ours else None
        if flat is not None:
            x = torch.full((3,), float(s.rank))
            dist.all_reduce(x, group=flat.get_group())
            assert (x == (1 if s.rank < 2 else 5)).all()
        return results, torch.tensor(mesh.get_coordinate())

    s.same(body)


def pipeline(s, group, schedule, stages_per_rank=1):
    total = s.size * stages_per_rank
    torch.manual_seed(3)
    layers = [Block() for _ in range(total)]
    mine = [s.rank + s.size * k for k in range(stages_per_rank)]
    stages = [PipelineStage(layers[i], i, total, torch.device("cpu"), group=group) for i in mine]
    losses = []
    run = schedule(
        stages[0] if stages_per_rank == 1 else stages, n_microbatches=8, loss_fn=lambda out, target: (out - target).square().mean()
    )
    x, target = batch(0, 0, 16), batch(1, 0, 16)
    for _ in range(2):
        for i in mine:
            layers[i].zero_grad()
        if s.rank == 0 and s.size > 1:
            run.step(x)
        elif s.rank == s.size - 1:
            run.step(target=target, losses=losses)
        else:
            run.step()
    gradients = {f"{i}.{name}": p.grad.clone() for i in mine for name, p in layers[i].named_parameters()}
    torch.manual_seed(3)
    whole = [Block() for _ in range(total)]
    (nn.Sequential(*whole)(x) - target).square().mean().backward()
    right = {f"{i}.{name}": p.grad for i in mine for name, p in whole[i].named_parameters()}
    torch.testing.assert_close(gradients, right, rtol=1e-4, atol=1e-5)
    return gradients


def case_pipelines(s):
    s.same(lambda group: pipeline(s, group, ScheduleGPipe), exact=False)
    s.same(lambda group: pipeline(s, group, Schedule1F1B), exact=False)
    s.same(lambda group: pipeline(s, group, ScheduleInterleaved1F1B, 2), exact=False)


def case_checkpoint(s):
    """Saved by four ranks, read by two, with the optimizer's state."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def save(folder, group):
        net = model()
        fully_shard(net, mesh=mesh_of(group, s))
        optimizer = steps(net, s)
        weights, state = get_state_dict(net, optimizer)
        dcp.save({"model": weights, "optimizer": state}, checkpoint_id=folder, process_group=group)
        return full(net)

    for kind in ("ours", "gloo"):
        group = getattr(s, kind)
        folder = [tempfile.mkdtemp() if s.rank == 0 else None]
        dist.broadcast_object_list(folder)
        saved = save(folder[0], group)
        pair = dist.new_group([0, 1], backend="hpcdl" if kind == "ours" else "gloo")
        if s.rank < 2:
            net = nn.Sequential(*[Block() for _ in range(3)])
            fully_shard(net, mesh=DeviceMesh.from_group(pair, "cpu"))
            optimizer = torch.optim.Adam(net.parameters(), lr=0.5)
            weights, state = get_state_dict(net, optimizer)
            dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder[0], process_group=pair)
            set_state_dict(net, optimizer, model_state_dict=weights, optim_state_dict=state)
            torch.testing.assert_close(full(net), saved, rtol=0, atol=0)
            assert optimizer.param_groups[0]["lr"] == 0.01
        dist.barrier()
        with contextlib.suppress(FileNotFoundError):
            if s.rank == 0:
                __import__("shutil").rmtree(folder[0])
    if s.rank == 0:
        future = dcp.async_save({"x": torch.ones(3)}, checkpoint_id=tempfile.mkdtemp(), no_dist=True)
        future.result()


if __name__ == "__main__":
    side.run(globals())
