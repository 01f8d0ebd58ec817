"""DeepFM: an FM and a deep part over the same embeddings (Guo et al., IJCAI 2017, 1703.04247).

Shapes: B batch, F fields, E embedding size, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP, LinearTerm, pooled_interaction


class DeepFM(CTRModel):
    """q = [h; z_fm], logit = w.h + b + z_fm, with h = MLP([e_1; ...; e_F]).

    z_fm = sum_{i<j} <e_i, e_j> [+ sum_f w[x_f] + b], the part in brackets being the linear term
    (equations 1 to 4 of the paper). The head sees the deep part only. D = the last hidden size
    + 1, as in the reference: through q the prompts know of the FM and the linear term too.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        hidden_sizes: widths of the deep part.
        linear: add the linear term.
        dropout: after each layer of the deep part.
        bags: members of the bag fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        hidden_sizes: Sequence[int],
        linear: bool = False,
        dropout: float = 0.0,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=hidden_sizes[-1] + 1,
            head=nn.Linear(hidden_sizes[-1], 1),
            bags=bags,
        )
        self.deep = MLP(
            input_size=len(field_sizes) * embedding_size, hidden_sizes=hidden_sizes, dropout=dropout
        )
        self.linear = LinearTerm(field_sizes=field_sizes, bags=bags) if linear else None

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Deep part and shallow logit side by side: (B, F) -> (B, D)."""
        deep_BH, shallow_B = self._parts(x_id_BF)
        return torch.cat([deep_BH, shallow_B.unsqueeze(1)], dim=1)

    def logits(self, representation_BD: Tensor, x_id_BF: Tensor) -> Tensor:
        """The head over the deep part, and the shallow logit -> (B,)."""
        return self.head(representation_BD[:, :-1]).squeeze(-1) + representation_BD[:, -1]

    def forward(self, x_id_BF: Tensor) -> Tensor:
        """Logit of a click, without the copies that q needs: local ids (B, F) -> (B,)."""
        deep_BH, shallow_B = self._parts(x_id_BF)
        return self.head(deep_BH).squeeze(-1) + shallow_B

    def _parts(self, x_id_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Deep part (B, last hidden size) and shallow logit (B,)."""
        x_BFE = self.embedding(x_id_BF)
        shallow_B = pooled_interaction(x_BFE).sum(dim=1)
        if self.linear is not None:
            shallow_B = shallow_B + self.linear(x_id_BF)
        return self.deep(x_BFE.flatten(1)), shallow_B
