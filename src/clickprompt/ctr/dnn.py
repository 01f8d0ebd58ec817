"""DNN: a plain multi-layer perceptron over the embedded fields.

Shapes: B batch, F fields, E embedding size, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP


class DNN(CTRModel):
    """q = MLP([e_1; ...; e_F]), logit = w.q + b. D = the last hidden size.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        hidden_sizes: widths of the MLP.
        dropout: after each layer of the MLP.
        bags: members of the bag fields.
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
        self.deep = MLP(
            input_size=len(field_sizes) * embedding_size, hidden_sizes=hidden_sizes, dropout=dropout
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Output of the last hidden layer: (B, F) -> (B, D)."""
        return self.deep(self.embedding(x_id_BF).flatten(1))
