"""CTRL (Li et al., 2023, arXiv 2306.02841): a CTR tower and a PLM tower are aligned, one serves.

Letters: B batch, F fields, N text tokens, D representation, H hidden, P projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.ctr import CTRModel
from clickprompt.models.clickprompt import Pooling
from clickprompt.plm import PromptedEncoder, pool


class CTRLForAlignment(nn.Module):
    """Two towers over the two views of a row, each with a linear projection to the same space.

    After the alignment the CTR tower alone is finetuned and served, as ClickPrompt without PLM is.

    NOTE[DIFF]: the paper splits each tower's vector into parts and aligns them by the largest
    similarity of parts (fine-grained alignment); here whole vectors are compared, by their cosine.

    Args:
        ctr: the CTR tower, its representation is aligned.
        encoder: the PLM tower.
        size: P, width of the common space.
        pooling: of the PLM's hidden states.
    """

    def __init__(
        self, *, ctr: CTRModel, encoder: PromptedEncoder, size: int, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.ctr = ctr
        self.encoder = encoder
        self.ctr_projection = nn.Linear(ctr.representation_size, size)
        self.text_projection = nn.Linear(encoder.hidden_size, size)
        self.pooling: Pooling = pooling

    def initialise_projections(self, generator: torch.Generator) -> None:
        """Xavier-normal weights from ``generator``, zero biases."""
        for layer in (self.ctr_projection, self.text_projection):
            nn.init.xavier_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(
        self, x_id_BF: Tensor, token_ids_BN: Tensor, mask_BN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 of the ids and of the texts, both (B, P).

        Args:
            x_id_BF: local ids (B, F).
            token_ids_BN: token ids (B, N).
            mask_BN: True on text, False on padding; None when nothing is padded.
        """
        hidden = self.encoder(token_ids_BN, mask_BN, all_layers=self.pooling.startswith("avg"))
        pooled_BH = pool(hidden, mask_BN, self.pooling)
        representation_BD = self.ctr.representation(x_id_BF)
        # Similarities divided by a small temperature: not in bf16.
        with torch.autocast(pooled_BH.device.type, enabled=False):
            kind = self.ctr_projection.weight.dtype
            of_ids_BP = self.ctr_projection(representation_BD.to(kind))
            of_text_BP = self.text_projection(pooled_BH.to(kind))
        return functional.normalize(of_ids_BP, dim=1), functional.normalize(of_text_BP, dim=1)


def info_nce(
    of_ids_BP: Tensor, of_text_BP: Tensor, temperature: float, same_BB: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE: each row's ids find their text among the batch, and each text its ids.

    With s_ij = u_i . v_j / temperature, summed over rows::

        1/2 sum_i [-log softmax_j(s_ij)_i] + 1/2 sum_j [-log softmax_i(s_ij)_j]

    Args:
        of_ids_BP: u, vectors of the ids.
        of_text_BP: v, vectors of the texts.
        temperature: above 0.
        same_BB: bool, True where rows i and j are the same sample twice: such a pair is right as
            well, hence no negative. The diagonal is not looked at. None: no two are the same.

    Returns:
        The sum over the rows, a scalar.
    """
    score_BB = of_ids_BP @ of_text_BP.T / temperature
    if same_BB is not None:
        own_BB = torch.eye(len(score_BB), dtype=torch.bool, device=score_BB.device)
        score_BB = score_BB.masked_fill(same_BB & ~own_BB, float("-inf"))
    target_B = torch.arange(len(score_BB), device=score_BB.device)
    by_ids = functional.cross_entropy(score_BB, target_B, reduction="sum")
    by_text = functional.cross_entropy(score_BB.T, target_B, reduction="sum")
    return (by_ids + by_text) / 2
