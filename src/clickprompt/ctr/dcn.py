"""DCN: vector cross layers beside a deep part (Wang et al., ADKDD 2017, 1708.05123).

Shapes: B batch, F fields, E embedding size, X = F * E, L cross layers, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP


class DCN(CTRModel):
    """Cross network and deep network side by side (section 2 of its paper).

    With x_0 = [e_1; ...; e_F], x_{l+1} = (w_l . x_l) x_0 + b_l + x_l for l = 0, ..., L - 1;
    q = [x_L; MLP(x_0)] and logit = w.q + b. D = X + the last hidden size, or X without a deep
    part.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        cross_layers: L.
        hidden_sizes: widths of the deep part; none: the cross network alone.
        dropout: after each layer of the deep part.
        bags: members of the bag fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        cross_layers: int,
        hidden_sizes: Sequence[int],
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        width = len(field_sizes) * embedding_size
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=width + sum(hidden_sizes[-1:]),
            bags=bags,
        )
        self.cross = nn.ModuleList(CrossLayer(size=width) for _ in range(cross_layers))
        self.deep = (
            MLP(input_size=width, hidden_sizes=hidden_sizes, dropout=dropout)
            if hidden_sizes
            else None
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Cross part and deep part side by side: (B, F) -> (B, D)."""
        x0_BX = self.embedding(x_id_BF).flatten(1)
        cross_BX = self._cross(x0_BX)
        return cross_BX if self.deep is None else torch.cat([cross_BX, self.deep(x0_BX)], dim=1)

    def _cross(self, x0_BX: Tensor) -> Tensor:
        """x_L.

        Every x_l is a_l x_0 + c_l with a number a_l per row and a vector c_l that all rows share,
        since (w_l . x_l) x_0 is a multiple of x_0. So the products w_l . x_0 of all layers are one
        matrix product, and the layers themselves work on numbers.
        """
        layers = cast("list[CrossLayer]", list(self.cross))
        weight_LX = torch.cat([layer.weight for layer in layers])
        dot_BL = (x0_BX @ weight_LX.T).to(x0_BX.dtype)  # autocast rounds the product, not the sums
        a_B = torch.ones_like(dot_BL[:, 0])
        c_X = x0_BX.new_zeros(x0_BX.shape[1])
        for number, layer in enumerate(layers):
            a_B = a_B + a_B * dot_BL[:, number] + (layer.weight[0] * c_X).sum()
            c_X = c_X + layer.bias
        return torch.addcmul(c_X, a_B.unsqueeze(1), x0_BX)


class CrossLayer(nn.Module):
    """Weights of one cross layer: b, and w as a matrix (1, X), so that it is drawn and decays."""

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, size))
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.xavier_normal_(self.weight)
