"""A byte-level GPT, trained on real text along any mesh of data, tensor and pipeline parallelism.

    hpcdl run -n 4 jobs/gpt.py                                  # data parallel, on the Python standard library's source
    hpcdl run -n 4 jobs/gpt.py --dp 2 --tp 2 --bf16             # tensor parallel inside pairs of ranks
    hpcdl run -n 4 jobs/gpt.py --pp 2 --schedule interleaved    # pipeline of two ranks, twice
    hpcdl run -n 4 jobs/gpt.py --fsdp --text ~/books --checkpoint run --save-every 100 --resume

The parallel parts are PyTorch's own (DDP, fully_shard, parallelize_module, pipelining, distributed checkpoint); hpcdl carries their
messages over MPI. Batches are a function of (seed, step), and the first weights of the seed: for every mesh the loss curve is that of one
process, in float32 to 1e-5 (relative, each loss of 20 steps; measured: below 1e-6). With --checkpoint, a job that is about to be ended
(SIGTERM, SIGUSR1, Slurm's time limit) saves first and leaves with exit code 85, on which the templates beside this file requeue.
Copy this file and change it. Its sections: settings, text, model, plan, trainer, checkpoint, report, main.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import math
import os
import sys
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

import hpcdl.torch as ht
from hpcdl.checkpoint import Checkpoint, preemption
from hpcdl.errors import DataError

SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}
BYTES = 256  # the vocabulary


class Refused(Exception):
    """What the user has asked for cannot be run; every rank says the same."""


# --- settings --------------------------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line; what is None here depends on the number of ranks and is filled in by `settle`."""

    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < 1:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
        return int(text)

    def above_0(text: str) -> float:
        if not 0 < float(text) < math.inf:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
        return float(text)

    parser = argparse.ArgumentParser(prog="gpt.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument_group("mesh").add_argument
    add("--dp", type=count, help="data parallel ranks; default: all that --tp and --pp leave")
    add("--tp", type=count, default=1, help="tensor parallel ranks; must divide --heads")
    add("--pp", type=count, default=1, help="ranks in the pipeline; must divide --layers")
    add("--fsdp", action="store_true", help="shard weights, gradients and optimizer over the data parallel ranks")
    add("--schedule", choices=SCHEDULES, help="of the pipeline (default 1f1b); interleaved: each rank has two stages")
    add("--accumulate", type=count, help="micro-batches per step and rank; default 1, with a pipeline 2 x --pp")
    add("--codec", help="compresses the gradients between data parallel ranks, with error feedback: int8, fp16, bf16, …")
    add = parser.add_argument_group("model and text").add_argument
    add("--layers", type=count, default=4)
    add("--heads", type=count, default=4)
    add("--width", type=count, default=128)
    add("--context", type=count, default=128, help="bytes that the model sees")
    add("--text", type=Path, help="a file or a folder; default: the source of Python's standard library")
    add("--text-mib", type=above_0, default=4.0, help="read at most so much (default 4); the last tenth is held out")
    add = parser.add_argument_group("training").add_argument
    add("--steps", type=count, default=300)
    add("--batch", type=count, default=32, help="sequences per step, of all ranks together")
    add("--bf16", action="store_true", help="matrix products in bfloat16; weights, gradients and sums stay float32")
    add("--lr", type=above_0, default=3e-3)
    add("--warmup", type=count, default=20, help="steps; afterwards a cosine to a tenth of --lr")
    add("--weight-decay", type=float, default=0.1)
    add("--clip", type=above_0, default=1.0, help="largest norm of the gradient")
    add("--seed", type=int, default=0)
    add("--eval-every", type=count, default=100)
    add("--eval-batches", type=count, default=8)
    add("--log-every", type=count, default=20)
    add = parser.add_argument_group("checkpoint and results").add_argument
    add("--checkpoint", type=Path, help="folder for checkpoints, seen by all ranks")
    add("--save-every", type=count, default=100, help="steps; the last step is saved too")
    add("--keep", type=count, default=2, help="newest checkpoints that stay")
    add(
        "--resume",
        action="store_true",
        help="go on from the newest whole checkpoint, if there is one; the mesh may be another; a job that Slurm has requeued does",
    )
    add("--sample", type=int, default=240, help="bytes of text to write at the end; 0: none")
    add("--prompt", default="\ndef ")
    add("--temperature", type=above_0, default=0.7)
    add("--json", type=Path, help="append the results to this file, as one line")
    return parser.parse_args(argv)


def settle(args: argparse.Namespace, size: int) -> None:
    """Fill in what depends on the number of ranks; Refused for what cannot be run, before anything starts."""

    def divides(name: str, value: int, of: str, whole: int, unit: int = 1) -> None:
        if whole % (value * unit):
            valid = ", ".join(str(n) for n in range(1, whole + 1) if whole % (n * unit) == 0)
            raise Refused(f"{name} {value} does not divide {of}{f' / {unit}' * (unit > 1)}; valid: {valid or 'none'}")

    if size % (args.tp * args.pp):
        raise Refused(f"--tp {args.tp} x --pp {args.pp} does not divide the {size} ranks; start a multiple of {args.tp * args.pp}")
    rest = size // (args.tp * args.pp)
    args.dp = args.dp or rest
    if args.dp != rest:
        mesh = f"--dp {args.dp} x --tp {args.tp} x --pp {args.pp}"
        raise Refused(f"{mesh} needs {args.dp * args.tp * args.pp} ranks, there are {size}; leave --dp out or give --dp {rest}")
    if args.schedule and args.pp == 1:
        raise Refused(f"--schedule {args.schedule} needs a pipeline: give --pp as well")
    args.schedule = args.schedule or "1f1b"
    args.accumulate = args.accumulate or (2 * args.pp if args.pp > 1 else 1)
    per_rank = 2 if args.schedule == "interleaved" else 1
    divides("--heads", args.heads, f"--width {args.width}", args.width, unit=2)  # a head's features come in pairs
    divides("--tp", args.tp, f"--heads {args.heads}", args.heads)
    divides("--pp", args.pp, f"--layers {args.layers}", args.layers, unit=per_rank)
    divides("--dp", args.dp, f"--batch {args.batch}", args.batch)
    divides("--accumulate", args.accumulate, f"--batch {args.batch} / --dp {args.dp}", args.batch // args.dp)
    if args.pp > 1 and (args.accumulate < args.pp or (per_rank == 2 and args.accumulate % args.pp)):
        raise Refused(f"--accumulate {args.accumulate} is not a multiple of --pp {args.pp}, and such a pipeline would run dry")
    if args.fsdp and args.codec:
        raise Refused("--codec compresses the all-reduce of --dp ranks, which --fsdp does without; leave one of them out")
    try:
        ht.comm_hook(args.codec)
    except ValueError as error:  # lists what is known
        raise Refused(f"--codec: {error}") from None
    if args.resume and not args.checkpoint:
        raise Refused("--resume needs the folder: --checkpoint DIR")
    if args.json and not args.json.absolute().parent.is_dir():
        raise Refused(f"--json {args.json}: there is no folder {args.json.absolute().parent}")


# --- text ------------------------------------------------------------------------------------------------------------------


def read(path: Path | None, limit: int) -> bytes:
    """The text: a file, or a folder's files one after the other, cut after `limit` bytes.

    Files come in the order of their names' digests, so that what is cut off and what is held out are samples of the whole folder.
    """
    root = path or Path(sysconfig.get_paths()["stdlib"])
    if not (root.is_file() or root.is_dir()):
        raise FileNotFoundError(f"{root} is no file and no folder")
    skipped = set() if path else {"site-packages", "dist-packages", "test", "tests"}  # not in every installation, or not the library
    files = [root] if root.is_file() else [f for f in root.rglob("*" if path else "*.py") if f.is_file()]
    names = {f.relative_to(root).as_posix(): f for f in files if not skipped.intersection(f.relative_to(root).parts)}
    text = bytearray()
    for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(text) >= limit:
            break
        content = names[name].read_bytes()
        text += b"" if b"\0" in content else content  # a file with zeros is no text
    return bytes(text[:limit])


class Text:
    """The same bytes on every rank: rank 0 reads them. `train` and `held_out` are uint8; batches are (rows, context) int64, x and y."""

    def __init__(self, args: argparse.Namespace) -> None:
        found: list[Any] = [None]
        if dist.get_rank() == 0:
            try:
                found = [read(args.text, int(args.text_mib * 2**20))]
            except OSError as error:
                found = [error]
        dist.broadcast_object_list(found)
        if isinstance(found[0], OSError):
            raise Refused(f"--text cannot be read: {found[0]}")
        if len(found[0]) < 20 * (args.context + 1):
            raise Refused(
                f"the text has {len(found[0])} bytes; at least {20 * (args.context + 1)} are needed with --context {args.context}"
            )
        self.args, self.digest = args, hashlib.sha256(found[0]).hexdigest()[:16]
        digests: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(digests, self.digest)
        if len(set(digests)) > 1:
            raise RuntimeError(f"the ranks hold different texts, by their digests: {digests}")
        everything = torch.frombuffer(bytearray(found[0]), dtype=torch.uint8)
        self.train, self.held_out = everything.tensor_split([len(everything) * 9 // 10])

    def rows(self, text: Tensor, starts: Tensor, part: int) -> tuple[Tensor, Tensor]:
        """Data parallel rank `part`'s rows of the batch that begins at `starts`: x, and y one byte further on."""
        mine = starts.chunk(self.args.dp)[part]
        rows = text[mine[:, None] + torch.arange(self.args.context + 1)].long()
        return rows[:, :-1], rows[:, 1:]

    def batch(self, step: int, part: int) -> tuple[Tensor, Tensor]:
        """A function of (seed, step), cut into as many parts as there are data parallel ranks."""
        generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
        starts = torch.randint(len(self.train) - self.args.context, (self.args.batch,), generator=generator)
        return self.rows(self.train, starts, part)

    def held_out_batches(self, part: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same rows each time, spread evenly over the held-out text."""
        n = self.args.eval_batches * self.args.batch
        starts = torch.arange(n) * (len(self.held_out) - self.args.context - 1) // n
        for some in starts.split(self.args.batch):
            yield self.rows(self.held_out, some, part)

    def entropy(self) -> float:
        """Nats per held-out byte of the model that knows only how often each byte occurs in the training text."""
        frequency = torch.bincount(self.train.long(), minlength=BYTES).double() + 1
        return -float((frequency / frequency.sum()).log()[self.held_out.long()].mean())


# --- model -----------------------------------------------------------------------------------------------------------------


def turned(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, section 3.4): the features' pairs, turned by angles that grow with the place.

    x: (rows, heads, places, 2 x pairs); feature i and feature i + pairs are a pair.
    """
    a, b = x.chunk(2, dim=-1)
    pairs = a.shape[-1]
    angles = torch.arange(x.shape[-2])[:, None] * 1000.0 ** (-torch.arange(pairs) / pairs)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Block(nn.Module):
    """Attention and a perceptron, each added to its input. Works on as many heads as its weights have: all, or this rank's share."""

    def __init__(self, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)  # rows head by head, so that a slice of them is whole heads
        self.out = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.normal_(linear.weight, std=0.02)
        for linear in (self.out, self.down):  # what is added 2 x layers times shall not grow with depth
            linear.weight.data /= math.sqrt(2 * layers)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(rows, length, -1, 3, self.head_width).permute(3, 0, 2, 1, 4)
        y = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(rows, length, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Bytes (rows, length) to logits (rows, length, 256). Names of parameters stay the same when only some layers are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.bf16 = args.bf16
        self.embed: nn.Embedding | None = nn.Embedding(BYTES, args.width)
        self.blocks = nn.ModuleDict({str(i): Block(args.width, args.heads, args.layers) for i in range(args.layers)})
        self.norm: nn.LayerNorm | None = nn.LayerNorm(args.width)
        self.head: nn.Linear | None = nn.Linear(args.width, BYTES, bias=False)
        for table in (self.embed, self.head):
            nn.init.normal_(table.weight, std=0.02)

    def keep(self, stage: int, stages: int) -> GPT:
        """Drop all but one stage's layers; the embedding is in the first stage, the head in the last."""
        layers = len(self.blocks) // stages
        if stage > 0:
            self.embed = None
        if stage < stages - 1:
            self.norm = self.head = None
        self.blocks = nn.ModuleDict({name: self.blocks[name] for name in map(str, range(stage * layers, (stage + 1) * layers))})
        return self

    def forward(self, x: Tensor) -> Tensor:
        # Why autocast and not bfloat16 weights: AdamW's small updates would be rounded away, and it is the same on every mesh.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            if self.embed is not None:
                x = self.embed(x)
            for block in self.blocks.values():
                x = block(x)
            return x if self.norm is None or self.head is None else self.head(self.norm(x)).float()


def loss_of(logits: Tensor, y: Tensor) -> Tensor:
    """Mean nats per byte."""
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())


# --- plan: who holds what --------------------------------------------------------------------------------------------------


def local(x: Tensor) -> Tensor:
    """This rank's part of a tensor, as a plain tensor that shares its memory."""
    return x.detach().to_local() if isinstance(x, DTensor) else x.detach()


class Part(NamedTuple):
    """One parameter as this rank holds it. `owner.grad` is what backward fills; `data` shares its memory and is what AdamW sees."""

    name: str
    owner: Tensor
    data: Tensor
    form: DTensor | None  # how it lies over the mesh; None: whole on every rank of the stage

    def spread(self, x: Tensor) -> Tensor:
        """A plain tensor the shape of `data` as the part that it is of a distributed one."""
        if self.form is None:
            return x
        f = self.form
        return DTensor.from_local(x, f.device_mesh, f.placements, run_check=False, shape=f.shape, stride=f.stride())

    def shards(self) -> int:
        """Into how many different pieces the parameter is cut."""
        if self.form is None:
            return 1
        return math.prod(self.form.device_mesh.size(i) for i, p in enumerate(self.form.placements) if not p.is_replicate())


class Plain(nn.Module):
    """A tensor parallel module whose parameters are plain tensors: this rank's shards. They become DTensors inside forward only.

    Why: DDP, its hooks and the fused optimizers take plain tensors.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = (module,)  # in a tuple, so that its parameters are not this module's
        self.parts = [Part(name, p, nn.Parameter(local(p)), p if isinstance(p, DTensor) else None) for name, p in module.named_parameters()]
        for i, part in enumerate(self.parts):
            self.register_parameter(str(i), part.data)

    def forward(self, x: Tensor) -> Tensor:
        return functional_call(
            self.inner[0], {part.name: part.spread(p) for part, p in zip(self.parts, self.parameters(), strict=True)}, (x,)
        )


def build(args: argparse.Namespace, mesh: DeviceMesh, stage: int, stages: int) -> tuple[nn.Module, list[Part], Any]:
    """One stage of the model on this rank, its parameters, and the hook that compresses its gradients, or None.

    Each rank makes the whole model from the seed and keeps its part: simple, and the same weights for any mesh. A model that does not fit
    in a rank's memory needs another way, for instance a checkpoint made once.
    """
    torch.manual_seed(args.seed)
    model = GPT(args).keep(stage, stages)
    if args.tp > 1:
        cut = {"qkv": ColwiseParallel(), "out": RowwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
        for block in model.blocks.values():
            parallelize_module(block, mesh["tp"], cut)
    if args.fsdp:
        for block in model.blocks.values():
            fully_shard(block, mesh=mesh["dp"])
        fully_shard(model, mesh=mesh["dp"])
        return model, [Part(name, p, local(p), p) for name, p in model.named_parameters()], None
    module: nn.Module = Plain(model) if args.tp > 1 else model
    parts = [Part(name, p, p, None) for name, p in model.named_parameters()]
    if isinstance(module, Plain):
        parts = [Part(part.name, part.data, part.data, part.form) for part in module.parts]
    hook = None
    if args.dp > 1:
        module = DistributedDataParallel(module, process_group=mesh.get_group("dp"), gradient_as_bucket_view=True)
        if args.codec:
            hook = ht.comm_hook(args.codec, error_feedback=True)
            module.register_comm_hook(mesh.get_group("dp"), hook)
    return module, parts, hook


def clocks() -> tuple[float, float, float]:
    """Seconds: passed, in which this thread computed, and in which it could have but had no core (0 where the kernel does not tell)."""
    try:
        queueing = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        queueing = 0.0
    return time.perf_counter(), time.thread_time(), queueing


# --- trainer ---------------------------------------------------------------------------------------------------------------


class Trainer:
    """The model on its mesh, the optimizer, and one step of training."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.mesh = init_device_mesh("cpu", (args.pp, args.dp, args.tp), mesh_dim_names=("pp", "dp", "tp"))
        self.part = self.mesh.get_local_rank("dp")
        first = self.mesh.get_local_rank("pp")
        stages = args.pp * (2 if args.schedule == "interleaved" else 1)
        mine = range(first, stages, args.pp)  # this rank's stages
        self.has_first, self.has_last = 0 in mine, stages - 1 in mine
        built = [build(args, self.mesh, stage, stages) for stage in mine]
        self.models = [model for model, _, _ in built]
        self.parts = [part for _, parts, _ in built for part in parts]
        self.hooks = [hook for _, _, hook in built if hook]
        self.form = [stages, args.pp, args.dp, args.tp]
        self.pipeline = self.schedule(mine, stages) if args.pp > 1 else None
        decayed = [part.data for part in self.parts if part.owner.ndim > 1]
        others = [part.data for part in self.parts if part.owner.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=True)
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def schedule(self, mine: range, stages: int) -> Any:
        """PyTorch's pipeline over this rank's stages. What flows between them is known, so nothing needs to be tried out first."""
        args = self.args
        rows = args.batch // args.dp // args.accumulate
        tokens = torch.empty(rows, args.context, dtype=torch.long)
        hidden = torch.empty(rows, args.context, args.width, requires_grad=True)
        logits = torch.empty(rows, args.context, BYTES, requires_grad=True)
        made = []
        for stage, model in zip(mine, self.models, strict=True):
            before, after = hidden if stage else tokens, logits if stage == stages - 1 else hidden
            made.append(PipelineStage(model, stage, stages, torch.device("cpu"), before, after, group=self.mesh.get_group("pp")))
        kind = SCHEDULES[args.schedule]
        return kind(made if args.schedule == "interleaved" else made[0], n_microbatches=args.accumulate, loss_fn=loss_of)

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds in which this thread computes to `seconds[what]`, and the others to what it waits for.

        Why so: PyTorch waits for messages in many places, and in all of them the thread sleeps. Where ranks outnumber cores, it also waits
        to be run.
        """
        before = clocks()
        yield
        passed, computing, queueing = (b - a for a, b in zip(before, clocks(), strict=True))
        self.seconds[what] += computing
        self.seconds["waiting for a core"] += queueing
        self.seconds["waiting for messages"] += max(0.0, passed - computing - queueing)

    def run_pipeline(self, run: Any, x: Tensor, y: Tensor) -> Tensor:
        """Feed the pipeline at its ends; the loss where its last stage is, else 0."""
        losses: list[Tensor] = []
        run(*([x] if self.has_first else []), target=y if self.has_last else None, losses=losses, return_outputs=False)
        return torch.stack(losses).mean().detach() if losses else torch.zeros(())

    def forward_backward(self, x: Tensor, y: Tensor) -> Tensor:
        """Gradients of the whole batch's mean loss; this rank's share of the loss."""
        if self.pipeline is not None:
            return self.run_pipeline(self.pipeline.step, x, y)
        [model], n, total = self.models, self.args.accumulate, torch.zeros(())
        for i, (some_x, some_y) in enumerate(zip(x.chunk(n), y.chunk(n), strict=True)):
            wait = i < n - 1  # gradients travel with the last micro-batch only
            if isinstance(model, FSDPModule):
                model.set_requires_gradient_sync(not wait)
            with model.no_sync() if wait and isinstance(model, DistributedDataParallel) else contextlib.nullcontext():
                loss = loss_of(model(some_x), some_y) / n
                loss.backward()
            total += loss.detach()
        return total

    def clip(self, step: int) -> None:
        """Scale the gradient to a norm of at most --clip. A part counts once, however many ranks hold it."""
        for part in self.parts:
            part.data.grad = local(part.owner.grad)
        copies = self.args.dp * self.args.tp
        squares = [torch.linalg.vector_norm(p.data.grad).double() ** 2 * (p.shards() / copies) for p in self.parts]
        total = torch.stack(squares).sum()
        dist.all_reduce(total)
        norm = total.sqrt()
        if not norm.isfinite():
            raise FloatingPointError(f"step {step + 1}: the gradient's norm is {norm.item()}; lower --lr, or leave --codec or --bf16 out")
        if norm > self.args.clip:
            for part in self.parts:
                part.data.grad.mul_(self.args.clip / norm)

    def rate(self, step: int) -> float:
        """The learning rate: warm-up, then half a cosine down to a tenth."""
        a = self.args
        if step < a.warmup:
            return float(a.lr * (step + 1) / a.warmup)
        done = (step - a.warmup) / max(1, a.steps - a.warmup)
        return float(a.lr * (0.55 + 0.45 * math.cos(math.pi * done)))

    def step(self, step: int, text: Text) -> Tensor:
        """One step; this rank's share of the loss before it."""
        with self.timed("data"):
            x, y = text.batch(step, self.part)
        with self.timed("forward and backward"):
            loss = self.forward_backward(x, y)
        with self.timed("norm and clipping"):
            self.clip(step)
        with self.timed("optimizer"):
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate(step)
            self.optimizer.step()
            for part in self.parts:
                part.owner.grad = part.data.grad = None
        return loss

    def split(self, steps: int) -> dict[str, float]:
        """Seconds of a step by what they went into, the mean over the ranks."""
        names = ("data", "forward and backward", "norm and clipping", "optimizer", "waiting for messages", "waiting for a core")
        total = torch.tensor([self.seconds[name] for name in names], dtype=torch.float64)
        dist.all_reduce(total)
        return dict(zip(names, (total / dist.get_world_size() / steps).tolist(), strict=True))

    def over_ranks(self, losses: list[Tensor]) -> list[float]:
        """The losses of the whole batches, from each rank's shares; one all-reduce."""
        total = torch.stack(losses).double()
        if not self.has_last:
            total.zero_()
        dist.all_reduce(total)
        return [float(x) for x in total / (self.args.dp * self.args.tp)]

    @torch.no_grad()
    def evaluate(self, text: Text) -> float:
        """Mean nats per byte of the held-out batches."""
        losses = []
        for x, y in text.held_out_batches(self.part):
            losses.append(self.run_pipeline(self.pipeline.eval, x, y) if self.pipeline is not None else loss_of(self.models[0](x), y))
        found = self.over_ranks(losses)
        return sum(found) / len(found)

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and AdamW's moments by the parameters' names, as parts of distributed tensors: what torch re-shards on loading."""
        found = {}
        for part in self.parts:
            moments = self.optimizer.state[part.data]
            if not moments:  # no step was taken yet: make what loading fills
                moments.update(step=torch.tensor(0.0), exp_avg=torch.zeros_like(part.data), exp_avg_sq=torch.zeros_like(part.data))
            found[part.name] = part.spread(part.data.detach())
            found |= {f"{part.name}.{key}": x if key == "step" else part.spread(x) for key, x in moments.items()}
        return found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing is left to do: loading has filled the very tensors that `state_dict` gives."""

    def rank_state_dict(self) -> dict[str, Any]:
        """What --codec has dropped on this rank and not sent yet."""
        return {"form": self.form, "hooks": [hook.rank_state_dict() for hook in self.hooks]}

    def load_rank_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with it on the same mesh; on another it belongs to other pieces of the parameters, and is lost."""
        if state["form"] == self.form:
            for hook, saved in zip(self.hooks, state["hooks"], strict=False):  # none of either without --codec
                hook.load_rank_state_dict(saved)

    def load_all_rank_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """The same from another number of ranks, where all is data parallel."""
        if states[0]["form"][::3] == self.form[::3] == [1, 1]:
            for hook, *saved in zip(self.hooks, *(state["hooks"] for state in states), strict=False):
                hook.load_all_rank_state_dicts(saved)

    def whole_model(self) -> GPT | None:
        """On rank 0 the model with all weights, gathered from all ranks; None on the others."""
        # For --fsdp with --tp it warns that gathering takes two steps: once at the end, it may.
        logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
        mine = {}
        for part in self.parts:
            x = part.spread(part.data.detach())
            mine[part.name] = x.full_tensor() if isinstance(x, DTensor) else x
        first = self.mesh.get_local_rank("dp") == self.mesh.get_local_rank("tp") == 0
        pieces: list[Any] | None = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(mine if first else {}, pieces)
        if pieces is None:
            return None
        model = GPT(self.args)
        model.load_state_dict({name: x for piece in pieces for name, x in piece.items()})
        return model


# --- checkpoint ------------------------------------------------------------------------------------------------------------


class Run:
    """The checkpoints of this training: where it begins, what it saves, and how it ends where its job is about to be ended."""

    MODEL = ("layers", "heads", "width", "context", "text")  # must be as they were; the mesh may be another

    def __init__(self, args: argparse.Namespace, trainer: Trainer, text: Text, stack: contextlib.ExitStack) -> None:
        self.args, self.begin, self.told = args, 0, ""
        self.stop: Any = lambda step: None
        self.checkpoint: Checkpoint | None = None
        if not args.checkpoint:
            return
        names = (*self.MODEL[:-1], "batch", "seed", "steps", "lr", "warmup", "weight_decay", "clip", "codec", "bf16")
        now = {**{name: getattr(args, name) for name in names}, "text": text.digest}
        then = dict(now)  # restoring overwrites it
        requeued = os.environ.get("SLURM_RESTART_COUNT", "0") != "0"
        found: list[Any] = [any(args.checkpoint.glob("step-*")), args.resume or requeued]
        dist.broadcast_object_list(found)  # rank 0's
        there, again = found
        if there and not again:
            raise Refused(f"{args.checkpoint} has checkpoints already; go on from the newest with --resume, or use another folder")
        parts = {"trainer": ht.sharded(trainer), "settings": then}
        self.checkpoint = Checkpoint(args.checkpoint, ht.default_world(), parts, keep=args.keep)
        try:
            self.begin = (self.checkpoint.restore() if again else None) or 0
        except DataError as error:
            raise Refused(str(error)) from error
        changed = {name: f"{name} {then[name]} (now {now[name]})" for name in now if then[name] != now[name]}
        if wrong := [changed[name] for name in self.MODEL if name in changed]:
            raise Refused(f"the checkpoint in {args.checkpoint} is of another run: {', '.join(wrong)}; use its settings or another folder")
        then.update(now)
        if self.begin:
            self.told = f"going on after step {self.begin}" + f"; changed since: {', '.join(changed.values())}" * bool(changed)
        elif again:
            self.told = f"no checkpoint in {args.checkpoint}, so this begins with step 1"
        stack.enter_context(self.checkpoint)
        self.stop = stack.enter_context(preemption(ht.default_world(), self.checkpoint))

    def done(self, step: int) -> None:
        """So many steps are done: save, if it is time, in the background; save and leave, if the job is about to be ended."""
        if self.checkpoint and (step % self.args.save_every == 0 or step == self.args.steps):
            self.checkpoint.save(step)
        self.stop(step)


# --- report ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def write(model: GPT, args: argparse.Namespace) -> str:
    """The prompt and --sample bytes that the model writes after it."""
    text = list(args.prompt.encode(errors="surrogateescape")) or [10]
    generator = torch.Generator().manual_seed(args.seed)
    for _ in range(args.sample):
        logits = model(torch.tensor([text[-args.context :]]))[0, -1]
        if args.temperature > 0:
            text.append(int(torch.multinomial((logits / args.temperature).softmax(-1), 1, generator=generator)))
        else:
            text.append(int(logits.argmax()))
    return bytes(text).decode(errors="replace")


def report(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """The table at the end."""
    table = Table(
        show_header=False,
        title=f"{found['parameters']:,} parameters, mesh {found['mesh']}, {args.steps} steps",
        title_style="",
        title_justify="left",
    )

    def nats(x: float) -> str:
        return f"{x:.4f} nats, {x / math.log(2):.4f} bits per byte"

    table.add_row("held-out loss", nats(found["held_out_loss"]))
    table.add_row("byte frequencies alone", nats(found["entropy"]))
    if found["losses"]:
        split = ", ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in found["split"].items())
        table.add_row("training loss, last step", nats(found["losses"][-1]))
        table.add_row("tokens per second", f"{found['tokens_per_second']:,.0f}")
        table.add_row("time per step", f"{1000 * sum(found['split'].values()):.1f} ms: {split}")
    Console().print(table)


# --- main ------------------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate, save, and report; the results, the same on every rank but for the sample, which rank 0 has."""
    settle(args, dist.get_world_size())

    def say(text: str) -> None:
        if dist.get_rank() == 0:
            print(text, flush=True)

    text = Text(args)
    trainer = Trainer(args)
    mesh = f"dp {args.dp} x tp {args.tp} x pp {args.pp}" + ", fsdp" * args.fsdp + f", {args.schedule}" * (args.pp > 1)
    mesh += f", codec {args.codec}" if args.codec else ""
    entropy = text.entropy()
    say(f"{mesh}: {len(text.train):,} bytes to learn from, {len(text.held_out):,} held out; byte frequencies alone: {entropy:.4f} nats")
    losses, held_out, shares, spent = [], math.nan, [], 0.0
    with contextlib.ExitStack() as stack:
        run = Run(args, trainer, text, stack)
        begin = run.begin
        if run.told:
            say(run.told)
        for step in range(begin, args.steps):
            begun = time.perf_counter()
            shares.append(trainer.step(step, text))
            if step == begin:
                trainer.seconds.clear()  # the first step makes what the others use
            else:
                spent += time.perf_counter() - begun
            done = step + 1
            if done % args.log_every == 0 or done == args.steps:
                losses += trainer.over_ranks(shares)
                shares = []
                speed = (done - begin - 1) * args.batch * args.context / spent if spent else 0.0
                say(f"step {done} of {args.steps}: loss {losses[-1]:.4f}, {speed:,.0f} tokens/s")
            if done % args.eval_every == 0 or done == args.steps:
                held_out = trainer.evaluate(text)
                say(f"step {done} of {args.steps}: held out {held_out:.4f} nats, {held_out / math.log(2):.4f} bits per byte")
            run.done(done)
    if begin >= args.steps:
        say(f"nothing is left to do of {args.steps} steps; more with --steps")
        held_out = trainer.evaluate(text)
    timed = max(1, args.steps - begin - 1)
    model = trainer.whole_model()
    found = {
        "mesh": mesh,
        "losses": losses,
        "held_out_loss": held_out,
        "entropy": entropy,
        "parameters": sum(p.numel() for p in model.parameters()) if model else None,
        "tokens_per_second": timed * args.batch * args.context / spent if spent else math.nan,
        "split": trainer.split(timed),
    }
    if model:
        found["sample"] = write(model, args) if args.sample else ""
        if args.sample:
            say(f"\n{found['sample']}\n")
        report(args, found)
        if args.json:
            with args.json.open("a", encoding="utf-8") as file:
                print(json.dumps({**found, "settings": vars(args)}, default=str), file=file)
    dist.barrier()  # the others wait until rank 0 has written
    return found


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Run with this command line; the results. Exits with code 2, on every rank, if it cannot be run."""
    args = parse(argv)
    if not dist.is_initialized():
        ht.init_process_group()
    try:
        return train(args)
    except Refused as error:
        if dist.get_rank() == 0:
            print(f"gpt.py: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
    dist.destroy_process_group()
