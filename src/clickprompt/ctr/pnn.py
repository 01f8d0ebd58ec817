"""PNN: a deep part over embeddings and their products (Qu et al., ICDM 2016, 1611.00144).

Shapes: B batch, F fields, E embedding size, X = F * E, P = F * (F - 1) / 2, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP, InnerProducts


class PNN(CTRModel):
    """q = MLP([e_1; ...; e_F; <e_1, e_2>; <e_1, e_3>; ...]), logit = w.q + b. D = the last size.

    NOTE[DIFF]: the paper's IPNN has a product layer that weighs all inner products (i = j too) by
    matrices of rank one; here, as in the reference, the products of all pairs i < j go as they are
    into the first layer of the MLP, with a weight each. The outer products of OPNN are not there.

    Args:
        field_sizes: table rows per field, two fields or more.
        embedding_size: E.
        hidden_sizes: widths of the MLP.
        dropout: after each layer of the MLP.
        bags: members of the bag fields.

    Raises:
        ValueError: fewer than two fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        hidden_sizes: Sequence[int],
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=hidden_sizes[-1],
            bags=bags,
        )
        fields = len(field_sizes)
        self.products = InnerProducts(fields=fields)
        self.deep = MLP(
            input_size=fields * embedding_size + fields * (fields - 1) // 2,
            hidden_sizes=hidden_sizes,
            dropout=dropout,
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Output of the last hidden layer: (B, F) -> (B, D)."""
        x_BFE = self.embedding(x_id_BF)
        return self.deep(torch.cat([x_BFE.flatten(1), self.products(x_BFE)], dim=1))
