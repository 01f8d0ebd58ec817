"""Cross entropy over a large vocabulary, forward and gradient in one pass.

torch keeps logits and log-softmax in float32 for the backward pass and writes the gradient in three
more passes of that size. Here the gradient, softmax minus one-hot, is made with the loss, some rows
at a time, while they are in the cache, and kept in the number format of the logits.

Letters: S selected tokens, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Values of the logits that are worked on together: 4 MB in float32.
VALUES_PER_CHUNK = 1 << 20


def cross_entropy_sum(logit_SV: Tensor, target_S: Tensor, ignored: int) -> Tensor:
    """Sum of -log softmax(logits)[target], computed in float32 (float64 for such logits).

    Args:
        logit_SV: any floating-point format.
        target_S: column of the right token, or ``ignored``.
        ignored: rows with this target count for nothing.
    """
    loss: Tensor = _CrossEntropySum.apply(logit_SV, target_S, ignored)
    return loss


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit_SV: Tensor, target_S: Tensor, ignored: int) -> Tensor:
        exact = torch.float64 if logit_SV.dtype == torch.float64 else torch.float32
        counted_S = target_S != ignored
        column_S = torch.where(counted_S, target_S, 0)
        loss = torch.zeros((), dtype=exact, device=logit_SV.device)
        gradient_SV = torch.empty_like(logit_SV) if ctx.needs_input_grad[0] else None
        rows = max(1, VALUES_PER_CHUNK // logit_SV.shape[1])
        for first in range(0, len(logit_SV), rows):
            at = slice(first, first + rows)
            chunk_CV = logit_SV[at].to(exact)
            normaliser_C = chunk_CV.logsumexp(dim=1)
            column_C1 = column_S[at].unsqueeze(1)
            own_C = chunk_CV.gather(1, column_C1).squeeze(1)
            loss += ((normaliser_C - own_C) * counted_S[at]).sum()
            if gradient_SV is not None:
                share_CV = (chunk_CV - normaliser_C.unsqueeze(1)).exp_()
                share_CV.scatter_add_(1, column_C1, share_CV.new_full(column_C1.shape, -1.0))
                gradient_SV[at] = share_CV.mul_(counted_S[at].unsqueeze(1))
        ctx.save_for_backward(gradient_SV)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (gradient_SV,) = ctx.saved_tensors
        return gradient_SV * gradient.to(gradient_SV.dtype), None, None
