"""Dropout whose random numbers are cheap on a CPU.

torch draws a CPU's dropout masks one element at a time on one thread, which takes a quarter
of a bf16 pretraining step on two cores. Here 16 random bits decide on an element: the probability
is rounded to a multiple of 2**-16 (0.1 becomes 0.100006), and the kept elements are scaled by
that probability, so the expectation stays right.

The bits are drawn once for a seed, into a pool of a million 64-bit words; a mask is a window of the
pool at a random place. So two masks of a step may share bits, but at different elements: each mask
by itself has independent elements, and equal elements of two masks are independent unless both
windows start at the same word (one in a million). The pool follows from the seed of torch's default
generator and the places from its state: seeds and saved states work as for `torch.nn.Dropout`.
Training seeds each step anew.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 1 << 16
_POOL_WORDS = 1 << 20


class _Pool:
    """Random words of the last seed that was asked for."""

    def __init__(self) -> None:
        self._seed: int | None = None
        self._words = torch.empty(0, dtype=torch.int64)

    def bits(self, count: int) -> Tensor:
        """``count`` random numbers of 16 bits (int16), a window at a random place."""
        generator = torch.default_generator
        words = (count + 3) // 4
        seed = generator.initial_seed()
        if seed != self._seed or len(self._words) < words + _POOL_WORDS:
            # A longer pool starts with the shorter one: a mask can be drawn again later.
            size = words + _POOL_WORDS
            own = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)
            # Without the bounds, random_ leaves the sign bit 0.
            self._words = torch.empty(size, dtype=torch.int64).random_(
                -(2**63), None, generator=own
            )
            self._seed = seed
        first = int(torch.randint(_POOL_WORDS, (), generator=generator))
        return self._words[first : first + words].view(torch.int16)[:count]


_pool = _Pool()


def dropout(x: Tensor, probability: float) -> Tensor:
    """Zero each element with the probability, scale the others by 1 / (1 - probability).

    Args:
        x: any floating-point tensor.
        probability: of an element to be dropped, in [0, 1).

    Returns:
        A tensor like ``x``; ``x`` itself when the probability is 0.
    """
    if probability == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, probability)
    dropped = round(probability * _STEPS)
    bits = _pool.bits(x.numel()).view(x.shape)
    keep = torch.empty(x.shape, dtype=x.dtype)
    torch.ge(bits, dropped - _STEPS // 2, out=keep)
    return x * keep.div_(1 - dropped / _STEPS)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """See `dropout`; the input itself in evaluation mode."""
        return dropout(input, self.p if self.training else 0.0)


def use_quick_dropout(module: nn.Module) -> None:
    """Replace every `torch.nn.Dropout` inside ``module`` by `Dropout`, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Dropout:
                setattr(parent, name, Dropout(child.p))
