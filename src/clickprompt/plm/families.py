"""What differs between the families of language models, one entry each.

An entry tells how text positions are numbered, where the layers and their parts stand, and
how the language-model head is made and named. Everything else is common. A config is read by
transformers' common names (``hidden_size``, ``num_hidden_layers``, ...), which its
``attribute_map`` translates.

Letters: B batch, T packed text tokens, E size of the word embeddings, H hidden size, A heads,
d head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional


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
class HeadParts:
    """How a family's language-model head is made, and where a checkpoint keeps it.

    Attributes:
        names: our name -> the checkpoint's name of each tensor; those of the decoder are stored
            only where they are not tied.
        activation: config -> name of the transform's activation.
        eps: config -> of the transform's norm.
        transform: whether there is one; else the decoder reads the hidden states themselves.
        dense_bias: config -> whether the transform's dense layer has a bias.
        norm_bias: config -> whether the transform's norm has one.
        bias: config -> whether the decoder has one.
    """

    names: Mapping[str, str]
    activation: Callable[[Any], str] = lambda config: "gelu"
    eps: Callable[[Any], float] = lambda config: float(config.layer_norm_eps)
    transform: bool = True
    dense_bias: Callable[[Any], bool] = lambda config: True
    norm_bias: Callable[[Any], bool] = lambda config: True
    bias: Callable[[Any], bool] = lambda config: True


@dataclass(frozen=True)
class Family:
    """One family of language models.

    Attributes:
        first_position: config -> position id of the first token.
        positions: config -> number of position ids that a text may use.
        embed: (model, word embeddings (1, T, E), position ids (1, T)) -> hidden (1, T, H).
        layers: model -> its layers.
        parts: layer -> its parts.
        head: its language-model head.
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
    head: HeadParts
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


def _electra_embed(model: Any, words_1TE: Tensor, position_ids_1T: Tensor) -> Tensor:
    embedded = _bert_embed(model, words_1TE, position_ids_1T)
    # The projection exists only where E is not H.
    projected: Tensor = getattr(model, "embeddings_project", _as_it_is)(embedded)
    return projected


def _distilbert_embed(model: Any, words_1TE: Tensor, position_ids_1T: Tensor) -> Tensor:
    hidden_1TH: Tensor = model.embeddings(
        input_ids=None, inputs_embeds=words_1TE, position_ids=position_ids_1T
    )
    return hidden_1TH


def _distilbert_layers(model: Any) -> nn.ModuleList:
    layers: nn.ModuleList = model.transformer.layer
    return layers


def _distilbert_parts(layer: Any) -> LayerParts:
    attention = layer.attention

    def key_value(read: Tensor) -> tuple[Tensor, Tensor]:
        return attention.k_lin(read), attention.v_lin(read)

    def join(context: Tensor, hidden: Tensor) -> Tensor:
        joined: Tensor = layer.sa_layer_norm(attention.out_lin(context) + hidden)
        return joined

    def feed_forward(hidden: Tensor) -> Tensor:
        out: Tensor = layer.output_layer_norm(layer.ffn.ff_chunk(hidden) + hidden)
        return out

    return LayerParts(
        project=lambda read: (attention.q_lin(read), *key_value(read)),
        query=attention.q_lin,
        key_value=key_value,
        attention_dropout=attention.dropout.p,
        join=join,
        feed_forward=feed_forward,
    )


def _modernbert_embed(model: Any, words_1TE: Tensor, position_ids_1T: Tensor) -> Tensor:
    hidden_1TH: Tensor = model.embeddings(inputs_embeds=words_1TE)  # positions are rotations
    return hidden_1TH


def _modernbert_layers(model: Any) -> nn.ModuleList:
    layers: nn.ModuleList = model.layers
    return layers


def _modernbert_parts(layer: Any) -> LayerParts:
    attention = layer.attn
    local = layer.attention_type == "sliding_attention"

    def join(context: Tensor, hidden: Tensor) -> Tensor:
        return hidden + attention.out_drop(attention.Wo(context))

    def feed_forward(hidden: Tensor) -> Tensor:
        return hidden + layer.mlp(layer.mlp_norm(hidden))

    project, query, key_value = _fused_projections(attention.Wqkv)
    return LayerParts(
        project=project,
        query=query,
        key_value=key_value,
        attention_dropout=attention.attention_dropout,
        join=join,
        feed_forward=feed_forward,
        read=layer.attn_norm,  # the identity in the first layer, whose input is normed already
        # attention.sliding_window is larger by 1, for another kernel's way of counting.
        window=layer.config.sliding_window if local else None,
        rotation=layer.attention_type,
    )


