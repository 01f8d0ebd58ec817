"""What differs between the families of encoders, one entry each.

An entry tells how text positions are numbered, where the layers and their parts stand, and
under which names a checkpoint keeps its masked-language head. Everything else is common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


def _as_it_is(hidden: Tensor) -> Tensor:
    return hidden


@dataclass(frozen=True)
class LayerParts:
    """The parts of one layer, so that it can be run on chosen tokens only.

    Attributes:
        project: what the projections read (..., H) -> query, key and value (..., A*d) each.
        query: the same -> the query alone.
        key_value: the same -> key and value.
        attention_dropout: probability that an attention weight is dropped in training.
        join: ``(context, hidden) -> hidden`` with the attention's output projection, residual and,
            in post-norm families, the norm.
        feed_forward: the rest of the layer, token by token.
        read: hidden -> what the projections read: the layer's own norm in pre-norm families.
        window: text columns further away than this do not see each other; None: all do.
        rotation: key of `Family.rotations` for queries and keys of the text; None: not rotated.
        scaling: factor of the scores; None: 1 / sqrt(d).
    """

    project: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    query: Callable[[Tensor], Tensor]
    key_value: Callable[[Tensor], tuple[Tensor, Tensor]]
    attention_dropout: float
    join: Callable[[Tensor, Tensor], Tensor]
    feed_forward: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor] = _as_it_is
    window: int | None = None
    rotation: str | None = None
    scaling: float | None = None


Rotations = dict[str, tuple[Tensor, Tensor]]


def _no_rotations(model: nn.Module, position_ids_1T: Tensor) -> Rotations:
    return {}


def _no_norm(model: nn.Module) -> Callable[[Tensor], Tensor]:
    return _as_it_is


@dataclass(frozen=True)
class Family:
    """One family of language models.

    Attributes:
        first_position: config -> position id of the first token.
        positions: config -> number of position ids that a text may use.
        embed: (model, word embeddings (1, T, E), position ids (1, T)) -> hidden (1, T, H).
        layers: model -> its layers.
        parts: layer -> its parts.
        head: our name -> the checkpoint's name of each tensor of its own MLM head; those of
            the decoder are stored only where they are not tied.
        dropouts: names of the config's dropout probabilities.
        load_options: keywords of ``AutoModel.from_pretrained``.
        embedding_size: config -> E, the width of the word embeddings.
        causal: a token sees the text up to itself only.
        rotations: (model, position ids (1, T)) -> cosine and sine (T, d) by rotation.
        last_norm: model -> the norm after the last layer (pre-norm families).
        lora_targets: target of LoRA -> names of its modules in a layer. Where one module is
            several targets (fused projections), each of them names it. Empty: no LoRA.
    """

    first_position: Callable[[Any], int]
    positions: Callable[[Any], int]
    embed: Callable[[nn.Module, Tensor, Tensor], Tensor]
    layers: Callable[[nn.Module], nn.ModuleList]
    parts: Callable[[nn.Module], LayerParts]
    head: Mapping[str, str]
    dropouts: tuple[str, ...] = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    load_options: Mapping[str, Any] = field(default_factory=dict)
    embedding_size: Callable[[Any], int] = lambda config: int(config.hidden_size)
    causal: bool = False
    rotations: Callable[[nn.Module, Tensor], Rotations] = _no_rotations
    last_norm: Callable[[nn.Module], Callable[[Tensor], Tensor]] = _no_norm
    lora_targets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _bert_embed(model: Any, words_1TE: Tensor, position_ids_1T: Tensor) -> Tensor:
    hidden_1TH: Tensor = model.embeddings(inputs_embeds=words_1TE, position_ids=position_ids_1T)
    return hidden_1TH


def _bert_layers(model: Any) -> nn.ModuleList:
    layers: nn.ModuleList = model.encoder.layer
    return layers


def _bert_parts(layer: Any) -> LayerParts:
    attention = layer.attention.self

    def key_value(read: Tensor) -> tuple[Tensor, Tensor]:
        return attention.key(read), attention.value(read)

    return LayerParts(
        project=lambda read: (attention.query(read), *key_value(read)),
        query=attention.query,
        key_value=key_value,
        attention_dropout=attention.dropout.p,
        join=layer.attention.output,
        feed_forward=layer.feed_forward_chunk,
    )


_BERT_LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("attention.self.query",),
    "key": ("attention.self.key",),
    "value": ("attention.self.value",),
    "attention_output": ("attention.output.dense",),
    "feed_forward": ("intermediate.dense", "output.dense"),
}


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
        load_options={"add_pooling_layer": False},
        lora_targets=_BERT_LORA_TARGETS,
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
        load_options={"add_pooling_layer": False},
        lora_targets=_BERT_LORA_TARGETS,
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
