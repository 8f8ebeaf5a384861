"""A whole training script without any framework: data, model, accuracy over all ranks, checkpoints, and going on from the last one.

hpcdl run -n 4 jobs/train_numpy.py --checkpoint run     # ended half way? The same line goes on, on any number of ranks.
"""

import argparse

import numpy as np

import hpcdl
from hpcdl.checkpoint import Checkpoint
from hpcdl.numpy import MLP, Shards, Trainer, evaluate

options = argparse.ArgumentParser(description="Train a small network to tell two spirals apart.")
options.add_argument("--checkpoint", default="run", help="folder (default: run)")
options.add_argument("--epochs", type=int, default=60)
options.add_argument("--batch-size", type=int, default=128, help="of all ranks together")
options.add_argument("--lr", type=float, default=0.01, help="learning rate")
options.add_argument("--codec", default="none", help="of gradients on the wire: none, fp16, int8, …")
args = options.parse_args()

world = hpcdl.init()
random = np.random.default_rng(0)  # the same data on every rank; each trains on its shard
angle, label = random.uniform(0, 10, 4000), random.integers(2, size=4000)
spiral = np.stack([np.cos(angle + np.pi * label), np.sin(angle + np.pi * label)], 1) * (angle / 10 + 0.1)[:, None]
points = (spiral + random.normal(0, 0.02, spiral.shape)).astype("float32")
x, y, x_test, y_test = points[:3200], label[:3200], points[3200:], label[3200:]

trainer = Trainer(world, MLP((2, 64, 64, 2)), "cross_entropy", f"adam:lr={args.lr}", codec=args.codec)
shards = Shards(len(x), args.batch_size, world.rank, world.size)

with Checkpoint(args.checkpoint, world, {"trainer": trainer}) as checkpoint, hpcdl.preemption(world, checkpoint) as stop:
    done = checkpoint.restore() or 0

    def after_step():
        global done
        done += 1
        if done % len(shards):  # after the last step of a pass comes its line, and then this
            stop(done)  # asked to end? Then all ranks save at the same step and leave, to be started again

    for epoch in range(done // len(shards), args.epochs):
        loss = trainer.train_epoch(x, y, shards, epoch, after_step, first=done % len(shards))
        accuracy = evaluate(trainer.model, trainer.loss, x_test, y_test, world).accuracy
        if world.rank == 0:
            print(f"epoch {epoch + 1}: loss {loss:.4f}, {accuracy:.2%} of {len(y_test)} test points right", flush=True)
        checkpoint.save(done)  # returns at once: a thread writes it
        stop(done)