def _modernbert_rotations(model: Any, position_ids_1T: Tensor) -> Rotations:
    rotations = {}
    for kind in set(model.config.layer_types):
        weight = model.embeddings.tok_embeddings.weight  # tells the device and the dtype
        cos_1Td, sin_1Td = model.rotary_emb(weight, position_ids_1T, kind)
        rotations[kind] = (cos_1Td[0], sin_1Td[0])
    return rotations


def _modernbert_last_norm(model: Any) -> Callable[[Tensor], Tensor]:
    norm: nn.Module = model.final_norm
    return norm


def _gpt2_embed(model: Any, words_1TE: Tensor, position_ids_1T: Tensor) -> Tensor:
    hidden_1TH: Tensor = model.drop(words_1TE + model.wpe(position_ids_1T))
    return hidden_1TH


def _gpt2_layers(model: Any) -> nn.ModuleList:
    layers: nn.ModuleList = model.h
    return layers


def _gpt2_parts(layer: Any) -> LayerParts:
    attention = layer.attn

    def join(context: Tensor, hidden: Tensor) -> Tensor:
        return hidden + attention.resid_dropout(attention.c_proj(context))

    def feed_forward(hidden: Tensor) -> Tensor:
        return hidden + layer.mlp(layer.ln_2(hidden))

    project, query, key_value = _fused_projections(attention.c_attn)
    return LayerParts(
        project=project,
        query=query,
        key_value=key_value,
        attention_dropout=attention.attn_dropout.p,
        join=join,
        feed_forward=feed_forward,
        read=layer.ln_1,
        # Holds scale_attn_weights and scale_attn_by_inverse_layer_idx.
        scaling=attention.scaling,
    )


def _gpt2_last_norm(model: Any) -> Callable[[Tensor], Tensor]:
    norm: nn.Module = model.ln_f
    return norm


def _fused_projections(
    fused: nn.Module,
) -> tuple[
    Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    Callable[[Tensor], Tensor],
    Callable[[Tensor], tuple[Tensor, Tensor]],
]:
    """``project``, ``query`` and ``key_value`` of one layer that gives all three side by side."""

    def project(read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = fused(read).chunk(3, dim=-1)
        return query, key, value

    def key_value(read: Tensor) -> tuple[Tensor, Tensor]:
        key, value = _outputs(fused, read, slice(read.shape[-1], None)).chunk(2, dim=-1)
        return key, value

    def query(read: Tensor) -> Tensor:
        return _outputs(fused, read, slice(0, read.shape[-1]))

    return project, query, key_value


def _outputs(layer: Any, read: Tensor, part: slice) -> Tensor:
    """Some outputs of a linear layer, without the work of the others.

    What is neither of the two known layers (a wrapper that adapts one, say) computes all: its
    weight alone does not tell what it gives.
    """
    from transformers.pytorch_utils import Conv1D

    if type(layer) in (nn.Linear, Conv1D):
        weight_OI = layer.weight if type(layer) is nn.Linear else layer.weight.T
        bias_O = None if layer.bias is None else layer.bias[part]
        return functional.linear(read, weight_OI[part], bias_O)
    outputs: Tensor = layer(read)[..., part]
    return outputs


_BERT_LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "query": ("attention.self.query",),
    "key": ("attention.self.key",),
    "value": ("attention.self.value",),
    "attention_output": ("attention.output.dense",),
    "feed_forward": ("intermediate.dense", "output.dense"),
}


def _fused_lora_targets(
    projection: str, attention_output: str, *feed_forward: str
) -> dict[str, tuple[str, ...]]:
    return {
        **dict.fromkeys(("query", "key", "value"), (projection,)),
        "attention_output": (attention_output,),
        "feed_forward": feed_forward,
    }


