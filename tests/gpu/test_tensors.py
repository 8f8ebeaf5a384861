"""PyTorch on a GPU: tensors in every dtype without a copy, models, the backend, streams."""

import pytest
from harness.parts import framework

torch = framework("torch")

import hpcdl.torch as ht  # noqa: E402
from hpcdl.errors import InvalidArgument  # noqa: E402
from hpcdl.torch import streams  # noqa: E402

NAMES = ["float16", "bfloat16", "float32", "float64", "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]


@pytest.fixture
def cuda(cupy):
    if not torch.cuda.is_available():
        pytest.skip("PyTorch has no CUDA here")


def device(world):
    world.device = f"cuda:{world.local_rank % torch.cuda.device_count()}"
    torch.cuda.set_device(world.device)
    return world.device


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_and_its_array_share_memory(cuda, name):
    x = torch.arange(6, device="cuda").reshape(2, 3).to(getattr(torch, name))
    with streams.in_order(x):
        array = ht.as_array(x)
        assert (str(array.dtype), array.shape, array.data.ptr) == (name, (2, 3), x.data_ptr())
        back = ht.as_tensor(array)
        assert (back.dtype, back.shape, back.data_ptr(), back.device) == (x.dtype, x.shape, x.data_ptr(), x.device)
        assert ht.as_tensor(ht.as_array(x[0, 1])).shape == () and ht.as_tensor(ht.as_array(x[:0])).shape == (0, 3)


@pytest.mark.parametrize("size", [2, 4])
def test_functions_on_a_stream_of_the_user_s(ranks, cuda, size):
    def body(world):
        where = device(world)
        with torch.cuda.stream(torch.cuda.Stream()):
            for step in range(10):
                x = torch.full((1000,), float(world.rank + step), device=where)
                torch.cuda._sleep(1_000_000)
                x += 1
                y = ht.allreduce(x, "mean", world=world) * 2
                assert (y == 2 * (step + 1) + world.size - 1).all()
                z = ht.allgather(x[:3], world=world)
                assert z.tolist() == [float(rank + step + 1) for rank in range(world.size) for _ in range(3)]

    ranks(size, body)


@pytest.mark.parametrize("codec", [None, "fp16", "topk:ratio=0.5"])
@pytest.mark.parametrize("size", [2, 4])
def test_training_equals_one_process(ranks, cuda, size, codec):
    def model(where):
        made = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Tanh(), torch.nn.Linear(64, 5)).to(where)
        for i, p in enumerate(made.parameters()):
            p.data = torch.linspace(-0.4, 0.5, p.numel(), device=where).roll(i).reshape(p.shape)
        return made

    def trained(module, x, steps=10):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()

    def body(world):
        where = device(world)
        x = torch.linspace(-1, 1, 8 * world.size * 20, device=where).reshape(-1, 20)
        alone, together = model(where), ht.DDP(model(where), codec, world=world, bucket_bytes=4000)
        trained(alone, x)
        trained(together, x.chunk(world.size)[world.rank])
        together.check_replicas()
        for one, other in zip(alone.parameters(), together.parameters(), strict=True):
            assert torch.allclose(one, other, rtol=0, atol={None: 1e-5, "fp16": 1e-3}.get(codec, 0.3))

    ranks(size, body)


def test_gradients_and_the_optimizer_on_another_stream(ranks, cuda):
    def body(world):
        where = device(world)
        model = ht.DDP(torch.nn.Linear(1000, 1000, bias=False).to(where), world=world)
        stream = torch.cuda.Stream()
        for step in range(5):
            with torch.cuda.stream(stream):
                model.zero_grad()
                model(torch.full((1, 1000), float(world.rank + step), device=where)).sum().backward()
                mean = step + (world.size - 1) / 2
                assert (model.module.weight.grad == mean).all()
        model.close()

    ranks(2, body)


def test_a_model_on_another_device_is_refused(ranks, cuda):
    def body(world):
        where = device(world)
        module = torch.nn.Linear(2, 2).to(where)
        world.device = "cuda:99"
        with pytest.raises(InvalidArgument, match=f"the model is on {where}, this rank's device is cuda:99"):
            ht.DDP(module, world=world)

    ranks(2, body)
