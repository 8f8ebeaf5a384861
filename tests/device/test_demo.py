"""`hpcdl demo --device cuda` on the double: the whole of it, as each rank runs it, but for how ranks are started."""

import argparse
import json

import pytest

from hpcdl.arrays.gpu import Gpu, why_no_gpu
from hpcdl.demo import options
from hpcdl.demo.train import _most_on_one, train
from hpcdl.errors import InvalidArgument


def parse(*words):
    parser = argparse.ArgumentParser()
    options.add_options(parser)
    return parser.parse_args(words)


def run(world, folder, *words):
    """The report and exit code of one rank's demo."""
    file = folder / f"{'-'.join(words).replace(':', '')}.json"
    code = train(parse("--epochs", "2", "--hidden", "16", "--json", str(file), *words), world)
    world.barrier()
    return code, json.loads(file.read_text())


@pytest.mark.ways("threads")
@pytest.mark.parametrize("codec", ["none", "fp16"])
def test_the_same_as_on_the_host(ranks, cupy, require, tmp_path, codec):
    require("sklearn")

    def body(world):
        _, on_host = run(world, tmp_path, "--codec", codec)
        before = len(cupy.machine.log)
        code, report = run(world, tmp_path, "--codec", codec, "--device", "cuda", "--check-finite")
        assert code == 0 and report["replicas_equal"]
        assert report["device"] == "Double 0" and int(report["versions"]["CUDA driver"]) > 12000
        for name, close in {"test_accuracy": 1e-4, "test_loss": 1e-4, "wire_bytes_per_step": 2e-2}.items():
            assert report[name] == pytest.approx(on_host[name], rel=close), name
        assert report["single_process"]["test_loss"] == pytest.approx(on_host["single_process"]["test_loss"], rel=1e-4)
        assert min(report["step_seconds"].values()) > 0, "measured by events on the device"
        log = [record for record in cupy.machine.log[before:] if record.device == world.rank]
        assert 0 not in {record.stream for record in log}, "something ran on the null stream"

    ranks(2, body)


@pytest.mark.ways("threads")
def test_two_ranks_on_one_gpu(ranks, cupy, require, tmp_path, capsys):
    require("sklearn")
    cupy.machine.devices = 1

    def body(world):
        code, report = run(world, tmp_path, "--device", "cuda")
        assert code == 0 and report["device"] == "Double 0, each for 2 ranks"

    ranks(2, body)


@pytest.mark.ways("threads")
def test_ranks_that_see_one_gpu_each_share_none(ranks, cupy):
    """All of them know theirs as number 0, as where a batch system gives each task one."""

    def body(world):
        gpu = Gpu(0)
        assert (gpu.number, gpu.address) == (0, "0000:01:00.0")
        assert _most_on_one(world, gpu) == world.size
        gpu.address = f"0000:0{world.rank}:00.0"
        assert _most_on_one(world, gpu) == 1

    ranks(3, body)


@pytest.mark.ways("threads")
def test_a_rank_without_a_gpu_is_heard_on_all(ranks, cupy, tmp_path, capsys, monkeypatch):
    """Exit code 2 on every rank, before anything is trained."""

    class NoDevice(cupy.cuda.runtime.CUDARuntimeError):
        def __init__(self):
            RuntimeError.__init__(self, "cudaErrorNoDevice: no CUDA-capable device is detected")

    def none():
        raise NoDevice

    def body(world):
        world.barrier()
        assert train(parse("--device", "cuda"), world) == 2

    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", none)
    monkeypatch.setattr(cupy, "is_available", lambda: False)
    assert "cudaErrorNoDevice" in why_no_gpu() and "cure:" in why_no_gpu()
    with pytest.raises(InvalidArgument, match="cudaErrorNoDevice"):
        Gpu(0)
    ranks(2, body)
    said = capsys.readouterr().err
    assert said.count("hpcdl demo: error: --device cuda: rank 0 of 2: CuPy") == 1 and "cure:" in said
