"""Law 3: training on n ranks equals one process on the joined batch, uneven and empty shards included."""

import numpy as np
import pytest

from hpcdl.errors import InvalidArgument, NonFinite, UnknownName
from hpcdl.numpy import LOSSES, MLP, OPTIMIZERS, Score, Shards, Trainer, evaluate
from hpcdl.world import World

SIZES = (6, 16, 9, 3)


def samples(loss="cross_entropy", n=25, dtype="float32"):
    random = np.random.default_rng(n)
    x = random.normal(size=(n, SIZES[0])).astype(dtype)
    if loss == "cross_entropy":
        return x, (x[:, :3] @ random.normal(size=(3, 3))).argmax(axis=1)
    if loss == "binary_cross_entropy":
        return x, (x[:, :3] > 0).astype(dtype)
    return x, np.tanh(x[:, :3])


def trained(world, *, loss="cross_entropy", optimizer="sgd", batch_size=7, dtype="float32", epochs=3, **reduction):
    trainer = Trainer(world, MLP(SIZES, seed=5, dtype=dtype), loss, optimizer, **reduction)
    losses = trainer.fit(*samples(loss, dtype=dtype), batch_size=batch_size, epochs=epochs, seed=2)
    return trainer, losses


def difference(one, other):
    return max(float(np.abs(a - b).max()) for a, b in zip(one.parameters, other.parameters, strict=True))


def equals_one_process(world, **how):
    together, losses = trained(world, codec="none", **how)
    alone, expected = trained(World.solo(), codec="none", **how)
    assert difference(alone.model, MLP(SIZES, seed=5, dtype=how.get("dtype", "float32"))) > 1e-3, "nothing was learnt"
    assert difference(together.model, alone.model) < (1e-12 if how.get("dtype") == "float64" else 1e-5)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    everyone = world.allgather(np.concatenate([p.ravel() for p in together.model.parameters])[None])
    assert (everyone == everyone[0]).all(), "replicas differ"


@pytest.mark.parametrize("loss", LOSSES.names())
@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_uneven_shards(ranks, loss, optimizer):
    ranks(3, lambda world: equals_one_process(world, loss=loss, optimizer=optimizer))  # 7 samples over 3 ranks, at last 4


@pytest.mark.parametrize("batch_size", [1, 2, 25])
def test_empty_shards_and_one_batch_for_all(ranks, batch_size):
    ranks(4, lambda world: equals_one_process(world, batch_size=batch_size, optimizer="momentum"))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_any_number_of_ranks_in_float64(ranks, n):
    ranks(n, lambda world: equals_one_process(world, dtype="float64", optimizer="adam"))


def test_small_buckets_overlap_and_change_nothing(ranks):
    ranks(3, lambda world: equals_one_process(world, bucket_bytes=256))


@pytest.mark.parametrize("codec", ["fp16", "bf16", "int8"])
@pytest.mark.parametrize("error_feedback", [False, True])
def test_lossy_codecs_stay_near_and_replicas_equal(ranks, codec, error_feedback):
    def body(world):
        together, losses = trained(world, optimizer="sgd:lr=0.05", epochs=8, codec=codec, error_feedback=error_feedback)
        alone, expected = trained(World.solo(), optimizer="sgd:lr=0.05", epochs=8, codec="none")
        assert difference(together.model, alone.model) < {"fp16": 1e-3, "bf16": 1e-2, "int8": 2e-2}[codec]
        assert losses[-1] == pytest.approx(expected[-1], rel=0.02)
        everyone = world.allgather(np.concatenate([p.ravel() for p in together.model.parameters])[None])
        assert (everyone == everyone[0]).all()

    ranks(3, body)


def test_weights_of_rank_0_are_everyones(ranks):
    def body(world):
        trainer = Trainer(world, MLP(SIZES, seed=world.rank), codec="none")
        for mine, first in zip(trainer.model.parameters, MLP(SIZES, seed=0).parameters, strict=True):
            np.testing.assert_array_equal(mine, first)

    ranks(3, body)


def test_nan_on_one_rank_is_an_error_on_every_rank(ranks):
    def body(world):
        trainer = Trainer(world, MLP(SIZES), codec="fp16", check_finite=True)
        x, y = samples(n=8)
        trainer.step(x, y)
        if world.rank == 1:
            x[3, 2] = np.nan
        with pytest.raises(NonFinite, match=r"rank 1.*layer \d (weight|bias)"):
            trainer.step(x, y)

    ranks(3, body)


def test_evaluate_is_the_same_on_any_number_of_ranks(ranks):
    def body(world):
        model = MLP(SIZES, seed=1)
        for loss, n in (("cross_entropy", 25), ("binary_cross_entropy", 2), ("mean_squared_error", 25)):
            x, y = samples(loss, n)
            score = evaluate(model, LOSSES.get(loss), x, y, world, batch_size=3)
            output, _ = model.forward(x)
            assert score.samples == n and score.loss == pytest.approx(float(LOSSES.get(loss)(output, y)[0]), rel=1e-6)
            right = (output.argmax(1) if loss == "cross_entropy" else output > 0) == (y if loss == "cross_entropy" else y > 0.5)
            assert score.accuracy == (None if loss == "mean_squared_error" else right.reshape(n, -1).all(1).mean())

    ranks(3, body)


def test_one_step_of_a_linear_model_by_hand():
    x = np.array([[1.0, 2.0], [3.0, -1.0]])
    y = np.array([[1.0], [0.0]])
    trainer = Trainer(World.solo(), MLP((2, 1), dtype="float64"), "mean_squared_error", "sgd:lr=0.1", codec="none")
    weight, bias = trainer.model.parameters
    weight[:] = [[0.5], [-0.5]]
    assert trainer.step(x, y) == pytest.approx(((-0.5 - 1) ** 2 + 2**2) / 2)
    # gradient in the output: 2 (z - y) / 2 = [-1.5, 2]; in the weight: x.T @ that; in the bias: its sum.
    np.testing.assert_allclose(weight, [[0.5 - 0.1 * 4.5], [-0.5 - 0.1 * -5.0]])
    np.testing.assert_allclose(bias, [-0.05])


def test_it_learns_and_says_what_it_cost():
    trainer, losses = trained(World.solo(), optimizer="adam:lr=0.02", epochs=60)
    assert losses[-1] < 0.1 * losses[0]
    assert evaluate(trainer.model, trainer.loss, *samples(), World.solo()) == Score(pytest.approx(losses[-1], rel=0.2), 1.0, 25)
    assert trainer.spent.steps == 60 * len(Shards(25, 7)) and trainer.spent.bytes_sent == 0
    assert min(trainer.spent.compute, trainer.spent.waiting, trainer.spent.optimizer) > 0


def test_bad_arguments():
    with pytest.raises(UnknownName, match="known: adam"):
        Trainer(World.solo(), MLP(SIZES), optimizer="lion")
    with pytest.raises(UnknownName, match="known: binary"):
        Trainer(World.solo(), MLP(SIZES), loss="hinge")
    trainer = Trainer(World.solo(), MLP(SIZES))
    x, y = samples()
    with pytest.raises(InvalidArgument, match="25 samples but 24 targets"):
        trainer.fit(x, y[1:], batch_size=5, epochs=1)
    with pytest.raises(InvalidArgument, match="from 0 to 2; 2 outputs"):
        Trainer(World.solo(), MLP((6, 2))).fit(x, y, batch_size=5, epochs=1)
