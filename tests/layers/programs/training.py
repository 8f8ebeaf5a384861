"""The law: n ranks do what one process does on the joined batch, with everything that Keras does to gradients."""

from __future__ import annotations

from functools import partial

import keras
import side
from side import BACKEND, both, network


def case_fit(s):
    both(s)


def case_variables_come_late(s):
    both(s, make=lambda seed: network(seed, known=False))


def case_eager(s):
    both(s, run_eagerly=True, epochs=1)


def case_compiled_by_xla(s):
    if BACKEND != "torch":
        both(s, jit_compile=True)


def case_compiled_by_torch(s):
    """What torch.compile traces and cuts is tried; that it makes C++ of it is left out, since that takes a minute."""
    if BACKEND == "torch":
        import torch

        was = torch.compile
        torch.compile = partial(was, backend="eager")
        try:
            both(s, jit_compile=True)
        finally:
            torch.compile = was


def case_several_steps_at_once(s):
    if BACKEND != "torch":
        both(s, steps_per_execution=2)


def case_clipping(s):
    for clip in ({"clipnorm": 0.05}, {"global_clipnorm": 0.1}, {"clipvalue": 0.01}):
        both(s, lambda clip=clip: keras.optimizers.SGD(0.5, momentum=0.9, **clip), epochs=2)


def case_accumulation(s):
    both(s, lambda: keras.optimizers.Adam(1e-2, gradient_accumulation_steps=2), epochs=4)


def case_weight_decay_and_average(s):
    both(s, lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1, use_ema=True))


def case_schedule(s):
    both(s, lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)))


if __name__ == "__main__":
    side.run(globals())
