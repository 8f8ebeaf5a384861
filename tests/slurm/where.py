"""One line for each rank: what the launcher has told it, and what the world says. Run by test_places."""

import json
import os
import socket
import sys

from hpcdl.launch.env import place

here = place()
told = None if here is None else [here.launcher, here.rank, here.size, here.local_rank, here.local_size]
assert here is None or here.node == socket.gethostname()
try:
    import hpcdl

    world = hpcdl.init()
except hpcdl.errors.LaunchError as error:
    os.write(1, f"\n@{json.dumps({'way': sys.argv[1], 'host': socket.gethostname(), 'told': told, 'error': str(error)})}\n".encode())
    raise
seen = [world.rank, world.size, world.local_rank, world.local_size, world.node, world.nodes]
os.write(1, f"\n@{json.dumps({'way': sys.argv[1], 'host': socket.gethostname(), 'told': told, 'seen': seen})}\n".encode())
