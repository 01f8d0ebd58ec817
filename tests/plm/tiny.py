"""Tiny encoders built from a configuration, with deterministic weights; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertModel,
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Model,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

VOCABULARY = 120
POSITIONS = 24
LAYERS = 3
WINDOW = 2  # of ModernBERT's local layers, the second and the third
CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "bert": (BertConfig, BertModel, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaModel, RobertaForMaskedLM),
    "electra": (ElectraConfig, ElectraModel, ElectraForMaskedLM),
    "distilbert": (DistilBertConfig, DistilBertModel, DistilBertForMaskedLM),
    "modernbert": (ModernBertConfig, ModernBertModel, ModernBertForMaskedLM),
    "gpt2": (GPT2Config, GPT2Model, GPT2LMHeadModel),
}
FIRST_POSITION = dict.fromkeys(CLASSES, 0) | {"roberta": 2}
PADDING = dict.fromkeys(CLASSES, 0) | {"roberta": 1}

_BERT_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_BERT_DROPOUTS = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
# What a family has of its own, or by other names.
_OWN: dict[str, dict[str, Any]] = {
    "bert": _BERT_SIZES | _BERT_DROPOUTS,
    "roberta": _BERT_SIZES | _BERT_DROPOUTS,
    "electra": _BERT_SIZES | _BERT_DROPOUTS | {"embedding_size": 16},
    "distilbert": {
        "dim": 32,
        "n_layers": LAYERS,
        "n_heads": 4,
        "hidden_dim": 64,
        "dropout": 0.1,
        "attention_dropout": 0.1,
    },
    "modernbert": _BERT_SIZES
    | {
        "local_attention": 2 * WINDOW,
        "embedding_dropout": 0.1,
        "attention_dropout": 0.1,
        "mlp_dropout": 0.1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        "cls_token_id": 2,
        "sep_token_id": 3,
    },
    "gpt2": {
        "n_embd": 32,
        "n_layer": LAYERS,
        "n_head": 4,
        "n_inner": 64,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
}


def fill_(model: torch.nn.Module) -> None:
    """Deterministic weights: a formula, so that no seed and no library version matters."""
    with torch.no_grad():
        for rank, (name, parameter) in enumerate(sorted(model.named_parameters())):
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.3 * torch.sin(1.7 * i + 0.0137 * i * i + rank)
            if re.search(r"norm|\bln_", name.lower()) and name.endswith("weight"):
                values = 1 + values
            parameter.copy_(values.view(parameter.shape))


def tiny_config(family: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS + FIRST_POSITION[family],
        "pad_token_id": PADDING[family],
    }
    return CLASSES[family][0](**(settings | _OWN[family] | changes))


def save_tiny(folder: Path, family: str, *, mlm: bool = False, **changes: Any) -> PreTrainedModel:
    """Write a tiny checkpoint (config.json, model.safetensors) and give the model back."""
    config = tiny_config(family, **changes)
    model: PreTrainedModel = CLASSES[family][2 if mlm else 1](config)
    fill_(model)
    model.save_pretrained(folder)
    return model.eval()


@contextmanager
def exact_rotations() -> Iterator[None]:
    """Inside, transformers' ModernBERT rotates in the precision of its weights, not in float32."""
    from transformers.models.modernbert import modeling_modernbert as module

    def rotate(query: Any, key: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        turn = module.rotate_half
        return query * cos + turn(query) * sin, key * cos + turn(key) * sin

    original = module.apply_rotary_pos_emb
    module.apply_rotary_pos_emb = rotate
    try:
        yield
    finally:
        module.apply_rotary_pos_emb = original
