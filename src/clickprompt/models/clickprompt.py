"""ClickPrompt (Lin et al., WWW 2024): pretraining and click prediction.

Letters: B batch, F fields, D representation, N text tokens, H hidden, S selected tokens,
V vocabulary.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.ctr import CTRModel
from clickprompt.plm import ClickHead, MLMHead, PromptedEncoder, pool
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
        return not_half(self.ctr(x_id_BF))


class MaskedIds(NamedTuple):
    """What a model needs to restore masked IDs: I of them, each among C candidates of its field.

    Attributes:
        x_id_BF: local ids, some of them masked.
        token_ids_BN: the whole text, nothing masked.
        row_I: batch row of each masked ID.
        field_I: its field.
        candidate_C: rows of the embedding table.
        candidate_field_C: their fields.
    """

    x_id_BF: Tensor
    token_ids_BN: Tensor
    row_I: Tensor
    field_I: Tensor
    candidate_C: Tensor
    candidate_field_C: Tensor


class MaskedIdHead(nn.Module):
    """Scores of candidates for masked IDs, from what is left of the IDs and from the text.

    ``score_ic = W tanh(V [q_i; h_i] + f_i) . e_c`` with the representation q of the masked IDs, the
    pooled text h, a vector f of the masked field and the candidate's row e of the embedding table.

    Args:
        representation_size: of q.
        hidden_size: of h.
        embedding_size: of e.
        fields: F.
    """

    def __init__(
        self, *, representation_size: int, hidden_size: int, embedding_size: int, fields: int
    ) -> None:
        super().__init__()
        self.join = nn.Linear(representation_size + hidden_size, hidden_size)
        self.field = nn.Embedding(fields, hidden_size)
        self.project = nn.Linear(hidden_size, embedding_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Xavier-normal weights from ``generator``, zero biases."""
        for weight in (self.join.weight, self.field.weight, self.project.weight):
            nn.init.xavier_normal_(weight, generator=generator)
        for bias in (self.join.bias, self.project.bias):
            nn.init.zeros_(bias)

    def forward(self, joined_ID: Tensor, field_I: Tensor, candidate_CE: Tensor) -> Tensor:
        """Scores (I, C)."""
        hidden_IH = torch.tanh(self.join(joined_ID) + self.field(field_I))
        score_IC: Tensor = self.project(hidden_IH) @ candidate_CE.T
        return score_IC


class ClickPromptForPretraining(nn.Module):
    """Prompt-augmented masked language modelling (section 5 of docs/method.md).

    The uncorrupted IDs give the representation, the representation gives the prompts, and the PLM
    restores the masked tokens with their help. A causal PLM is given the whole text instead and
    predicts the token after each selected one (PA-CLM).

    Without a generator it is plain language modelling: nothing reads the CTR model, which is only
    kept, and its parameters get no gradient.

    With an ``id_head`` the text restores masked IDs as well, in a second pass of the PLM that has
    no prompts: what is learnt flows the other way. The paper does not have it; FLIP (Wang et al.,
    2023, arXiv 2310.19453) masks both modalities.
    """

    def __init__(
        self,
        *,
        ctr: CTRModel,
        generator: AnyGenerator | None,
        encoder: PromptedEncoder,
        mlm_head: MLMHead,
        id_head: MaskedIdHead | None = None,
    ) -> None:
        super().__init__()
        self.ctr = ctr
        self.generator = generator
        self.encoder = encoder
        self.mlm_head = mlm_head
        self.id_head = id_head

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
        masked_ids: MaskedIds | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
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
            masked_ids: to be restored as well.

        Returns:
            (S, V), column v belonging to ``vocabulary_V[v]``; with ``masked_ids`` also the scores
            of the candidates (I, C), -inf where a candidate is of another field.
        """
        written = None
        if prompts != "off" and self.generator is not None:
            representation_BD = self.ctr.representation(x_id_BF)
            if prompts == "shuffled":
                representation_BD = representation_BD.roll(len(x_id_BF) // 2, dims=0)
            written = self.generator(representation_BD)
        hidden_SH = self.encoder(token_ids_BN, mask_BN, written, last_layer_at=(rows_S, columns_S))
        logit_SV: Tensor = self.mlm_head(hidden_SH, vocabulary_V)
        return logit_SV if masked_ids is None else (logit_SV, self._restore(masked_ids, mask_BN))

    def _restore(self, masked: MaskedIds, mask_BN: Tensor | None) -> Tensor:
        assert self.id_head is not None
        pooled_BH = pool(self.encoder(masked.token_ids_BN, mask_BN), mask_BN, "mean")
        representation_BD = self.ctr.representation(masked.x_id_BF)
        kind = torch.promote_types(pooled_BH.dtype, representation_BD.dtype)
        joined_BD = torch.cat((representation_BD.to(kind), pooled_BH.to(kind)), dim=1)
        candidate_CE = self.ctr.embedding.lookup(masked.candidate_C)
        score_IC = self.id_head(joined_BD[masked.row_I], masked.field_I, candidate_CE)
        other_IC = masked.field_I[:, None] != masked.candidate_field_C
        return score_IC.float().masked_fill(other_IC, float("-inf"))


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
        self.click_head = ClickHead(encoder.hidden_size)
        self.pooling: Pooling = pooling
        self.pool_prompts = pool_prompts
        self.alpha = nn.Parameter(torch.tensor(alpha)) if fusion == "alpha" else None

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
        z_ctr_B = not_half(self.ctr.logits(representation_BD, x_id_BF))
        z_plm_B = self.click_head(pooled_BH)
        if self.alpha is None:
            return z_ctr_B + z_plm_B
        return self.alpha * z_ctr_B + (1 - self.alpha) * z_plm_B


def not_half(logits_B: Tensor) -> Tensor:
    """Logits of bf16 in float32; those of float64 stay exact."""
    return logits_B if logits_B.dtype == torch.float64 else logits_B.float()
