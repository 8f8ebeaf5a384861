"""On every rank: run jobs/gpt.py with one command line after the other in one process, which saves the start-up of all but the first.

    runs.py gpt.py commands.json results.json

`commands.json`: [[argument, …], …]. Instead of arguments, ["remove", path] or ["truncate", path] for rank 0 to do between two runs; and
arguments that begin with ["warn", rank, step] for a run in which that rank gets SIGUSR1 when it begins that step. `results.json`, written
by rank 0: what each run found, or {"exit": code} for one that ended so.
"""

import json
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path

import torch.distributed as dist

import hpcdl.torch as ht

script, commands, results = sys.argv[1:]
names = runpy.run_path(script, run_name="gpt")
trainer = names["Trainer"]
step_of = trainer.step
ht.init_process_group()
rank, found = dist.get_rank(), []


def warned(who, when):
    """A step of the trainer, with a signal before one of them."""

    def step(self, number, text):
        if number == int(when) and rank == int(who):
            os.kill(os.getpid(), signal.SIGUSR1)
        return step_of(self, number, text)

    return step


for command in json.loads(Path(commands).read_text()):
    if command[:1] in (["remove"], ["truncate"]):
        if rank == 0:
            shutil.rmtree(command[1]) if command[0] == "remove" else os.truncate(command[1], 100)
        dist.barrier()
        continue
    trainer.step = warned(*command[1:3]) if command[:1] == ["warn"] else step_of
    try:
        found.append(names["main"](command[3:] if command[:1] == ["warn"] else command))
    except SystemExit as end:
        found.append({"exit": end.code})
if rank == 0:
    Path(results).write_text(json.dumps(found))
dist.destroy_process_group()
