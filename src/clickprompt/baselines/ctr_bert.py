"""CTR-BERT (Muhamed et al., 2021): two text towers that meet late, beside traditional features.

Letters: B batch, U distinct texts, F fields, N text tokens, H hidden, D representation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clickprompt.ctr import CTRModel
from clickprompt.models.clickprompt import Pooling
from clickprompt.plm import ClickHead, PromptedEncoder, pool


class CTRBert(nn.Module):
    """A tower reads the user's text, another the item's; a small network joins them with the ids.

    The towers never see each other's text, so that the vectors of all items can be computed
    before anyone asks for them; serving then runs the user tower once a request and the head once
    an item.

    NOTE[DIFF]: the paper distils the encoder from a teacher with billions of parameters and joins
    numeric features; here the PLM is the same as ClickPrompt's, and the traditional features are
    the representation of the CTR model that ClickPrompt has, too.

    Args:
        ctr: whose representation of the ids stands for the traditional features.
        encoder: reads the texts of users, and of items unless ``item_encoder`` is given.
        item_encoder: the items' own encoder; None: both share ``encoder``.
        pooling: of hidden states.
    """

    def __init__(
        self,
        *,
        ctr: CTRModel,
        encoder: PromptedEncoder,
        item_encoder: PromptedEncoder | None = None,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__()
        self.ctr = ctr
        self.encoder = encoder
        self.item_encoder = item_encoder
        width = encoder.hidden_size
        self.click_head = ClickHead(2 * width + ctr.representation_size, width)
        self.pooling: Pooling = pooling

    def user_vectors(self, token_ids_UN: Tensor, mask_UN: Tensor | None) -> Tensor:
        """User texts (U, N) to vectors (U, H)."""
        return self._vectors(self.encoder, token_ids_UN, mask_UN)

    def item_vectors(self, token_ids_UN: Tensor, mask_UN: Tensor | None) -> Tensor:
        """Item texts (U, N) to vectors (U, H)."""
        encoder = self.encoder if self.item_encoder is None else self.item_encoder
        return self._vectors(encoder, token_ids_UN, mask_UN)

    def forward(
        self,
        x_id_BF: Tensor,
        user_ids_UN: Tensor,
        user_mask_UN: Tensor | None,
        user_B: Tensor,
        item_ids_UN: Tensor,
        item_mask_UN: Tensor | None,
        item_B: Tensor,
    ) -> Tensor:
        """Logits (B,); each distinct text of the batch is read once.

        Args:
            x_id_BF: local ids (B, F).
            user_ids_UN: token ids of the distinct user texts.
            user_mask_UN: True on text, False on padding; None when nothing is padded.
            user_B: which of them a row has.
            item_ids_UN: token ids of the distinct item texts.
            item_mask_UN: as of the users.
            item_B: which of them a row has.
        """
        user_UH = self.user_vectors(user_ids_UN, user_mask_UN)
        item_UH = self.item_vectors(item_ids_UN, item_mask_UN)
        return self.join(x_id_BF, user_UH[user_B], item_UH[item_B])

    def join(self, x_id_BF: Tensor, user_BH: Tensor, item_BH: Tensor) -> Tensor:
        """Logits (B,) of rows whose texts are vectors already.

        Args:
            x_id_BF: local ids (B, F).
            user_BH: from `user_vectors`, a row each.
            item_BH: from `item_vectors`, a row each.
        """
        representation_BD = self.ctr.representation(x_id_BF)
        kind = next(self.click_head.parameters()).dtype
        joined = [part.to(kind) for part in (user_BH, item_BH, representation_BD)]
        logit_B: Tensor = self.click_head(torch.cat(joined, dim=1))
        return logit_B

    def _vectors(
        self, encoder: PromptedEncoder, token_ids_UN: Tensor, mask_UN: Tensor | None
    ) -> Tensor:
        hidden = encoder(token_ids_UN, mask_UN, all_layers=self.pooling.startswith("avg"))
        return pool(hidden, mask_UN, self.pooling)
