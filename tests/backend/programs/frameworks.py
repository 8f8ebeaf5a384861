"""Lightning's and Accelerate's own training loops over this backend, and the same over gloo."""

from __future__ import annotations

import importlib.util
import logging
import sys
import tempfile

import side
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning").setLevel(logging.ERROR)


def data():
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(1))
    return TensorDataset(x, x.sum(1, keepdim=True))


def alone():
    """One process on the joined batches, in the order in which DistributedSampler deals them out."""
    torch.manual_seed(5)
    net = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    x, y = data().tensors
    for _ in range(2):
        for begin in range(0, 64, 16):
            loss = nn.functional.mse_loss(net(x[begin : begin + 16]), y[begin : begin + 16])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def case_accelerate(s):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == s.size and accelerator.process_index == s.rank
    torch.manual_seed(5)
    net = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loader = DataLoader(data(), batch_size=4)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    assert isinstance(net, nn.parallel.DistributedDataParallel) and dist.get_backend(net.process_group) == "hpcdl"
    for _ in range(2):
        for x, y in loader:
            loss = nn.functional.mse_loss(net(x), y)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
    torch.testing.assert_close([p.detach() for p in net.module.parameters()], alone(), rtol=1e-4, atol=1e-5)
    gathered = accelerator.gather(torch.full((2,), float(s.rank)))
    assert gathered.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert accelerator.reduce(torch.ones(3) * s.rank, "mean")[0] == 1.5
    padded = accelerator.pad_across_processes(torch.ones(s.rank + 1))
    assert padded.shape == (4,)
    accelerator.wait_for_everyone()


def case_lightning(s):
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.net = nn.Linear(10, 1)

        def training_step(self, batch, number):
            loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
            self.log("loss", loss, sync_dist=True, on_epoch=True)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    model = Model()
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=s.size,
        strategy=DDPStrategy(process_group_backend="hpcdl"),
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tempfile.gettempdir(),
        use_distributed_sampler=False,
    )
    assert trainer.world_size == s.size and trainer.global_rank == s.rank
    sampler = torch.utils.data.DistributedSampler(data(), s.size, s.rank, shuffle=False)
    trainer.fit(model, DataLoader(data(), batch_size=4, sampler=sampler))
    torch.testing.assert_close([p.detach() for p in model.net.parameters()], alone(), rtol=1e-4, atol=1e-5)
    assert 0 < trainer.callback_metrics["loss"] < 20


if importlib.util.find_spec("lightning") is None:
    del case_lightning
if importlib.util.find_spec("accelerate") is None:
    del case_accelerate
sys.stdout.flush()
side.run(globals())
