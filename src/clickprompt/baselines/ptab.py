"""PTab (Liu et al., 2022, arXiv 2209.08060): the language model alone, read as tabular text.

Letters: B batch, F fields, N text tokens, H hidden.
"""

from __future__ import annotations

from torch import Tensor, nn

from clickprompt.models.clickprompt import Pooling
from clickprompt.plm import ClickHead, PromptedEncoder, pool


class PTab(nn.Module):
    """Text in, click out: modality transformation, masked-language finetuning, classification.

    The first step is the text view; the second is the stage of pretraining without prompts, whose
    PLM is then loaded here; the third is the training of this model.

    NOTE[DIFF]: the paper reads the ``[CLS]`` token through a linear classifier, here the pooling is
    a parameter and the head is that of ClickPrompt (Linear, tanh, Linear), so that the two differ
    in nothing but the CTR model and its prompts.

    Args:
        encoder: the PLM.
        pooling: of its hidden states.
    """

    def __init__(self, *, encoder: PromptedEncoder, pooling: Pooling = "mean") -> None:
        super().__init__()
        self.encoder = encoder
        self.click_head = ClickHead(encoder.hidden_size)
        self.pooling: Pooling = pooling

    def forward(self, token_ids_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
        """Logits (B,).

        Args:
            token_ids_BN: token ids (B, N).
            mask_BN: True on text, False on padding; None when nothing is padded.
        """
        hidden = self.encoder(token_ids_BN, mask_BN, all_layers=self.pooling.startswith("avg"))
        logit_B: Tensor = self.click_head(pool(hidden, mask_BN, self.pooling))
        return logit_B
