"""What differs between the families of encoders, one entry each.

An entry tells how text positions are numbered, where the layers and their parts stand, and
under which names a checkpoint keeps its masked-language head. Everything else is common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class LayerParts:
    """The parts of one post-norm layer, so that it can be run on chosen tokens only.

    Attributes:
        query: projection (..., H) -> (..., A*d).
        key: projection of the keys.
        value: projection of the values.
        attention_dropout: probability that an attention weight is dropped in training.
        join: ``(context, hidden) -> LayerNorm(hidden + dropout(output(context)))``.
        feed_forward: the rest of the layer, token by token.
    """

    query: Callable[[Tensor], Tensor]
    key: Callable[[Tensor], Tensor]
    value: Callable[[Tensor], Tensor]
    attention_dropout: float
    join: Callable[[Tensor, Tensor], Tensor]
    feed_forward: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Family:
    """One family of encoders.

    Attributes:
        first_position: config -> position id of the first token.
        positions: config -> number of position ids that a text may use.
        embed: (model, token ids (1, T), position ids (1, T)) -> embedding output (1, T, H).
        layers: model -> its layers.
        parts: layer -> its parts.
        head: our name -> the checkpoint's name of each tensor of its own MLM head; those of
            the decoder are stored only where they are not tied.
    """

    first_position: Callable[[Any], int]
    positions: Callable[[Any], int]
    embed: Callable[[nn.Module, Tensor, Tensor], Tensor]
    layers: Callable[[nn.Module], nn.ModuleList]
    parts: Callable[[nn.Module], LayerParts]
    head: Mapping[str, str]


def _bert_embed(model: Any, token_ids_1T: Tensor, position_ids_1T: Tensor) -> Tensor:
    hidden_1TH: Tensor = model.embeddings(input_ids=token_ids_1T, position_ids=position_ids_1T)
    return hidden_1TH


def _bert_layers(model: Any) -> nn.ModuleList:
    layers: nn.ModuleList = model.encoder.layer
    return layers


def _bert_parts(layer: Any) -> LayerParts:
    attention = layer.attention.self
    return LayerParts(
        query=attention.query,
        key=attention.key,
        value=attention.value,
        attention_dropout=attention.dropout.p,
        join=layer.attention.output,
        feed_forward=layer.feed_forward_chunk,
    )


FAMILIES: dict[str, Family] = {
    "bert": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_bert_embed,
        layers=_bert_layers,
        parts=_bert_parts,
        head={
            "dense.weight": "cls.predictions.transform.dense.weight",
            "dense.bias": "cls.predictions.transform.dense.bias",
            "norm.weight": "cls.predictions.transform.LayerNorm.weight",
            "norm.bias": "cls.predictions.transform.LayerNorm.bias",
            "bias": "cls.predictions.bias",
            "decoder": "cls.predictions.decoder.weight",
            "decoder_bias": "cls.predictions.decoder.bias",
        },
    ),
    "roberta": Family(
        # Ids up to the padding id are reserved, so a 514-row table serves 512 tokens.
        first_position=lambda config: config.pad_token_id + 1,
        positions=lambda config: config.max_position_embeddings - config.pad_token_id - 1,
        embed=_bert_embed,
        layers=_bert_layers,
        parts=_bert_parts,
        head={
            "dense.weight": "lm_head.dense.weight",
            "dense.bias": "lm_head.dense.bias",
            "norm.weight": "lm_head.layer_norm.weight",
            "norm.bias": "lm_head.layer_norm.bias",
            "bias": "lm_head.bias",
            "decoder": "lm_head.decoder.weight",
            "decoder_bias": "lm_head.decoder.bias",
        },
    ),
}


def family_of(model_type: object) -> Family:
    """The entry of a ``config.json``'s ``model_type``.

    Raises:
        ValueError: the family is not supported; the message names those that are.
    """
    if model_type not in FAMILIES:
        raise ValueError(
            f"plm.source must be an encoder of a supported family ({', '.join(FAMILIES)}), "
            f"got model_type {model_type!r}"
        )
    return FAMILIES[str(model_type)]
