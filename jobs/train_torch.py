"""A whole training script: data, model, scheduler, accuracy over all ranks, checkpoints, and going on where a job was ended.

hpcdl run -n 4 jobs/train_torch.py --checkpoint run     # ended half way? The same line goes on, on any number of ranks.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import hpcdl.torch as ht
from hpcdl.checkpoint import Checkpoint, RandomStates, preemption

options = argparse.ArgumentParser(description="Train a small convolutional network on 1,797 real 8x8 images.")
options.add_argument("--checkpoint", default="run", help="folder (default: run)")
options.add_argument("--epochs", type=int, default=20)
options.add_argument("--batch-size", type=int, default=64, help="of all ranks together")
options.add_argument("--codec", default="fp16", help="of gradients on the wire: none, fp16, int8, …")
args = options.parse_args()

world = ht.init(seed=0)  # random numbers differ between ranks, and are the same in every run
images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
data = TensorDataset(images.float().reshape(-1, 1, 8, 8) / 16, labels)
train, test = torch.utils.data.random_split(data, [1500, 297], torch.Generator().manual_seed(0))
train, test = ht.loader(train, args.batch_size), ht.loader(test, 256, train=False)

layers = [torch.nn.Conv2d(1, 32, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Dropout(0.2), torch.nn.Linear(32 * 36, 10)]
model = ht.DistributedDataParallel(torch.nn.Sequential(*layers), codec=args.codec)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": train, "random": RandomStates()}

with Checkpoint(args.checkpoint, world, parts) as checkpoint, preemption(world, checkpoint) as stop:
    step = checkpoint.restore() or 0
    for epoch in range(train.epoch, args.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            step += 1
            if step % len(train):  # all of an epoch is done with its last step only below
                stop(step)
        scheduler.step()

        model.eval()
        with torch.no_grad():
            counts = [torch.stack([(model(x).argmax(1) == y).sum(), torch.tensor(len(y))]) for x, y in test]
        right, samples = ht.allreduce(torch.stack(counts).sum(0) if counts else torch.zeros(2, dtype=torch.int64), op="sum").tolist()
        if world.rank == 0:
            print(f"epoch {epoch + 1}: {right / samples:.2%} of {samples} test images right")
        checkpoint.save(step)  # last, since evaluation draws random numbers too; returns at once: a thread writes it
        stop(step)
