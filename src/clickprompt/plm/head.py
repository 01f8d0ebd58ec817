"""Heads on the encoder: masked-token prediction, pooling and the click.

Letters: B batch, N text tokens, H hidden size, E size of the word embeddings, V vocabulary,
S selected positions, T tokens that the softmax is limited to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.parameters import PLMParameters
from clickprompt.plm.encoder import PromptedEncoder
from clickprompt.plm.source import PLMSource, resolve_source

POOLINGS = ("mean", "cls", "last", "avg_first_last", "avg_top2")


class MLMHead(nn.Module):
    """Scores of the vocabulary at the selected positions (section 5 of docs/method.md).

    ``logits = W LayerNorm(act(dense(h))) + bias``, dense from the hidden size H to the width E of
    the word embeddings, act the family's own, and W either the word embeddings themselves (tied)
    or a trainable copy of its own. A family without a transform (GPT-2) has ``logits = W h``.

    NOTE[DIFF]: the reference trains an untied decoder over all positions; here it is tied by
    default and runs on the selected positions only.

    A tied decoder learns with the word embeddings: where these are frozen (a PLM with rate 0,
    ``plm.freeze_layers`` or ``plm.lora``) it stays as it is, apart from its bias. An untied one is
    free of them.

    Args:
        encoder: whose hidden states the head reads and whose word embeddings it may share.
        tied: share the word embeddings; else a copy of them, trained apart.
        generator: draws the fresh dense layer's weights.
    """

    def __init__(
        self,
        *,
        encoder: PromptedEncoder,
        tied: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        from transformers.activations import ACT2FN

        super().__init__()
        config: Any = encoder.model.config
        parts = encoder.family.head
        self.dense: nn.Linear | None = None
        self.norm: nn.LayerNorm | None = None
        if parts.transform:
            size = encoder.embedding_size
            self.dense = nn.Linear(encoder.hidden_size, size, bias=parts.dense_bias(config))
            self.activation = ACT2FN[parts.activation(config)]
            self.norm = nn.LayerNorm(size, eps=parts.eps(config), bias=parts.norm_bias(config))
            nn.init.normal_(self.dense.weight, std=config.initializer_range, generator=generator)
            if self.dense.bias is not None:
                nn.init.zeros_(self.dense.bias)
        biased = parts.bias(config)
        self.bias = nn.Parameter(torch.zeros(encoder.vocabulary_size)) if biased else None
        # A tuple keeps the table out of this module's own parameters: it belongs to the
        # encoder, and is saved and optimised there.
        self._table = (encoder.word_embeddings,)
        self.decoder = (
            None if tied else nn.Parameter(encoder.word_embeddings.weight.detach().clone())
        )

    def forward(self, hidden_SH: Tensor, tokens_T: Tensor | None = None) -> Tensor:
        """Logits over the whole vocabulary, or over some of its tokens.

        Args:
            hidden_SH: hidden states at the selected positions.
            tokens_T: token ids that the softmax is limited to; None: all.

        Returns:
            Logits (S, V), or (S, T) in the order of ``tokens_T``.
        """
        weight_VE = self._table[0].weight if self.decoder is None else self.decoder
        bias_V: Tensor | None = self.bias
        if tokens_T is not None:
            weight_VE = weight_VE[tokens_T]
            bias_V = None if bias_V is None else bias_V[tokens_T]
        if self.dense is not None and self.norm is not None:
            hidden_SH = self.norm(self.activation(self.dense(hidden_SH)))
        return functional.linear(hidden_SH, weight_VE, bias_V)


def load_mlm_head(
    plm: PLMParameters,
    encoder: PromptedEncoder,
    *,
    tied: bool = True,
    generator: torch.Generator | None = None,
) -> MLMHead:
    """The checkpoint's own language-model head where it has one, else a fresh head.

    Args:
        plm: the parameters that ``encoder`` was loaded with.
        encoder: the loaded encoder.
        tied: share the word embeddings with the decoder.
        generator: draws a fresh head's weights.

    Raises:
        ValueError: the checkpoint holds a part of a head.
    """
    head = MLMHead(encoder=encoder, tied=tied, generator=generator)
    source = resolve_source(plm)
    names = encoder.family.head.names
    own = _stored_tensors(source, names)
    if not own:
        return head
    # An untied decoder adds a bias of its own; the other one is then stored, but not used.
    if "decoder_bias" in own:
        own["bias"] = own.pop("decoder_bias")
    needed = set(head.state_dict()) - {"decoder"}
    missing = [names[ours] for ours in names if ours in needed - set(own)]
    if missing:
        raise ValueError(
            f"plm.source must hold its whole MLM head or none of it, got {source.folder} "
            f"without {missing[0]}"
        )
    # A tied checkpoint stores its decoder as the word embeddings, of which an untied head
    # already holds a copy.
    if tied:
        own.pop("decoder", None)
    head.load_state_dict(own, strict=False)
    return head


def _stored_tensors(source: PLMSource, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of a checkpoint that ``names`` (ours -> theirs) lists, under our names."""
    from safetensors import safe_open

    ours = {theirs: name for name, theirs in names.items()}
    found: dict[str, Tensor] = {}
    for path in source.weight_files:
        with safe_open(path, framework="pt") as weights:
            for stored in weights.keys():  # noqa: SIM118, the file is no mapping
                # Checkpoints converted from TensorFlow, as bert-base-uncased, say gamma and beta.
                theirs = stored.replace("LayerNorm.gamma", "LayerNorm.weight")
                theirs = theirs.replace("LayerNorm.beta", "LayerNorm.bias")
                if theirs in ours:
                    found[ours[theirs]] = weights.get_tensor(stored).float()
    return found


