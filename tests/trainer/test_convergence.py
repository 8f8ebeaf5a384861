"""Few bytes, the same model: real training with every codec and compressor comes to the accuracy of float32."""

from __future__ import annotations

import pytest

from hpcdl.demo.data import load
from hpcdl.numpy import MLP, Shards, Trainer, evaluate
from hpcdl.reduction.compressors import names

SPECS = {"topk": "topk:ratio=0.02", "randomk": "randomk:ratio=0.1", "powersgd": "powersgd:rank=2"}
EPOCHS, MARGIN = 12, 0.015  # share of the test set: 5 images of 359


def accuracy(world, codec: str) -> tuple[float, bytes]:
    data = load(world, None, 0)
    model = MLP((data.train_x.shape[1], 64, data.classes), seed=1)
    trainer = Trainer(world, model, "cross_entropy", "sgd:lr=0.3", codec=codec, bucket_bytes=1 << 14)
    shards = Shards(len(data.train_y), 64, world.rank, world.size, 1)
    for epoch in range(EPOCHS):
        trainer.train_epoch(data.train_x, data.train_y, shards, epoch)
    found = evaluate(model, trainer.loss, data.test_x, data.test_y, world).accuracy
    return found or 0.0, b"".join(parameter.tobytes() for parameter in model.parameters)


@pytest.mark.ways("threads")
def test_digits(ranks, require) -> None:
    require("sklearn")

    def body(world):
        return {name: accuracy(world, SPECS.get(name, name)) for name in names()}

    found = ranks(3, body)
    assert found[0] == found[1] == found[2], "replicas differ"
    plain, _ = found[0]["none"]
    assert plain > 0.95
    assert {name: share for name, (share, _) in found[0].items() if share < plain - MARGIN} == {}
