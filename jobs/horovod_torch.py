"""A script of Horovod's, as its users have written it: nothing in it knows of this package.

hpcdl run --as-horovod -np 4 jobs/horovod_torch.py
"""

import argparse
import os

import horovod.torch as hvd
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torch.utils.data.distributed import DistributedSampler

parser = argparse.ArgumentParser(description="Horovod: digits with PyTorch")
parser.add_argument("--batch-size", type=int, default=32, help="images of each rank in a step")
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--lr", type=float, default=0.03)
parser.add_argument("--momentum", type=float, default=0.9)
parser.add_argument("--no-cuda", action="store_true")
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--fp16-allreduce", action="store_true", help="gradients travel as float16")
parser.add_argument("--use-adasum", action="store_true", help="combine steps by Adasum")
parser.add_argument("--gradient-predivide-factor", type=float, default=1.0)
parser.add_argument("--checkpoint", default="", help="a file: saved after each epoch, and resumed from")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, kernel_size=3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.fc1 = nn.Linear(8 * 16, 48)
        self.fc2 = nn.Linear(48, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.norm(self.conv(x)), 2))
        x = F.relu(self.fc1(x.flatten(1)))
        return F.log_softmax(self.fc2(x), dim=1)


def average(value, name):
    return hvd.allreduce(torch.tensor(value), name=name).item()


def train(epoch):
    model.train()
    train_sampler.set_epoch(epoch)
    for batch, (images, labels) in enumerate(train_loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(images.to(device)), labels.to(device))
        loss.backward()
        optimizer.step()
        if batch % 10 == 0 and hvd.rank() == 0:
            print(f"Train epoch {epoch} [{batch * len(images)}/{len(train_sampler)}]\tloss: {loss.item():.4f}")


def evaluate():
    model.eval()
    loss = right = 0.0
    with torch.no_grad():
        for images, labels in test_loader:
            output, target = model(images.to(device)), labels.to(device)
            loss += F.nll_loss(output, target, reduction="sum").item()
            right += (output.argmax(1) == target).sum().item()
    loss, accuracy = average(loss / len(test_sampler), "avg_loss"), average(right / len(test_sampler), "avg_accuracy")
    if hvd.rank() == 0:
        print(f"Test set: average loss: {loss:.4f}, accuracy: {100 * accuracy:.2f}%")


args = parser.parse_args()
hvd.init()
torch.manual_seed(args.seed)
cuda = torch.cuda.is_available() and not args.no_cuda
device = torch.device("cuda", hvd.local_rank()) if cuda else torch.device("cpu")
torch.set_num_threads(1)

digits = load_digits()
data = TensorDataset(torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(digits.target))
train_set, test_set = random_split(data, [1500, 297], torch.Generator().manual_seed(0))
train_sampler = DistributedSampler(train_set, num_replicas=hvd.size(), rank=hvd.rank())
train_loader = DataLoader(train_set, batch_size=args.batch_size, sampler=train_sampler)
test_sampler = DistributedSampler(test_set, num_replicas=hvd.size(), rank=hvd.rank())
test_loader = DataLoader(test_set, batch_size=64, sampler=test_sampler)

model = Net().to(device)
lr_scaler = 1 if args.use_adasum else hvd.size()  # Adasum needs no scaled rate
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr * lr_scaler, momentum=args.momentum)

first_epoch = 1
if args.checkpoint and hvd.rank() == 0 and os.path.exists(args.checkpoint):
    saved = torch.load(args.checkpoint)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first_epoch = saved["epoch"] + 1
first_epoch = hvd.broadcast(torch.tensor(first_epoch), root_rank=0, name="first_epoch").item()
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
hvd.broadcast_optimizer_state(optimizer, root_rank=0)

optimizer = hvd.DistributedOptimizer(
    optimizer,
    named_parameters=model.named_parameters(),
    compression=hvd.Compression.fp16 if args.fp16_allreduce else hvd.Compression.none,
    op=hvd.Adasum if args.use_adasum else hvd.Average,
    gradient_predivide_factor=args.gradient_predivide_factor,
)
for epoch in range(first_epoch, args.epochs + 1):
    train(epoch)
    evaluate()
    if args.checkpoint and hvd.rank() == 0:
        torch.save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, args.checkpoint)

weights = torch.cat([p.detach().flatten() for p in model.parameters()])
apart = hvd.allreduce(weights, op=hvd.Max, name="most") - hvd.allreduce(weights, op=hvd.Min, name="least")
if hvd.rank() == 0:
    print(f"{hvd.size()} ranks: their weights differ by {apart.max().item():g}")
