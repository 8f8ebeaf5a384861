"""On every rank: run jobs/gpt.py with one command line after the other in one process, which saves the start-up of all but the first.

    runs.py gpt.py commands.json results.json

`commands.json`: [[argument, …], …]. `results.json`, written by rank 0: what each run found, or {"exit": code} for one that was refused.
"""

import json
import runpy
import sys
from pathlib import Path

import torch.distributed as dist

script, commands, results = sys.argv[1:]
main = runpy.run_path(script, run_name="gpt")["main"]
found = []
for command in json.loads(Path(commands).read_text()):
    try:
        found.append(main(command))
    except SystemExit as end:
        found.append({"exit": end.code})
if dist.get_rank() == 0:
    Path(results).write_text(json.dumps(found))
dist.destroy_process_group()
