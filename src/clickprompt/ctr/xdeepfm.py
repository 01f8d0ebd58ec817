"""xDeepFM: compressed interaction network beside a deep part (Lian et al., KDD 2018, 1803.05170).

Shapes: B batch, F fields, E embedding size, P = F * (F + 1) / 2 pairs, M inputs and K outputs of a
CIN layer, D representation size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
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

    Only sums over E leave it, so the last two layers need inner products instead of vectors:
    sum_e x^l_k = sum_{h, m} W^l_{k, h, m} <x_h, x^{l-1}_m> + E b^l_k, and the <x_h, x^{l-1}_m> of
    the last layer follow in the same way from sums over E of three factors, x_h * x_h' times
    x^{l-2}_m. With L layers, L - 2 are computed as vectors. The products x_h * x_h' are those of
    pairs h <= h', half of F * F.

    Weights of a layer are (K, F * M), column h * M + m for x^0_h * x^{l-1}_m.
    """

    upper_P: Tensor
    once_P: Tensor
    pair_X: Tensor

    def __init__(self, *, fields: int, sizes: Sequence[int]) -> None:
        super().__init__()
        inputs = [fields, *sizes[:-1]]
        self.layers = nn.ModuleList(
            nn.Linear(fields * size_in, size) for size_in, size in zip(inputs, sizes, strict=True)
        )
        row_P, column_P = torch.triu_indices(fields, fields)
        pair_FF = torch.zeros(fields, fields, dtype=torch.long)
        pair_FF[row_P, column_P] = pair_FF[column_P, row_P] = torch.arange(len(row_P))
        once_P = torch.where(row_P == column_P, 0.5, 1.0)
        self.register_buffer("upper_P", row_P * fields + column_P, persistent=False)
        self.register_buffer("once_P", once_P, persistent=False)
        self.register_buffer("pair_X", pair_FF.flatten(), persistent=False)

    def forward(self, x_BFE: Tensor) -> Tensor:
        """(B, F, E) -> sums over E of all layers' outputs (B, sum of K)."""
        fields, size = x_BFE.shape[1:]
        pair_BPE = torch.cat([x_BFE[:, h : h + 1] * x_BFE[:, h:] for h in range(fields)], dim=1)
        layers = cast("list[nn.Linear]", list(self.layers))
        out_BEM = x_BFE.transpose(1, 2)
        sums = []
        for number, layer in enumerate(layers[:-2]):
            if number == 0:
                out_BEM = functional.linear(
                    pair_BPE.transpose(1, 2), self._pair_weight(layer), layer.bias
                )
            else:
                out_BEM = _vectors(layer, x_BFE, out_BEM)
            sums.append(out_BEM.sum(dim=1))

        dot_BFM = x_BFE @ out_BEM
        if len(layers) > 1:
            before = layers[-2]
            sums.append(_pooled(before, dot_BFM, size))
            dot_BPM = pair_BPE @ out_BEM
            dot_BXM = dot_BPM.index_select(1, self.pair_X)
            dot_BFX = dot_BXM.unflatten(1, (fields, fields)).flatten(2)
            dot_BFM = functional.linear(dot_BFX, before.weight)
            dot_BFM = dot_BFM + x_BFE.sum(dim=2, keepdim=True) * before.bias
        sums.append(_pooled(layers[-1], dot_BFM, size))
        return torch.cat(sums, dim=1)

    def _pair_weight(self, layer: nn.Linear) -> Tensor:
        """Weights of the first layer by pair, W_hm + W_mh and W_hh: (K, F * F) -> (K, P)."""
        fields = int(self.pair_X.shape[0] ** 0.5)
        weight_KFF = layer.weight.unflatten(1, (fields, fields))
        both_KX = (weight_KFF + weight_KFF.transpose(1, 2)).flatten(1)
        return both_KX.index_select(1, self.upper_P) * self.once_P


def _vectors(layer: nn.Linear, x_BFE: Tensor, out_BEM: Tensor) -> Tensor:
    """All vectors of a layer (B, E, K) from those of the layer before (B, E, M), field by field."""
    next_BEK: Tensor = layer.bias
    weight_FKM = layer.weight.unflatten(1, (x_BFE.shape[1], -1)).unbind(dim=1)
    for x_BE, weight_KM in zip(x_BFE.unbind(dim=1), weight_FKM, strict=True):
        next_BEK = next_BEK + x_BE.unsqueeze(2) * functional.linear(out_BEM, weight_KM)
    return next_BEK


def _pooled(layer: nn.Linear, dot_BFM: Tensor, size: int) -> Tensor:
    """Sums over E of a layer's vectors (B, K) from the <x_h, x_m> of its inputs (B, F, M)."""
    return functional.linear(dot_BFM.flatten(1), layer.weight, size * layer.bias)
