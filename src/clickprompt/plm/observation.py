"""How much of its attention the text gives to the prompts (section 8 of docs/method.md).

Apart from the kernels, which never make the weights of a whole layer known: an observer is told
of them, layer by layer, by a forward that computes them a second time. Without an observer nothing
is computed here.

Letters: B rows, A heads, N text columns, K prompts, M = K + N, d head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class PromptShares:
    """What the tokens of a batch give to the prompts of one layer.

    Attributes:
        layer: from 0.
        share_BNAK: share of each token's attention that each prompt gets, by head; without meaning
            at padding.
        indifferent_BN: share of all prompts together if a token attended to everything that it
            sees alike: K / (K + n) with n visible text columns; without meaning at padding.
    """

    layer: int
    share_BNAK: Tensor
    indifferent_BN: Tensor


Observer = Callable[[PromptShares], None]


def prompt_shares(
    query_BANd: Tensor,
    key_BANd: Tensor,
    prompt_key_BAKd: Tensor | None,
    visible_B1QN: Tensor | None,
    *,
    front: int,
    scaling: float,
) -> tuple[Tensor, Tensor]:
    """Attention weights of the prompts, in float32 at least.

    Args:
        query_BANd: queries of all columns.
        key_BANd: keys of the columns.
        prompt_key_BAKd: keys of the layer's own prompts, or None.
        visible_B1QN: bool, which columns each query sees; Q may be 1; None: all.
        front: first columns that are prompts, where no layer has prompts of its own.
        scaling: factor of the scores.

    Returns:
        Shares (B, N, A, K) of each prompt and indifferent shares (B, N) of all together; see
        `PromptShares`.
    """
    prompts = front
    if prompt_key_BAKd is not None:
        prompts = prompt_key_BAKd.shape[2]
        key_BANd = torch.cat((prompt_key_BAKd.to(key_BANd.dtype), key_BANd), dim=2)
        if visible_B1QN is not None:
            visible_B1QN = functional.pad(visible_B1QN, (prompts, 0), value=True)
    precision = torch.promote_types(query_BANd.dtype, torch.float32)
    with torch.autocast(query_BANd.device.type, enabled=False):
        score_BANM = (query_BANd * scaling).to(precision) @ key_BANd.to(precision).transpose(2, 3)
        if visible_B1QN is not None:
            score_BANM.masked_fill_(~visible_B1QN, float("-inf"))
        share_BANK = torch.softmax(score_BANM, dim=-1)[..., :prompts]
    rows, _, columns, seen = score_BANM.shape
    if visible_B1QN is None:
        indifferent_BN = score_BANM.new_full((rows, columns), prompts / seen)
    else:
        visible_BQM = visible_B1QN[:, 0]
        seen_BQ = visible_BQM.sum(dim=2, dtype=precision)
        prompts_BQ = visible_BQM[..., :prompts].sum(dim=2, dtype=precision)
        indifferent_BN = (prompts_BQ / seen_BQ.clamp(min=1)).expand(rows, columns)
    return share_BANK.transpose(1, 2), indifferent_BN