class ClickHead(nn.Sequential):
    """Logit of a click from pooled text: Linear, tanh, Linear (section 6 of docs/method.md).

    Args:
        width: of what it reads.
        hidden: width of the layer between; None: ``width``.
    """

    def __init__(self, width: int, hidden: int | None = None) -> None:
        hidden = width if hidden is None else hidden
        super().__init__(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def initialise(self, generator: torch.Generator) -> None:
        """Xavier-normal weights from ``generator``, zero biases."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, pooled_BH: Tensor) -> Tensor:
        """Logits (B,) of texts (B, H), in the number format of the weights.

        The products are never in bf16: such a logit has three digits and ties many rows.
        """
        with torch.autocast(pooled_BH.device.type, enabled=False):
            logit_B1: Tensor = super().forward(pooled_BH.to(next(self.parameters()).dtype))
        return logit_B1.squeeze(-1)


def pool(hidden: Tensor | Sequence[Tensor], mask_BN: Tensor | None, pooling: str) -> Tensor:
    """One vector a text (section 6 of docs/method.md).

    Args:
        hidden: the last layer's output (B, N, H), or the outputs of all layers.
        mask_BN: bool, True at text tokens (special ones included); None: no padding.
        pooling: ``mean`` over the text tokens of the last layer; ``cls``, its first token;
            ``last``, its last text token; ``avg_first_last``, the mean of (h_1 + h_L) / 2;
            ``avg_top2``, that of (h_{L-1} + h_L) / 2. The last two need the outputs of all layers.

    Returns:
        Pooled text (B, H).

    Raises:
        ValueError: unknown pooling, or layers that are missing.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
    layers = (hidden,) if isinstance(hidden, Tensor) else tuple(hidden)
    if pooling == "cls":
        return layers[-1][:, 0]
    if pooling == "last":
        return _last(layers[-1], mask_BN)
    if pooling == "mean":
        return _mean(layers[-1], mask_BN)
    if isinstance(hidden, Tensor):
        raise ValueError(f"pooling {pooling!r} must get the outputs of all layers, got the last")
    other = 0 if pooling == "avg_first_last" else -2
    if len(layers) < -other:
        raise ValueError(f"pooling 'avg_top2' must get at least 2 layers, got {len(layers)}")
    return _mean((layers[other] + layers[-1]) / 2, mask_BN)


def _last(hidden_BNH: Tensor, mask_BN: Tensor | None) -> Tensor:
    if mask_BN is None:
        return hidden_BNH[:, -1]
    rows_B = torch.arange(len(hidden_BNH), device=hidden_BNH.device)
    return hidden_BNH[rows_B, mask_BN.sum(dim=1) - 1]  # texts are padded on the right


def _mean(hidden_BNH: Tensor, mask_BN: Tensor | None) -> Tensor:
    if mask_BN is None:
        return hidden_BNH.mean(dim=1)
    weight_BN = mask_BN.to(hidden_BNH.dtype)
    weight_BN = weight_BN / weight_BN.sum(dim=1, keepdim=True)
    return torch.bmm(weight_BN[:, None, :], hidden_BNH)[:, 0]
