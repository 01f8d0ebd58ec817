"""Language models that read prompts: loading, prompted attention, heads, pooling.

`load_encoder` and `load_tokenizer` take `clickprompt.parameters.PLMParameters`;
`PromptedEncoder`, `MLMHead`, `ClickHead` and `pool` are plain torch. torch is imported with the
first of them that is asked for: finding a model's files needs none of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from clickprompt.plm.source import PLMSource, load_tokenizer, resolve_source

if TYPE_CHECKING:
    from clickprompt.plm.encoder import (
        PromptedEncoder,
        build_encoder,
        encoder_config,
        load_encoder,
    )
    from clickprompt.plm.head import POOLINGS, ClickHead, MLMHead, load_mlm_head, pool
    from clickprompt.plm.lora import merge_lora

__all__ = [
    "POOLINGS",
    "ClickHead",
    "MLMHead",
    "PLMSource",
    "PromptedEncoder",
    "build_encoder",
    "encoder_config",
    "load_encoder",
    "load_mlm_head",
    "load_tokenizer",
    "merge_lora",
    "pool",
    "resolve_source",
]

_TORCH_PARTS = {
    "PromptedEncoder": "encoder",
    "build_encoder": "encoder",
    "encoder_config": "encoder",
    "load_encoder": "encoder",
    "POOLINGS": "head",
    "ClickHead": "head",
    "MLMHead": "head",
    "load_mlm_head": "head",
    "merge_lora": "lora",
    "pool": "head",
}


def __getattr__(name: str) -> Any:
    if name not in _TORCH_PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_TORCH_PARTS[name]}"), name)
