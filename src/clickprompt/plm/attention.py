"""Prompted attention: the text reads its layer's prompts (section 4 of docs/method.md).

In layer l, with prompt keys and values of that layer on the left,

    context = softmax(q [key_l ; k]^T / sqrt(d)) [value_l ; v]

Queries come from text columns only, so prompts are read by the text and never updated by
it. Prompts are always visible; padding columns never are.

Letters: B batch, A heads, Q query columns, N text columns, K prompts, L layers, d head size.

Two kernels compute the same numbers. ``sdpa`` is torch's fused attention, the better one
on a GPU. ``matmul`` is two batched matrix products around a softmax; on a CPU it is much
quicker in bf16, because texts are short and heads are small.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from clickprompt.plm.dropout import dropout as quick_dropout

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, float, float], Tensor]


def sdpa_kernel(
    query_BAQd: Tensor,
    key_BAMd: Tensor,
    value_BAMd: Tensor,
    visible_B1QM: Tensor | None,
    dropout: float,
    scaling: float,
) -> Tensor:
    """Attention by torch's fused kernel.

    Args:
        query_BAQd: queries of the text columns.
        key_BAMd: keys of prompts and text, M = K + N.
        value_BAMd: values of prompts and text.
        visible_B1QM: bool, True where a key is seen; Q may be 1 for "all queries alike".
        dropout: probability that an attention weight is dropped.
        scaling: factor of the scores, 1 / sqrt(d).

    Returns:
        Context (B, A, Q, d).
    """
    return functional.scaled_dot_product_attention(
        query_BAQd,
        key_BAMd,
        value_BAMd,
        attn_mask=visible_B1QM,
        dropout_p=dropout,
        scale=scaling,
    )


def matmul_kernel(
    query_BAQd: Tensor,
    key_BAMd: Tensor,
    value_BAMd: Tensor,
    visible_B1QM: Tensor | None,
    dropout: float,
    scaling: float,
) -> Tensor:
    """Attention by two batched matrix products; arguments and result as `sdpa_kernel`."""
    scores_BAQM = torch.matmul(query_BAQd * scaling, key_BAMd.transpose(2, 3))
    if visible_B1QM is not None:
        # Added, not filled in: an addition has nothing to do in the backward pass.
        bias_B1QM = torch.zeros_like(visible_B1QM, dtype=scores_BAQM.dtype)
        scores_BAQM += bias_B1QM.masked_fill_(~visible_B1QM, float("-inf"))
    weights_BAQM = quick_dropout(torch.softmax(scores_BAQM, dim=-1), dropout)
    return torch.matmul(weights_BAQM, value_BAMd)


def auto_kernel(
    query_BAQd: Tensor,
    key_BAMd: Tensor,
    value_BAMd: Tensor,
    visible_B1QM: Tensor | None,
    dropout: float,
    scaling: float,
) -> Tensor:
    """`matmul_kernel` on a CPU, `sdpa_kernel` elsewhere."""
    kernel = matmul_kernel if query_BAQd.device.type == "cpu" else sdpa_kernel
    return kernel(query_BAQd, key_BAMd, value_BAMd, visible_B1QM, dropout, scaling)


KERNELS: dict[str, Kernel] = {"auto": auto_kernel, "sdpa": sdpa_kernel, "matmul": matmul_kernel}


def prompted_attention(
    kernel: Kernel,
    query_BAQd: Tensor,
    key_BANd: Tensor,
    value_BANd: Tensor,
    prompts: tuple[Tensor, Tensor] | None,
    visible_B1QN: Tensor | None,
    *,
    dropout: float,
    scaling: float,
) -> Tensor:
    """Attention over one layer's prompts and its text.

    Args:
        kernel: one of `KERNELS`.
        query_BAQd: queries; all text columns, or a choice of them.
        key_BANd: keys of the text.
        value_BANd: values of the text.
        prompts: the layer's prompt keys and values, (B, A, K, d) each, or None.
        visible_B1QN: bool, False at padding columns; None: all are visible.
        dropout: probability that an attention weight is dropped.
        scaling: factor of the scores.

    Returns:
        Context (B, A, Q, d).
    """
    if prompts is not None:
        prompt_key_BAKd, prompt_value_BAKd = prompts
        key_BANd = torch.cat((prompt_key_BAKd.to(key_BANd.dtype), key_BANd), dim=2)
        value_BANd = torch.cat((prompt_value_BAKd.to(value_BANd.dtype), value_BANd), dim=2)
        if visible_B1QN is not None:
            visible_B1QN = functional.pad(visible_B1QN, (prompt_key_BAKd.shape[2], 0), value=True)
    return kernel(query_BAQd, key_BANd, value_BANd, visible_B1QN, dropout, scaling)
