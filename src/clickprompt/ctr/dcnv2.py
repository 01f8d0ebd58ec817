"""DCNv2: full-matrix cross layers beside a deep part (Wang et al., WWW 2021, 2008.13535).

Shapes: B batch, F fields, E embedding size, X = F * E, D representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import MLP


class DCNv2(CTRModel):
    """Parallel DCNv2 (section 3.3 and figure 1b of its paper).

    With x_0 = [e_1; ...; e_F], the cross part is x_{l+1} = x_l + x_0 * (W_l x_l + b_l), * being
    the elementwise product and W_l a full X x X matrix; q = [cross part; MLP(x_0)] and
    logit = w.q + b. D = X + the last hidden size, or X without a deep part.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        cross_layers: number of cross layers.
        hidden_sizes: widths of the deep part; none: the cross part alone.
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
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(cross_layers))
        self.deep = (
            MLP(input_size=width, hidden_sizes=hidden_sizes, dropout=dropout)
            if hidden_sizes
            else None
        )

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Cross part and deep part side by side: (B, F) -> (B, D)."""
        x0_BX = self.embedding(x_id_BF).flatten(1)
        x_BX = x0_BX
        for layer in self.cross:
            x_BX = x_BX + x0_BX * layer(x_BX)
        return x_BX if self.deep is None else torch.cat([x_BX, self.deep(x0_BX)], dim=1)
