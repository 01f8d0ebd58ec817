"""AutoInt: self-attention between fields (Song et al., CIKM 2019, 1810.11921).

Shapes: B batch, F fields, E embedding size, A attention heads, d head size, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP, softmax_over_fields


class AutoInt(CTRModel):
    """q = [attention part, all fields side by side; MLP(x_0)], logit = w.q + b.

    Starting from X = (e_1, ..., e_F), each interacting layer (section 4.4 of the paper) gives per
    head a S_a = softmax(X Wq_a (X Wk_a)^T), then X <- relu([S_1 X Wv_1, ..., S_A X Wv_A] + X Wr),
    where Wr is the identity if the widths agree. With a deep part it is the paper's AutoInt+.
    D = F * A * d + the last hidden size, or F * A * d without a deep part.

    NOTE[DIFF]: with more than one head the reference cuts heads out of the memory layout, which
    mixes the fields; here a head attends over the fields, as in the paper, and
    ``attention_heads_layout: memory`` is the reference's way. With the one head of all its
    published sizes both are the same.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        attention_layers: number of interacting layers.
        attention_size: d.
        attention_heads: A.
        attention_heads_layout: ``fields``: a head is d of the components of every field.
            ``memory``: the F * A * d numbers of a row are cut, as they lie, into A runs of F * d;
            head a takes run a as F vectors of d. So with A > 1 its vectors are parts of the
            fields [a F / A, (a + 1) F / A) only, and what it attends to is put back in its place.
        attention_scale: divide the scores by sqrt(d); paper and reference do not.
        residual: add X Wr.
        hidden_sizes: widths of the deep part; none: the attention part alone.
        dropout: after each layer of the deep part.
        bags: members of the bag fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        attention_layers: int,
        attention_size: int,
        attention_heads: int,
        attention_heads_layout: Literal["fields", "memory"] = "fields",
        attention_scale: bool,
        residual: bool,
        hidden_sizes: Sequence[int],
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        fields = len(field_sizes)
        width = attention_heads * attention_size
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=fields * width + sum(hidden_sizes[-1:]),
            bags=bags,
        )
        self.attention = nn.ModuleList(
            InteractingLayer(
                input_size=width if number else embedding_size,
                size=attention_size,
                heads=attention_heads,
                heads_layout=attention_heads_layout,
                scale=attention_scale,
                residual=residual,
            )
            for number in range(attention_layers)
        )
        self.deep = (
            MLP(input_size=fields * embedding_size, hidden_sizes=hidden_sizes, dropout=dropout)
            if hidden_sizes
            else None
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Attention part and deep part side by side: (B, F) -> (B, D)."""
        x0_BFE = x_BFE = self.embedding(x_id_BF)
        for layer in self.attention:
            x_BFE = layer(x_BFE)
        attention_BX = x_BFE.flatten(1)
        if self.deep is None:
            return attention_BX
        return torch.cat([attention_BX, self.deep(x0_BFE.flatten(1))], dim=1)


class InteractingLayer(nn.Module):
    """One layer of self-attention over the fields, without biases (equations 5 to 8)."""

    def __init__(
        self,
        *,
        input_size: int,
        size: int,
        heads: int,
        heads_layout: Literal["fields", "memory"] = "fields",
        scale: bool,
        residual: bool,
    ) -> None:
        super().__init__()
        width = heads * size
        self.heads = heads
        self.heads_layout = heads_layout
        self.factor = size**-0.5 if scale else 1.0
        self.query = nn.Linear(input_size, width, bias=False)
        self.key = nn.Linear(input_size, width, bias=False)
        self.value = nn.Linear(input_size, width, bias=False)
        self.residual = residual
        self.project = (
            nn.Linear(input_size, width, bias=False) if residual and input_size != width else None
        )

    def forward(self, x_BFE: Tensor) -> Tensor:
        """(B, F, input size) -> (B, F, A * d)."""
        # One product for all projections: they are narrow, and each alone would be mostly overhead.
        layers = [self.query, self.key, self.value]
        if self.project is not None:
            layers.append(self.project)
        parts = functional.linear(x_BFE, torch.cat([layer.weight for layer in layers]))
        # unbind, not chunk: its gradient is written once, not added up from zero-filled slices
        sides = parts.unflatten(-1, (len(layers), -1)).unbind(dim=-2)
        query_BFX, key_BFX, value_BFX, *projected = sides
        query_BAFd, key_BAFd, value_BAFd = map(self._split, (query_BFX, key_BFX, value_BFX))
        score_BAFF = query_BAFd @ key_BAFd.transpose(-1, -2)
        if self.factor != 1.0:
            score_BAFF = score_BAFF * self.factor
        out_BAFd = softmax_over_fields(score_BAFF).to(value_BAFd.dtype) @ value_BAFd
        if self.heads_layout == "fields":
            out_BFX = out_BAFd.transpose(1, 2).flatten(2)
        else:
            out_BFX = out_BAFd.reshape(query_BFX.shape)
        if self.residual:
            out_BFX = out_BFX + (projected[0] if projected else x_BFE)
        return out_BFX.relu()

    def _split(self, x_BFX: Tensor) -> Tensor:
        """(B, F, A * d) -> (B, A, F, d)."""
        if self.heads_layout == "memory":
            batch, fields, width = x_BFX.shape
            return x_BFX.reshape(batch, self.heads, fields, width // self.heads)
        return x_BFX.unflatten(-1, (self.heads, -1)).transpose(1, 2)
