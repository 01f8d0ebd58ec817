"""The sceptic's rival: texts as frozen vectors, computed once, beside the ids of a CTR model.

Letters: B batch, F fields, P pieces of text, N tokens, H hidden, E embedding.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from clickprompt.ctr import CTRModel
from clickprompt.modality import ModelInput
from clickprompt.models.clickprompt import not_half
from clickprompt.plm import ClickHead, PromptedEncoder, pool

Use = Literal["projected", "averaged"]

# Tokens in one call of the encoder.
TOKENS_AT_ONCE = 16_384


class TextFeatureCTR(nn.Module):
    """A CTR model that is given the PLM's vectors of its fields' texts; the PLM itself is gone.

    - ``projected``: each field's embedding has a linear image of its text's vector added, so that
      text takes part in all interactions, and a value that training never saw still has its text;
    - ``averaged``: the mean of the fields' vectors has a click head of its own, whose logit is
      added.

    Args:
        ctr: the CTR model; with ``projected`` a hook adds to what its embedding gives.
        vector_PH: vectors of all pieces, from `encode_pieces`; they are not learnt and not stored.
        use: as above.
    """

    vector_PH: Tensor

    def __init__(self, *, ctr: CTRModel, vector_PH: Tensor, use: Use = "projected") -> None:
        super().__init__()
        self.ctr = ctr
        self.register_buffer("vector_PH", vector_PH, persistent=False)
        width = vector_PH.shape[1]
        self.text_projection: nn.Linear | None = None
        self.click_head: ClickHead | None = None
        if use == "projected":
            self.text_projection = nn.Linear(width, ctr.embedding.embedding_size, bias=False)
            ctr.embedding.register_forward_hook(self._add_text)
            self._text_BFE: Tensor | None = None
        else:
            self.click_head = ClickHead(width)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw what is not the CTR model's; the projection starts at 0, as the CTR model alone.

        A drawn one would outweigh the embeddings, which Xavier draws close to 0.
        """
        if self.text_projection is not None:
            nn.init.zeros_(self.text_projection.weight)
        if self.click_head is not None:
            self.click_head.initialise(generator)

    def forward(self, x_id_BF: Tensor, piece_BF: Tensor) -> Tensor:
        """Logits (B,).

        Args:
            x_id_BF: local ids (B, F).
            piece_BF: number of each field's piece of text (B, F).
        """
        vector_BFH = self.vector_PH[piece_BF]
        if self.text_projection is not None:
            self._text_BFE = self.text_projection(vector_BFH)
            try:
                return not_half(self.ctr(x_id_BF))
            finally:
                self._text_BFE = None
        assert self.click_head is not None
        of_text_B: Tensor = self.click_head(vector_BFH.mean(dim=1))
        return not_half(self.ctr(x_id_BF)) + of_text_B

    def _add_text(self, module: nn.Module, given: Any, x_BFE: Tensor) -> Tensor:
        """The embedding's hook: a CTR model asks for its fields, and gets their texts, too."""
        return x_BFE if self._text_BFE is None else x_BFE + self._text_BFE.to(x_BFE.dtype)


@torch.no_grad()
def encode_pieces(
    encoder: PromptedEncoder, model_input: ModelInput, device: torch.device
) -> Tensor:
    """A vector of each distinct piece of text: mean of the last layer over its tokens.

    A piece is encoded once and alone, between the special tokens, however many rows have it.

    Args:
        encoder: the PLM, as it came.
        model_input: its pieces.
        device: where the encoder runs.

    Returns:
        (P, H) float32, on the CPU, scaled to a mean square of 1 so that they suit the rates of
        embeddings.
    """
    encoder.to(device).eval()
    special = model_input.special_tokens
    cls_id, sep_id, pad_id = special["cls"], special["sep"], special["pad"]
    assert cls_id is not None
    assert pad_id is not None
    tokens = np.asarray(model_input.piece_tokens, dtype=np.int64)
    offsets = np.asarray(model_input.piece_offsets)
    around = model_input.tokens_around
    length_P = np.minimum(np.diff(offsets), model_input.max_tokens - around)
    order = np.argsort(-length_P, kind="stable")
    vector_PH = torch.empty(len(order), encoder.hidden_size)
    start = 0
    while start < len(order):
        width = int(length_P[order[start]]) + around  # the longest comes first
        stop = start + max(1, TOKENS_AT_ONCE // width)
        chosen = order[start:stop]
        token_ids_PN = np.full((len(chosen), width), pad_id, dtype=np.int64)
        token_ids_PN[:, 0] = cls_id
        for row, piece in enumerate(chosen):
            length = int(length_P[piece])
            token_ids_PN[row, 1 : 1 + length] = tokens[offsets[piece] : offsets[piece] + length]
            if sep_id is not None:
                token_ids_PN[row, 1 + length] = sep_id
        within_PN = np.arange(width) < (length_P[chosen] + around)[:, None]
        mask_PN = torch.from_numpy(within_PN).to(device)
        hidden_PNH = encoder(torch.from_numpy(token_ids_PN).to(device), mask_PN)
        pooled_PH = pool(hidden_PNH, mask_PN, "mean")
        vector_PH[torch.from_numpy(chosen)] = pooled_PH.float().cpu()
        start = stop
    return vector_PH / vector_PH.square().mean().sqrt()
