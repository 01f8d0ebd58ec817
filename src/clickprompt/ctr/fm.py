"""FM: factorisation machine (Rendle, ICDM 2010).

Shapes: B batch, F fields, E embedding size, D representation size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from clickprompt.ctr.base import CTRModel
from clickprompt.ctr.blocks import LinearTerm, pooled_interaction


class FM(CTRModel):
    """q = sum_{i<j} e_i * e_j (elementwise), logit = sum of q over E [+ sum_f w[x_f] + b]. D = E.

    The sum of q is sum_{i<j} <e_i, e_j>, equation 1 of the paper; the part in brackets is its
    linear term. There is no head: without the linear term the table is all that is learnt.

    NOTE[DIFF]: the FM of the reference has no representation and so cannot write prompts; here it
    is the pairwise interaction before the sum over E. The logit is the same.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        linear: add the linear term.
        bags: members of the bag fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        linear: bool = False,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=embedding_size,
            head=nn.Identity(),
            bags=bags,
        )
        self.linear = LinearTerm(field_sizes=field_sizes, bags=bags) if linear else None

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Pooled pairwise interaction: (B, F) -> (B, E)."""
        return pooled_interaction(self.embedding(x_id_BF))

    def logits(self, representation_BD: Tensor, x_id_BF: Tensor) -> Tensor:
        """Sum of the interaction, and the linear term -> (B,)."""
        logit_B = representation_BD.sum(dim=1)
        return logit_B if self.linear is None else logit_B + self.linear(x_id_BF)

    def logit_parameters(self) -> Iterator[nn.Parameter]:
        """Those of the linear term."""
        if self.linear is not None:
            yield from self.linear.parameters()
