"""Each rank's own batches: some have more than others, some none; the loop is the same on all, and so are the replicas."""

import pytest
from harness.parts import framework

from hpcdl.errors import InvalidArgument

torch = framework("torch")

from hpcdl.torch import loader, samples  # noqa: E402


def batches_of(world, counts, size=2):
    """Batch i of rank r is filled with 100 r + i."""
    return [torch.full((size, 3), 100.0 * world.rank + i) for i in range(counts[world.rank])]


@pytest.mark.parametrize("counts", [(3, 1), (0, 2, 0), (2, 0, 1, 3), (1, 1), (0, 0)])
def test_everybody_goes_on_until_all_are_out(ranks, counts):
    def body(world):
        batches = loader(batches_of(world, counts), world=world)
        assert len(batches) == max(counts)
        for epoch in range(2):
            assert batches.epoch == epoch
            seen = []
            for number, batch in enumerate(batches):
                mine = number < counts[world.rank]
                assert samples.current(world).mine == batches.samples == (2 if mine else 0)
                assert samples.current(world).total == 2 * sum(number < count for count in counts)
                world.barrier()  # what a training step would do
                if mine:
                    assert batch[0, 0] == 100 * world.rank + number
                elif counts[world.rank]:
                    assert batch[0, 0] == 100 * world.rank + counts[world.rank] - 1
                seen.append(batch.shape)
            assert seen == [(2, 3)] * max(counts)
            assert samples.current(world).mine is None

    ranks(len(counts), body)


def test_a_rank_without_any_batch_gets_all_of_another_ones(ranks):
    sent = {
        "x": (torch.ones(2, dtype=torch.bfloat16), [torch.zeros(0, dtype=torch.bool)]),
        3: {"id": "a", "none": None, "half": 0.5, "flag": True},
        "view": torch.arange(6).reshape(2, 3).T,
    }

    def body(world):
        [batch] = list(loader([sent] if world.rank == 1 else [], world=world))
        assert list(batch) == ["x", 3, "view"] and batch[3] == sent[3]
        assert type(batch["x"]) is tuple and batch["x"][0].equal(sent["x"][0]) and batch["x"][1][0].dtype == torch.bool
        assert batch["view"].equal(sent["view"])
        with pytest.raises(InvalidArgument, match=r"holds a set, not just tensors.*give every rank at least one batch"):
            next(iter(loader([[torch.ones(1), {1}]] if world.rank == 1 else [], world=world)))

    ranks(3, body)


def test_counting(ranks):
    def body(world):
        odd = [{"names": ["a"], "x": torch.ones(5, 2)}, {"names": ["a"], "x": torch.ones(3, 2)}]
        batches = loader(odd, world=world)
        assert [batches.samples for _ in batches] == [5, 3]
        batches = loader(odd, world=world, samples=lambda batch: 7 * len(batch["names"]))
        assert [batches.samples for _ in batches] == [7, 7]
        with pytest.raises(InvalidArgument, match=r"no tensor.*samples="):
            list(loader([["text"]], world=world))

    ranks(2, body)


class Stream(torch.utils.data.IterableDataset):
    """Counts from 100 rank on; set_epoch moves it."""

    def __init__(self, world, length):
        self.start, self.length, self.epoch = 100 * world.rank, length, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        return (torch.tensor(self.start + 1000 * self.epoch + i) for i in range(self.length))


def test_a_stream_of_each_rank(ranks):
    """In batches of this rank's part of 5; the next epoch is told to it; resumed by skipping."""

    def body(world):
        batches = loader(Stream(world, 4), 5, world=world)
        with pytest.raises(TypeError):
            len(batches)
        first, state = [], None
        for batch in batches:
            first.append(batch.tolist()[: int(batches.samples)])
            state = state or batches.state_dict()
        again = loader(Stream(world, 4), 5, world=world)
        again.load_state_dict(state)
        assert [batch.tolist()[: int(again.samples)] for batch in again] == first[1:]
        second = [batch.tolist()[0] for batch in again]
        assert second[0] == 1000 + 100 * world.rank and again.epoch == 2
        return first

    found = ranks(2, body)
    assert found in (None, [[[0, 1, 2], [3]], [[100, 101], [102, 103]]])


def test_evaluation_does_not_communicate(ranks):
    def body(world):
        batches = loader(batches_of(world, (3, 1)), world=world, train=False)
        sent = world.bytes_sent
        assert len(list(batches)) == len(batches) == (3, 1)[world.rank]
        assert world.bytes_sent == sent

    ranks(2, body)


def test_errors(ranks):
    def body(world):
        for wrong, said in [
            ({"dataset": [], "shuffle": True}, "shuffle and drop_last"),
            ({"dataset": [], "num_workers": 2}, "num_workers: the batches are made already"),
            ({"dataset": iter([])}, "read once per epoch"),
            ({"dataset": 3}, "read once per epoch"),
            ({"dataset": Stream(world, 3), "batch_size": 1}, "at least 1 for each of 2 ranks"),
        ]:
            with pytest.raises(InvalidArgument, match=said):
                loader(**wrong, world=world)
        assert len(list(loader([], world=world))) == 0

    ranks(2, body)
