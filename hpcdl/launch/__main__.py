"""What the launcher starts as every rank: ``python …/hpcdl/launch script train.py args``.

Started by the folder's path, not with ``-m``: so every rank runs the very package that `hpcdl run` runs, installed or not, and the
current folder is not searched before the user's script says so.
"""

import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]
    root = os.path.dirname(os.path.dirname(here))
    sys.path.insert(0, root)
    from hpcdl.launch.rank import main

    sys.path.remove(root)
    main(sys.argv[1:])
