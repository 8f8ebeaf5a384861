"""The sharded loader: the same epochs on any number of ranks, every sample once, exact resumption, stand-ins."""

from itertools import chain

import pytest
from harness.parts import framework

from hpcdl.errors import InvalidArgument

torch = framework("torch")

from hpcdl.torch import loader, samples  # noqa: E402


class Squares(torch.utils.data.Dataset):
    """Sample i is (i, i^2)."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return torch.tensor([float(i)]), i * i


def numbers(batch):
    x, y = batch
    assert (x[:, 0].long() ** 2).equal(y)
    return x[:, 0].long().tolist()


def epoch(batches):
    """What this rank trains on in the next epoch: a list of sample numbers per batch, without stand-ins."""
    return [numbers(batch)[: int(batches.samples)] for batch in batches]


def joined(parts):
    """The global batches, from every rank's."""
    return [list(chain.from_iterable(shares)) for shares in zip(*parts, strict=True)]


@pytest.mark.parametrize("length,size", [(13, 4), (12, 4), (7, 3), (5, 9), (6, 1)])
def test_same_epochs_on_any_number_of_ranks(ranks, length, size):
    def body(world):
        batches = loader(Squares(length), size, world=world, seed=5)
        assert len(batches) == -(-length // size)
        return [epoch(batches) for _ in range(3)]

    alone = None
    for n in (1, 2, 4):
        found = ranks(n, body)
        epochs = [joined(parts) for parts in zip(*found, strict=True)]
        alone = alone or epochs
        assert epochs == alone
        for batches in epochs:
            assert sorted(chain.from_iterable(batches)) == list(range(length))
            assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    if length > 6:
        assert alone[0] != alone[1] != alone[2] != alone[0], "not reshuffled"


def test_stand_ins_and_what_is_announced(ranks):
    def body(world):
        seen = []
        batches = loader(Squares(5), 3, world=world)
        for batch in batches:
            assert samples.current(world) == (batches.samples, (3, 2)[len(seen)])
            seen.append((len(numbers(batch)), batches.samples))
        assert samples.current(world).mine is None and batches.samples == 0
        assert len(seen) == len(batches) == 2
        for _ in batches:
            break
        assert samples.current(world) == (batches.samples, 3), "what is in hand after a break"
        with pytest.raises(KeyError):
            for _ in batches:
                raise KeyError
        next(iter(loader(Squares(6), 6, world=world)))
        assert samples.current(world).total == 6
        for _ in loader(Squares(5), 3, world=world):
            assert samples.current(world).total in (3, 2), "the batch that was left is out of hand now"
        assert samples.current(world).mine is None
        return seen

    assert ranks(4, body) in (None, [[(1, 1), (1, 1)], [(1, 1), (1, 1)], [(1, 1), (1, 0)], [(1, 0), (1, 0)]])


def test_an_iterator_left_behind_announces_nothing(ranks):
    def body(world):
        batches = loader(Squares(8), 4, world=world)
        old = iter(batches)
        next(old)
        for _ in batches:
            old = None
            assert samples.current(world).mine == batches.samples > 0
        assert batches.epoch == 2

    ranks(2, body)


def test_evaluation(ranks):
    """In order, no stand-ins, nothing announced, no communication: one rank may do it alone."""

    def body(world):
        batches = loader(Squares(7), 3, world=world, train=False)
        sent = world.bytes_sent
        found = []
        for batch in batches:
            assert samples.current(world).mine is None
            found.append(numbers(batch))
            assert batches.samples == len(found[-1])
        assert len(found) == len(batches) and world.bytes_sent == sent
        if world.rank == 0:
            assert len(epoch(batches)) == len(found)
        return found

    assert ranks(2, body) in (None, [[[0, 1], [3, 4], [6]], [[2], [5]]])
    assert ranks(4, body) in (None, [[[0], [3], [6]], [[1], [4]], [[2], [5]], []])


def test_shuffle_and_drop_last(ranks):
    def body(world):
        plain = loader(Squares(7), 3, world=world, shuffle=False, drop_last=True)
        mixed = loader(Squares(70), 70, world=world, shuffle=True, train=False)
        assert (len(plain), len(mixed)) == (2, 1)
        return epoch(plain), epoch(mixed)

    found = ranks(2, body)
    if found:
        assert joined([plain for plain, _ in found]) == [[0, 1, 2], [3, 4, 5]]
        [order] = joined([mixed for _, mixed in found])
        assert order != sorted(order) == list(range(70))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("before,after", [(1, 3), (3, 2), (2, 2)])
def test_resumes_exactly(ranks, workers, before, after):
    """Stopped within the second epoch, resumed on another number of ranks; with workers, which have read ahead by then."""

    def make(world):
        return loader(Squares(22), 4, world=world, seed=1, num_workers=workers)

    def whole(world):
        batches = make(world)
        return [epoch(batches) for _ in range(3)]

    def stopped(world):
        batches = make(world)
        first, parts = epoch(batches), []
        for batch in batches:
            parts.append(numbers(batch)[: int(batches.samples)])
            if len(parts) == 2:
                state = batches.state_dict()
                break
        assert batches.state_dict() == state, "a break has changed the state"
        return state, [first, parts]

    def resumed(world, state):
        batches = make(world)
        batches.load_state_dict(state)
        assert batches.epoch == 1
        rest = epoch(batches)
        assert batches.epoch == 2
        return [rest, epoch(batches)]

    expected, before = ranks(1, whole), ranks(before, stopped)
    state = before[0][0]
    found = ranks(after, resumed, state)
    assert len({str(sorted(state.items())) for state, _ in before}) == 1, "the state differs between ranks"
    first, begun = (joined([parts[i] for _, parts in before]) for i in range(2))
    rest, last = (joined([parts[i] for parts in found]) for i in range(2))
    assert [first, begun + rest, last] == expected[0]
    assert len(begun) == 2


def test_state_between_epochs(ranks):
    """At the last batch, and after it, the state is that of the next epoch; another batch size may go on from there."""

    def body(world):
        batches = loader(Squares(6), 3, world=world)
        assert batches.state_dict()["epoch"] == batches.state_dict()["batch"] == 0
        states = [batches.state_dict() for _ in batches]
        assert [(state["epoch"], state["batch"]) for state in (*states, batches.state_dict())] == [(0, 1), (1, 0), (1, 0)]
        other = loader(Squares(6), 2, world=world)
        other.load_state_dict(states[1])
        assert other.epoch == 1 and len(epoch(other)) == 3
        with pytest.raises(InvalidArgument, match="batch 1 within epoch 0 with batch_size=3, this loader has batch_size=2"):
            other.load_state_dict(states[0])

    ranks(2, body)


def test_ranks_at_different_places(ranks):
    def body(world):
        batches = loader(Squares(6), 3, world=world)
        if world.rank == 1:
            batches.load_state_dict({"epoch": 2, "batch": 0})
        with pytest.raises(InvalidArgument, match="different places: epochs 0 to 2, batches 0 to 0"):
            next(iter(batches))

    ranks(3, body)


def test_errors_are_the_same_on_every_rank(ranks):
    def body(world):
        def said(**keywords):
            arguments = {"dataset": Squares(8), "batch_size": 4, **keywords}
            with pytest.raises(InvalidArgument) as caught:
                loader(world=world, **arguments)
            return str(caught.value)

        return [
            said(dataset=Squares(8 + world.rank // 2)),
            said(batch_size=4 + world.rank),
            said(seed=world.rank),
            said(dataset=[[torch.ones(1)]] if world.rank else Squares(8), batch_size=None if world.rank else 4),
            said(dataset=Squares(0)),
            said(batch_size=0),
            said(batch_size=2.0),
            said(seed=-1),
            said(dataset=Squares(3), drop_last=True),
            said(sampler=[1, 2]),
            said(dataset=torch.utils.data.DataLoader(Squares(8))),
            said(dataset=iter([1])),
            said(batch_size=None),
        ]

    found = ranks(3, body)
    if not found:
        return
    assert found[0] == found[1] == found[2]
    for text, part in zip(
        found[0],
        [
            "differ in samples: 8 on ranks 0-1, 9 on rank 2; give the whole data set",
            "batch_size: 4 on rank 0, 5 on rank 1, 6 on rank 2",
            "differ in seed",
            "differ in own batches: 0 on rank 0, 1 on ranks 1-2",
            "the data set is empty",
            "batch_size=0: must be at least 1",
            "batch_size must be a whole number, got 2.0",
            "seed must be a whole number from 0",
            "drop_last leaves nothing of 3",
            "sampler: this loader chooses",
            "batch_size=None",
            "no length",
            "a data set needs a batch_size",
        ],
        strict=True,
    ):
        assert part in text