FAMILIES: dict[str, Family] = {
    "bert": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_bert_embed,
        layers=_bert_layers,
        parts=_bert_parts,
        head=HeadParts(
            names={
                "dense.weight": "cls.predictions.transform.dense.weight",
                "dense.bias": "cls.predictions.transform.dense.bias",
                "norm.weight": "cls.predictions.transform.LayerNorm.weight",
                "norm.bias": "cls.predictions.transform.LayerNorm.bias",
                "bias": "cls.predictions.bias",
                "decoder": "cls.predictions.decoder.weight",
                "decoder_bias": "cls.predictions.decoder.bias",
            },
            activation=lambda config: config.hidden_act,
        ),
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
        head=HeadParts(
            names={
                "dense.weight": "lm_head.dense.weight",
                "dense.bias": "lm_head.dense.bias",
                "norm.weight": "lm_head.layer_norm.weight",
                "norm.bias": "lm_head.layer_norm.bias",
                "bias": "lm_head.bias",
                "decoder": "lm_head.decoder.weight",
                "decoder_bias": "lm_head.decoder.bias",
            },
        ),
        load_options={"add_pooling_layer": False},
        lora_targets=_BERT_LORA_TARGETS,
    ),
    "electra": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_electra_embed,
        layers=_bert_layers,
        parts=_bert_parts,
        # Of generators; a discriminator has none.
        head=HeadParts(
            names={
                "dense.weight": "generator_predictions.dense.weight",
                "dense.bias": "generator_predictions.dense.bias",
                "norm.weight": "generator_predictions.LayerNorm.weight",
                "norm.bias": "generator_predictions.LayerNorm.bias",
                "bias": "generator_lm_head.bias",
                "decoder": "generator_lm_head.weight",
            },
        ),
        embedding_size=lambda config: int(config.embedding_size),
        lora_targets=_BERT_LORA_TARGETS,
    ),
    "distilbert": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_distilbert_embed,
        layers=_distilbert_layers,
        parts=_distilbert_parts,
        head=HeadParts(
            names={
                "dense.weight": "vocab_transform.weight",
                "dense.bias": "vocab_transform.bias",
                "norm.weight": "vocab_layer_norm.weight",
                "norm.bias": "vocab_layer_norm.bias",
                "bias": "vocab_projector.bias",
                "decoder": "vocab_projector.weight",
            },
            activation=lambda config: config.activation,
            eps=lambda config: 1e-12,
        ),
        dropouts=("dropout", "attention_dropout"),
        lora_targets={
            "query": ("attention.q_lin",),
            "key": ("attention.k_lin",),
            "value": ("attention.v_lin",),
            "attention_output": ("attention.out_lin",),
            "feed_forward": ("ffn.lin1", "ffn.lin2"),
        },
    ),
    "modernbert": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_modernbert_embed,
        layers=_modernbert_layers,
        parts=_modernbert_parts,
        head=HeadParts(
            names={
                "dense.weight": "head.dense.weight",
                "dense.bias": "head.dense.bias",
                "norm.weight": "head.norm.weight",
                "norm.bias": "head.norm.bias",
                "bias": "decoder.bias",
                "decoder": "decoder.weight",
            },
            activation=lambda config: config.classifier_activation,
            eps=lambda config: float(config.norm_eps),
            dense_bias=lambda config: config.classifier_bias,
            norm_bias=lambda config: config.norm_bias,
            bias=lambda config: config.decoder_bias,
        ),
        dropouts=("embedding_dropout", "attention_dropout", "mlp_dropout"),
        rotations=_modernbert_rotations,
        last_norm=_modernbert_last_norm,
        lora_targets=_fused_lora_targets("attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
    ),
    "gpt2": Family(
        first_position=lambda config: 0,
        positions=lambda config: config.max_position_embeddings,
        embed=_gpt2_embed,
        layers=_gpt2_layers,
        parts=_gpt2_parts,
        head=HeadParts(
            names={"decoder": "lm_head.weight"}, transform=False, bias=lambda config: False
        ),
        dropouts=("resid_pdrop", "embd_pdrop", "attn_pdrop"),
        causal=True,
        last_norm=_gpt2_last_norm,
        lora_targets=_fused_lora_targets("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    ),
}

_DISENTANGLED = (
    "its attention scores depend on the distance between two tokens, and a prompt, which has no "
    "position, has none"
)
_NOT_PROMPTED = {
    "deberta": _DISENTANGLED,
    "deberta-v2": _DISENTANGLED,  # v3 says v2, too
    "t5": "only the baseline P5 reads an encoder-decoder",
}


def family_of(model_type: object) -> Family:
    """The entry of a ``config.json``'s ``model_type``.

    Raises:
        ValueError: the family is not supported; the message names those that are, and says why
            where there is more to say.
    """
    if model_type not in FAMILIES:
        why = _NOT_PROMPTED.get(str(model_type))
        raise ValueError(
            f"plm.source must be a model of a supported family ({', '.join(FAMILIES)}), "
            f"got model_type {model_type!r}" + (f": {why}" if why else "")
        )
    return FAMILIES[str(model_type)]
