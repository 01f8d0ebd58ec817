"""ClickPrompt (Lin et al., WWW 2024): pretraining and click prediction.

Letters: B batch, F fields, D representation, N text tokens, H hidden, S selected tokens,
V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.ctr import CTRModel
from clickprompt.plm import MLMHead, PromptedEncoder, pool
from clickprompt.prompts import AnyGenerator, InputPrompts

Pooling = Literal["mean", "cls", "last", "avg_first_last", "avg_top2"]
Fusion = Literal["alpha", "sum"]
PromptUse = Literal["on", "off", "shuffled"]


class CTRForClicks(nn.Module):
    """A CTR model alone: the backbone, and ClickPrompt finetuned without the PLM.

    Sections 2 and 7 of docs/method.md.

    Both have this class, so architecture, parameter count and serving cost are equal by
    construction.
    """

    def __init__(self, *, ctr: CTRModel) -> None:
        super().__init__()
        self.ctr = ctr

    def forward(self, x_id_BF: Tensor) -> Tensor:
        """Logits (B,) in float32 (or float64) from local ids (B, F)."""
        return _not_half(self.ctr(x_id_BF))


class ClickPromptForPretraining(nn.Module):
    """Prompt-augmented masked language modelling (section 5 of docs/method.md).

    The uncorrupted IDs give the representation, the representation gives the prompts, and the PLM
    restores the masked tokens with their help. A causal PLM is given the whole text instead and
    predicts the token after each selected one (PA-CLM).

    Without a generator it is plain language modelling: nothing reads the CTR model, which is only
    kept, and its parameters get no gradient.
    """

    def __init__(
        self,
        *,
        ctr: CTRModel,
        generator: AnyGenerator | None,
        encoder: PromptedEncoder,
        mlm_head: MLMHead,
    ) -> None:
        super().__init__()
        self.ctr = ctr
        self.generator = generator
        self.encoder = encoder
        self.mlm_head = mlm_head

    def forward(
        self,
        x_id_BF: Tensor,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        rows_S: Tensor,
        columns_S: Tensor,
        vocabulary_V: Tensor | None = None,
        *,
        prompts: PromptUse = "on",
    ) -> Tensor:
        """Logits of the selected tokens.

        Args:
            x_id_BF: local ids (B, F), never corrupted.
            token_ids_BN: token ids (B, N), corrupted in PA-MLM.
            mask_BN: True on text, False on padding; None when nothing is padded.
            rows_S: batch row of each selected token (S,).
            columns_S: text position of each selected token (S,).
            vocabulary_V: token ids that the softmax runs over; None: the whole vocabulary.
            prompts: ``off`` leaves them out, ``shuffled`` gives each row those of the row half a
                batch away; both only measure what the prompts contribute. Without a generator
                there are none in any case.

        Returns:
            (S, V), column v belonging to ``vocabulary_V[v]``.
        """
        written = None
        if prompts != "off" and self.generator is not None:
            representation_BD = self.ctr.representation(x_id_BF)
            if prompts == "shuffled":
                representation_BD = representation_BD.roll(len(x_id_BF) // 2, dims=0)
            written = self.generator(representation_BD)
        hidden_SH = self.encoder(token_ids_BN, mask_BN, written, last_layer_at=(rows_S, columns_S))
        return self.mlm_head(hidden_SH, vocabulary_V)


class ClickPromptForClicks(nn.Module):
    """Click prediction with the CTR model and the PLM together (section 6 of docs/method.md).

    ``alpha``: logit = alpha * z_ctr + (1 - alpha) * z_plm with a learnt scalar alpha.
    ``sum``: logit = z_ctr + z_plm.
    Without a generator the two models meet in this logit only.

    NOTE[DIFF]: the authors' code adds the two logits by default; here alpha is the default, as
    in the paper, it stands on the CTR logit, and it has no weight decay. ``fusion: sum`` is theirs.

    NOTE[DIFF]: the authors' code runs the CTR model twice a step; here its representation
    is computed once and serves the prompts and the CTR logit.

    NOTE[DIFF]: prompts in front of the text (``input_only``) are pooled with it in the authors'
    code, and ``cls`` is then the first of them; here pooling sees the text only, unless
    ``pool_prompts`` says otherwise.

    Args:
        ctr: the CTR model.
        generator: from its representation to prompts; None: no prompts.
        encoder: the PLM.
        pooling: of its hidden states.
        fusion: of the two logits.
        alpha: start of the CTR logit's weight.
        pool_prompts: pool over the prompts of `InputPrompts` and the text.

    Raises:
        ValueError: ``cls`` pooling with a causal PLM.
    """

    def __init__(
        self,
        *,
        ctr: CTRModel,
        generator: AnyGenerator | None,
        encoder: PromptedEncoder,
        pooling: Pooling = "mean",
        fusion: Fusion = "alpha",
        alpha: float = 0.5,
        pool_prompts: bool = False,
    ) -> None:
        super().__init__()
        if pooling == "cls" and encoder.family.causal:
            raise ValueError(
                "finetune.with_plm.pooling must be last, mean, avg_first_last or avg_top2 for a "
                "causal PLM, whose first token has seen nothing of the text, got 'cls'"
            )
        self.ctr = ctr
        self.generator = generator
        self.encoder = encoder
        width = encoder.hidden_size
        self.click_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.pooling: Pooling = pooling
        self.pool_prompts = pool_prompts
        self.alpha = nn.Parameter(torch.tensor(alpha)) if fusion == "alpha" else None

    def initialise_head(self, generator: torch.Generator) -> None:
        """Fresh PLM head: Xavier-normal weights from ``generator``, zero biases."""
        for layer in self.click_head:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        x_id_BF: Tensor,
        token_ids_BN: Tensor,
        mask_BN: Tensor | None,
        *,
        prompts: PromptUse = "on",
    ) -> Tensor:
        """Logits (B,) in float32 (or float64).

        Args:
            x_id_BF: local ids (B, F).
            token_ids_BN: token ids (B, N).
            mask_BN: True on text, False on padding; None when nothing is padded.
            prompts: ``off`` leaves them out, ``shuffled`` gives each row those of the row half a
                batch away. The CTR logit is the row's own in all three, so that they measure what
                the prompts contribute and nothing else. Without a generator there are none.
        """
        representation_BD = self.ctr.representation(x_id_BF)
        written = None
        if self.generator is not None and prompts != "off":
            asked_BD = representation_BD
            if prompts == "shuffled":
                asked_BD = representation_BD.roll(len(x_id_BF) // 2, dims=0)
            written = self.generator(asked_BD)
        hidden = self.encoder(
            token_ids_BN,
            mask_BN,
            written,
            all_layers=self.pooling.startswith("avg"),
            with_prompts=self.pool_prompts,
        )
        if self.pool_prompts and mask_BN is not None and isinstance(written, InputPrompts):
            mask_BN = functional.pad(mask_BN, (written.vector_BKE.shape[1], 0), value=True)
        pooled_BH = pool(hidden, mask_BN, self.pooling)
        z_ctr_B = _not_half(self.ctr.logits(representation_BD, x_id_BF))
        # The last products in float32: a bf16 logit has three digits and ties many rows.
        with torch.autocast(pooled_BH.device.type, enabled=False):
            z_plm_B = self.click_head(
                pooled_BH.to(next(self.click_head.parameters()).dtype)
            ).squeeze(-1)
        if self.alpha is None:
            return z_ctr_B + z_plm_B
        return self.alpha * z_ctr_B + (1 - self.alpha) * z_plm_B


def _not_half(logits_B: Tensor) -> Tensor:
    """Logits of bf16 in float32; those of float64 stay exact."""
    return logits_B if logits_B.dtype == torch.float64 else logits_B.float()
