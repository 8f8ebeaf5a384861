"""The cluster itself: jobs run on its nodes, which are what they are to be, and nothing is left of it."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.outer


def test_nodes(cluster, tmp_path):
    job = cluster.submit(
        "#!/bin/bash\nsrun sh -c 'echo $(hostname) $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'\n", "-N4", "--gpus-per-node=4", cwd=tmp_path
    )
    job.wait("COMPLETED")
    assert sorted(job.log().splitlines()) == [f"h{i} h{i} 0,1,2,3" for i in range(1, 5)]


def test_nodes_of_one_host(together, tmp_path):
    job = together.submit("#!/bin/bash\nsrun sh -c 'echo $(hostname) $SLURMD_NODENAME'\n", "-N4", cwd=tmp_path)
    job.wait("COMPLETED")
    assert sorted(job.log().splitlines()) == [f"h1 node{i}" for i in range(1, 5)]
