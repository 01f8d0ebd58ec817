"""Tiny encoders built from a configuration, with deterministic weights; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

VOCABULARY = 120
POSITIONS = 24
LAYERS = 3
CLASSES: dict[str, tuple[Any, Any, Any]] = {
    "bert": (BertConfig, BertModel, BertForMaskedLM),
    "roberta": (RobertaConfig, RobertaModel, RobertaForMaskedLM),
}
FIRST_POSITION = {"bert": 0, "roberta": 2}
PADDING = {"bert": 0, "roberta": 1}


def fill_(model: torch.nn.Module) -> None:
    """Deterministic weights: a formula, so that no seed and no library version matters."""
    with torch.no_grad():
        for rank, (name, parameter) in enumerate(sorted(model.named_parameters())):
            i = torch.arange(parameter.numel(), dtype=torch.float64)
            values = 0.3 * torch.sin(1.7 * i + 0.0137 * i * i + rank)
            if "norm" in name.lower() and name.endswith("weight"):
                values = 1 + values
            parameter.copy_(values.view(parameter.shape))


def tiny_config(family: str, **changes: Any) -> Any:
    settings: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": POSITIONS + FIRST_POSITION[family],
        "pad_token_id": PADDING[family],
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
    }
    return CLASSES[family][0](**(settings | changes))


def save_tiny(folder: Path, family: str, *, mlm: bool = False, **changes: Any) -> PreTrainedModel:
    """Write a tiny checkpoint (config.json, model.safetensors) and give the model back."""
    config = tiny_config(family, **changes)
    model: PreTrainedModel = CLASSES[family][2 if mlm else 1](config)
    fill_(model)
    model.save_pretrained(folder)
    return model.eval()
