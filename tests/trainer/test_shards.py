"""Sharding: every sample once per epoch, the same global order for any number of ranks, uneven and empty shards."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcdl.errors import InvalidArgument
from hpcdl.numpy import Shards


def joined(samples, batch_size, size, seed, epoch):
    """The global batches, put together from what every rank gets."""
    ranks = [list(Shards(samples, batch_size, rank, size, seed).epoch(epoch)) for rank in range(size)]
    return [np.concatenate(shards) for shards in zip(*ranks, strict=True)]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_any_number_of_ranks_sees_the_same_global_batches(samples, batch_size, size, seed, epoch):
    batches = joined(samples, batch_size, size, seed, epoch)
    assert len(batches) == len(Shards(samples, batch_size))
    assert sorted(np.concatenate(batches)) == list(range(samples))
    for batch, alone in zip(batches, joined(samples, batch_size, 1, seed, epoch), strict=True):
        assert batch.tolist() == alone.tolist()
    assert all(len(batch) == batch_size for batch in batches[:-1])


@given(st.integers(1, 40), st.integers(1, 9))
def test_shards_are_even_to_one_sample(batch_size, size):
    lengths = [len(next(Shards(batch_size, batch_size, rank, size).epoch(0))) for rank in range(size)]
    assert sum(lengths) == batch_size and max(lengths) - min(lengths) <= 1


def test_more_ranks_than_samples():
    lengths = [[len(shard) for shard in Shards(5, 3, rank, 4).epoch(0)] for rank in range(4)]
    assert lengths == [[1, 1], [1, 1], [1, 0], [0, 0]]


def test_epochs_and_seeds_are_shuffled_differently_and_repeatably():
    def order(seed, epoch):
        return np.concatenate(list(Shards(100, 10, seed=seed).epoch(epoch))).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("bad", [{"samples": 0}, {"batch_size": 0}, {"size": 0}, {"rank": 2, "size": 2}, {"rank": -1}])
def test_bad_counts_are_refused(bad):
    with pytest.raises(InvalidArgument, match=next(iter(bad))):
        Shards(**{"samples": 5, "batch_size": 2, **bad})
