"""What all CTR models have in common (section 2 of docs/method.md).

Shapes: B batch, F fields, E embedding size, D representation size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr.embedding import FeatureEmbedding

# ctr.initialisation -> how a matrix is drawn.
INITIALISATIONS: dict[str, Callable[..., Tensor]] = {
    "xavier_normal": nn.init.xavier_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
}


class CTRModel(nn.Module):
    """A CTR model: ids -> representation q -> logit (section 2 of docs/method.md).

    The representation is apart from the logit, since it is computed once per step and serves
    both the prompts and the click prediction. Logits only: the one sigmoid of the project is
    outside of the models.

    A subclass builds its layers and gives :meth:`representation`; one with shallow terms (FM,
    linear) overrides :meth:`logits` too. It is then named once in
    :mod:`clickprompt.ctr.registry`, and the contract suite covers it.

    Args:
        field_sizes: table rows per field, the out-of-vocabulary row included.
        embedding_size: E.
        representation_size: D.
        head: what turns q (B, D) into (B, 1); None: a linear layer.
        bags: members of the bag fields, see :class:`~clickprompt.ctr.embedding.FeatureEmbedding`.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        representation_size: int,
        head: nn.Module | None = None,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        self.representation_size = representation_size
        self.embedding = FeatureEmbedding(
            field_sizes=field_sizes, embedding_size=embedding_size, bags=bags
        )
        self.head = nn.Linear(representation_size, 1) if head is None else head

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """Feature-interaction representation q: local ids (B, F) -> (B, D)."""
        raise NotImplementedError

    def logits(self, representation_BD: Tensor, x_id_BF: Tensor) -> Tensor:
        """Logit of a click: the head over q, and the model's shallow terms -> (B,).

        Args:
            representation_BD: what :meth:`representation` gave for ``x_id_BF``.
            x_id_BF: local ids, for models with shallow terms.
        """
        return self.head(representation_BD).squeeze(-1)

    def forward(self, x_id_BF: Tensor) -> Tensor:
        """Logit of a click: local ids (B, F) -> (B,)."""
        return self.logits(self.representation(x_id_BF), x_id_BF)

    def logit_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the logit alone depends on: PA-MLM has nothing to teach them."""
        yield from self.head.parameters()

    @torch.no_grad()
    def initialise(
        self,
        generator: torch.Generator | None = None,
        *,
        initialisation: str = "xavier_normal",
        embedding_std: float | None = None,
    ) -> None:
        """Draw all weights anew; biases are 0, norms 1 and 0.

        Xavier draws a matrix (m, n) with the variance 2 / (m + n). Of a table m is its rows, so
        that a large one starts near 0: 10 million rows at a deviation of 0.00045. There
        ``embedding_std`` is of use.

        Args:
            generator: source of the numbers, on the model's device; None: torch's own.
            initialisation: a name of ``INITIALISATIONS``, for all matrices.
            embedding_std: deviation of the tables' normal distribution; None: as all matrices.
        """
        norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
        for module in self.modules():
            if isinstance(module, norms):
                module.reset_parameters()
                continue
            if isinstance(module, FeatureEmbedding) and embedding_std is not None:
                module.weight.normal_(std=embedding_std, generator=generator)
                continue
            for parameter in module.parameters(recurse=False):
                _fill(parameter, generator, initialisation)

    @torch.no_grad()
    def reset_head(
        self, generator: torch.Generator | None = None, *, initialisation: str = "xavier_normal"
    ) -> None:
        """Draw the head anew, as finetuning after PA-MLM asks for (section 7)."""
        for parameter in self.head.parameters():
            _fill(parameter, generator, initialisation)


def _fill(parameter: Tensor, generator: torch.Generator | None, initialisation: str) -> None:
    """A matrix is drawn, a vector (bias) becomes 0."""
    if parameter.ndim >= 2:
        INITIALISATIONS[initialisation](parameter, generator=generator)
    else:
        nn.init.zeros_(parameter)
