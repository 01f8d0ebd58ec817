"""Blocks that more than one CTR model uses.

Shapes: B batch, F fields, E embedding size, P = F * (F - 1) / 2 pairs of fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from clickprompt.ctr.embedding import FeatureEmbedding


class MLP(nn.Module):
    """The deep part: ``x <- dropout(relu(W x + b))``, once per hidden size.

    Args:
        input_size: width of the input.
        hidden_sizes: widths of the layers; the last one is the output's.
        dropout: share of activations that is dropped after each layer; 0 adds no module.
    """

    def __init__(
        self, *, input_size: int, hidden_sizes: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in zip([input_size, *hidden_sizes], hidden_sizes, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input size) -> (B, last hidden size)."""
        return self.layers(x)


class LinearTerm(nn.Module):
    """Logistic regression over the fields: sum_f w[x_f] + b, the mean of w for a bag field.

    Args:
        field_sizes: table rows per field.
        bags: members of the bag fields.
    """

    def __init__(
        self, *, field_sizes: Sequence[int], bags: Mapping[int, np.ndarray] | None = None
    ) -> None:
        super().__init__()
        self.embedding = FeatureEmbedding(field_sizes=field_sizes, embedding_size=1, bags=bags)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x_id_BF: Tensor) -> Tensor:
        """Local ids (B, F) -> (B,)."""
        return self.embedding(x_id_BF).sum(dim=(1, 2)) + self.bias


def pooled_interaction(x_BFE: Tensor) -> Tensor:
    """sum_{i<j} e_i * e_j = ((sum_i e_i)^2 - sum_i e_i^2) / 2, elementwise: (B, F, E) -> (B, E)."""
    return _PooledInteraction.apply(x_BFE)


class _PooledInteraction(torch.autograd.Function):
    """The gradient of e_i is the sum of all others: half the passes of autograd's own."""

    @staticmethod
    def forward(ctx: Any, x_BFE: Tensor) -> Tensor:
        sum_BE = x_BFE.sum(dim=1)
        ctx.save_for_backward(x_BFE, sum_BE)
        return 0.5 * (sum_BE.square() - x_BFE.square().sum(dim=1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BE: Tensor) -> Tensor:
        x_BFE, sum_BE = ctx.saved_tensors
        return (sum_BE.unsqueeze(1) - x_BFE).mul_(gradient_BE.unsqueeze(1))


class InnerProducts(nn.Module):
    """<e_i, e_j> of all pairs i < j, in the order (0, 1), (0, 2), ..., (1, 2), ...

    Args:
        fields: F, at least 2.

    Raises:
        ValueError: fewer than two fields.
    """

    pair_P: Tensor

    def __init__(self, *, fields: int) -> None:
        super().__init__()
        if fields < 2:
            raise ValueError(f"inner products need at least 2 fields, got {fields}")
        row_P, column_P = torch.triu_indices(fields, fields, offset=1)
        self.register_buffer("pair_P", row_P * fields + column_P, persistent=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        """(B, F, E) -> (B, P)."""
        return (x_BFE @ x_BFE.transpose(1, 2)).flatten(1).index_select(1, self.pair_P)


# torch's softmax over the last dimension works value by value on rows shorter than a register.
NARROW = 16


def softmax_over_fields(score: Tensor) -> Tensor:
    """Softmax over the last dimension, quick for the few fields of a CTR model on a CPU."""
    if score.device.type == "cpu" and score.shape[-1] < NARROW:
        # as autocast does with torch's own
        wide = score.float() if score.dtype in (torch.bfloat16, torch.float16) else score
        return _NarrowSoftmax.apply(wide)
    return score.softmax(dim=-1)


class _NarrowSoftmax(torch.autograd.Function):
    """softmax(x) = exp(x - max x) / sum, with the gradient s * (g - <g, s>)."""

    @staticmethod
    def forward(ctx: Any, score: Tensor) -> Tensor:
        share = (score - score.amax(dim=-1, keepdim=True)).exp_()
        share /= share.sum(dim=-1, keepdim=True)
        ctx.save_for_backward(share)
        return share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (share,) = ctx.saved_tensors
        product = share * gradient
        return product.sub_(share * product.sum(dim=-1, keepdim=True))
