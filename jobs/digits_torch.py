"""The short version: a small network on 1,797 real 8x8 images, data parallel.   hpcdl run -n 4 jobs/digits_torch.py

Ended half way, the same line goes on where it ended.
"""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

import hpcdl
import hpcdl.torch as ht

world = ht.init(seed=0)
images, labels = (torch.from_numpy(x) for x in load_digits(return_X_y=True))
data = TensorDataset(images.float() / 16, labels)
train, test = torch.utils.data.random_split(data, [1500, 297], torch.Generator().manual_seed(0))
model = ht.DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)), codec="fp16")
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
loader = ht.loader(train, batch_size=64)  # 64 images in each step, whatever the number of ranks

checkpoint = hpcdl.checkpoint.Checkpoint("digits_torch_backup", world, {"model": model, "optimizer": optimizer, "loader": loader})
with checkpoint, hpcdl.preemption(world, checkpoint) as stop:
    step = checkpoint.restore() or 0
    while loader.epoch < 20:
        for x, y in loader:  # each time the next epoch, in another order
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            stop(step := step + 1)  # asked to end? Then all ranks save here, and leave
    checkpoint.remove()
if world.rank == 0:
    x, y = data[test.indices]
    print(f"{world.size} ranks: {(model(x).argmax(1) == y).float().mean():.2%} of {len(y)} test images right")
