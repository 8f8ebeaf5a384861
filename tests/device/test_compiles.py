"""NVIDIA's compiler takes every kernel, for every generation of GPUs that is supported. Needs NVRTC from pip, and no GPU."""

import re

import pytest
from harness.parts import require

from hpcdl.arrays.kernels import CAST, OPTIONS, source_of
from hpcdl.codecs import codecs
from hpcdl.codecs.on_device import HasBlockKernels
from hpcdl.codecs.sign import Sign
from hpcdl.codecs.topk_on_device import FILES

MADE = {codec.kernels.file: codec.kernels.files for codec in (*map(codecs.get, codecs), Sign()) if isinstance(codec, HasBlockKernels)}
SOURCES = {"cast": CAST, "topk": FILES, **MADE}
CAPABILITIES = ["70", "75", "80", "86", "87", "89", "90", "100", "120"]  # Volta to Blackwell


@pytest.fixture(scope="module")
def nvrtc():
    """CuPy's door to the compiler, which loads it when it is first asked."""
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except (ImportError, RuntimeError) as error:
        require("nvrtc", f"{error} (pip install '.[cuda12]')")
    return nvrtc


def compiled(nvrtc, name, target):
    """PTX for ``compute_…``, machine code for ``sm_…``."""
    program = nvrtc.createProgram(source_of(SOURCES[name]), f"{name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"--gpu-architecture={target}", *OPTIONS))
        log = nvrtc.getProgramLog(program)
        return log, nvrtc.getPTX(program) if target.startswith("compute") else nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("capability", CAPABILITIES)
def test_compiles(nvrtc, name, capability):
    version = nvrtc.getVersion()
    if (version >= (13, 0) and int(capability) < 75) or (version < (12, 8) and int(capability) >= 100):
        pytest.skip(f"NVRTC {version[0]}.{version[1]} does not know compute capability {capability}")
    log, ptx = compiled(nvrtc, name, f"compute_{capability}")
    warnings = [line for line in log.splitlines() if "warning" in line and "deprecated" not in line]
    assert not warnings, log
    text = ptx.decode() if isinstance(ptx, bytes) else ptx
    found = set(re.findall(r"\.visible \.entry (\w+)", text))
    assert found == set(re.findall(r'extern "C" __global__ void (\w+)', source_of(SOURCES[name])))
    assert not re.search(r"\bfma\.", text), "a contracted sum has other bits than a processor's"
    assert not re.search(r"\b(div|sqrt|mul|add|cvt)\.[a-z.]*(approx|ftz)", text), "not what IEEE 754 says"
    code = compiled(nvrtc, name, f"sm_{capability}")[1]
    assert code[:4] == b"\x7fELF"


@pytest.mark.parametrize("name", SOURCES)
def test_as_it_is_compiled_at_run_time(nvrtc, name, monkeypatch):
    """CuPy's own options change no number: subnormal ones stay what they are."""
    from cupy.cuda import compiler

    from hpcdl.arrays import device

    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda arch=None: ("-arch=compute_90", "ptx"))  # needs no GPU
    text = device.compiled(SOURCES[name]).decode()
    assert re.search(r"\bld\.", text) and ".ftz" not in text and not re.search(r"\bfma\.", text)


def test_every_source_is_compiled():
    folders = {file.parent for files in SOURCES.values() for file in files}
    there = {file for folder in folders for file in folder.iterdir() if file.suffix in (".cu", ".cuh")}
    assert there == {file for files in SOURCES.values() for file in files}
