"""xDeepFM: compressed interaction network beside a deep part (Lian et al., KDD 2018, 1803.05170).

Shapes: B batch, F fields, E embedding size, P = F * (F + 1) / 2 pairs, M inputs and K outputs of a
CIN layer, D representation size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP, LinearTerm


class XDeepFM(CTRModel):
    """q = [CIN(e_1, ..., e_F); MLP([e_1; ...; e_F])], logit = w.q + b [+ linear term].

    CIN (equation 6): x^0_f = e_f, and layer l makes K_l vectors
    x^l_k = sum_{h, m} W^l_{k, h, m} (x^0_h * x^{l-1}_m) + b^l_k, * elementwise; its part of q is
    the sum of each x^l_k over E. D = sum of all K_l + the last hidden size, or without it.

    NOTE[DIFF]: the paper has a linear term, and its code splits each CIN layer in two halves;
    here, as in the reference, there is no linear term by default (``linear`` adds it), every
    layer goes whole to the next one and into q, has a bias and no activation.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        cin_sizes: K of each CIN layer.
        hidden_sizes: widths of the deep part; none: CIN alone.
        linear: add the linear term to the logit.
        dropout: after each layer of the deep part.
        bags: members of the bag fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        cin_sizes: Sequence[int],
        hidden_sizes: Sequence[int],
        linear: bool = False,
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        fields = len(field_sizes)
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=sum(cin_sizes) + sum(hidden_sizes[-1:]),
            bags=bags,
        )
        self.cin = CIN(fields=fields, sizes=cin_sizes)
        self.deep = (
            MLP(input_size=fields * embedding_size, hidden_sizes=hidden_sizes, dropout=dropout)
            if hidden_sizes
            else None
        )
        self.linear = LinearTerm(field_sizes=field_sizes, bags=bags) if linear else None

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """CIN and deep part side by side: (B, F) -> (B, D)."""
        x_BFE = self.embedding(x_id_BF)
        cin_BK = self.cin(x_BFE)
        return cin_BK if self.deep is None else torch.cat([cin_BK, self.deep(x_BFE.flatten(1))], 1)

    def logits(self, representation_BD: Tensor, x_id_BF: Tensor) -> Tensor:
        """The head over q, and the linear term -> (B,)."""
        logit_B = super().logits(representation_BD, x_id_BF)
        return logit_B if self.linear is None else logit_B + self.linear(x_id_BF)

    def logit_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the head and of the linear term."""
        yield from super().logit_parameters()
        if self.linear is not None:
            yield from self.linear.parameters()


class CIN(nn.Module):
    """Compressed interaction network, without the products x_h * x_m of all layers side by side.

    Only sums over E leave it. The sum of layer L over E is
    sum_{h, m} W^L_{k, h, m} <x_h, x^{L-1}_m> + E b^L_k, and putting in x^{L-1} of layer L-1 gives
    sum_{h, h', n} U_{k, h, h', n} <x_h * x_h', x^{L-2}_n> + sum_h c_{k, h} sum_e x_{h, e} + E b^L_k
    with U = W^L W^{L-1} and c = W^L b^{L-1}, which know nothing of the batch. As h and h' can
    change places, U is kept for the P pairs h <= h' only. So of L layers L - 2 are computed as
    vectors, and no product of three factors is ever in memory.

    Weights of a layer are (K, F * M), column h * M + m for x^0_h * x^{l-1}_m.
    """

    upper_P: Tensor
    once_P: Tensor

    def __init__(self, *, fields: int, sizes: Sequence[int]) -> None:
        super().__init__()
        inputs = [fields, *sizes[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(fields * size_in, size) for size_in, size in zip(inputs, sizes, strict=True)
        )
        row_P, column_P = torch.triu_indices(fields, fields)
        self.register_buffer("upper_P", row_P * fields + column_P, persistent=False)
        once_P = torch.where(row_P == column_P, 0.5, 1.0)
        self.register_buffer("once_P", once_P, persistent=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        """(B, F, E) -> sums over E of all layers' outputs (B, sum of K)."""
        fields, size = x_BFE.shape[1:]
        layers = cast("list[nn.Linear]", list(self.layers))
        pair_BPE = _PairProducts.apply(x_BFE)
        out_BEM = x_BFE.transpose(1, 2)
        sums = []
        for number, layer in enumerate(layers[:-2]):
            if number == 0:
                weight_KP1 = self._by_pair(layer.weight.unflatten(1, (fields, fields, 1)))
                out_BEM = functional.linear(
                    pair_BPE.transpose(1, 2), weight_KP1.squeeze(2), layer.bias
                )
            else:
                out_BEM = _vectors(layer, x_BFE, out_BEM)
            sums.append(out_BEM.sum(dim=1))

        dot_BFM = x_BFE @ out_BEM
        last = layers[-1]
        if len(layers) == 1:
            return functional.linear(dot_BFM.flatten(1), last.weight, size * last.bias)
        before = layers[-2]
        sums.append(functional.linear(dot_BFM.flatten(1), before.weight, size * before.bias))
        last_KFM = last.weight.unflatten(1, (fields, -1))
        both_KFX = last_KFM @ before.weight
        both_KPN = self._by_pair(both_KFX.unflatten(2, (fields, -1)))
        dot_BPN = pair_BPE @ out_BEM
        sum_BK = functional.linear(dot_BPN.flatten(1), both_KPN.flatten(1), size * last.bias)
        sums.append(sum_BK + functional.linear(x_BFE.sum(dim=2), last_KFM @ before.bias))
        return torch.cat(sums, dim=1)

    def _by_pair(self, weight_KFFN: Tensor) -> Tensor:
        """W_hm + W_mh of the pairs h < m, and W_hh: (K, F, F, N) -> (K, P, N)."""
        both_KXN = (weight_KFFN + weight_KFFN.transpose(1, 2)).flatten(1, 2)
        return both_KXN.index_select(1, self.upper_P) * self.once_P.unsqueeze(1)


