"""Dropout whose random numbers are cheap on a CPU.

torch draws a CPU's dropout masks one element at a time on one thread, which takes a quarter
of a bf16 pretraining step on two cores. Here 64 random bits at a time are read as four
16-bit numbers and compared with a threshold: about six times as quick. The probability is
rounded to a multiple of 2**-16 (0.1 becomes 0.100006), and the kept elements are scaled by
that probability, so the expectation stays right. The bits come from torch's own generator:
seeds and saved generator states work as for `torch.nn.Dropout`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_STEPS = 1 << 16


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
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
    # Without the bounds, random_ leaves the sign bit 0.
    bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()].view(x.shape)
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