class _PairProducts(torch.autograd.Function):
    """x_h * x_m of all pairs h <= m: (B, F, E) -> (B, P, E), in the order of ``triu_indices``.

    Written out for the backward pass: autograd would fill and add a whole gradient of x for each
    of the 2 F slices.
    """

    @staticmethod
    def forward(ctx: Any, x_BFE: Tensor) -> Tensor:
        ctx.save_for_backward(x_BFE)
        fields = x_BFE.shape[1]
        return torch.cat([x_BFE[:, h : h + 1] * x_BFE[:, h:] for h in range(fields)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BPE: Tensor) -> Tensor:
        (x_BFE,) = ctx.saved_tensors
        fields = x_BFE.shape[1]
        gradient_BFE = torch.zeros_like(x_BFE)
        parts = gradient_BPE.split(list(range(fields, 0, -1)), dim=1)
        for h, part_BmE in enumerate(parts):
            gradient_BFE[:, h:].addcmul_(part_BmE, x_BFE[:, h : h + 1])
            gradient_BFE[:, h] += (part_BmE * x_BFE[:, h:]).sum(dim=1)
        return gradient_BFE


def _vectors(layer: nn.Linear, x_BFE: Tensor, out_BEM: Tensor) -> Tensor:
    """All vectors of a layer (B, E, K) from those of the layer before (B, E, M), field by field."""
    next_BEK: Tensor = layer.bias
    weight_FKM = layer.weight.unflatten(1, (x_BFE.shape[1], -1)).unbind(dim=1)
    for x_BE, weight_KM in zip(x_BFE.unbind(dim=1), weight_FKM, strict=True):
        next_BEK = next_BEK + x_BE.unsqueeze(2) * functional.linear(out_BEM, weight_KM)
    return next_BEK
