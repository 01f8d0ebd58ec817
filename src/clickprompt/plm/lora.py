"""LoRA: small trained matrices beside the frozen ones of the language model.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685. A linear module
of a layer computes

    y = W x + b + (alpha / rank) B A dropout(x)

with A (rank, in) and B (out, rank) trained, W and b not. A is drawn as `torch.nn.Linear` draws its
weights, B is 0, so that a fresh adapter changes nothing. The modules are those of `peft`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from clickprompt.parameters import LoRAParameters
from clickprompt.plm.families import Family

_ADAPTER = "default"


def add_lora(
    model: nn.Module,
    family: Family,
    lora: LoRAParameters,
    *,
    first_layer: int = 0,
    generator: torch.Generator,
) -> None:
    """Freeze the model and put adapters beside its matrices, in place.

    NOTE[DIFF]: paper and reference train all weights of the PLM; with ``plm.lora`` (null by
    default) they stay as they are, and only the adapters learn, at the PLM's learning rate.

    Args:
        model: a transformers encoder of the family.
        family: names the modules of each target.
        lora: rank, scale, dropout, targets.
        first_layer: adapters are in the layers from here on; those below learn nothing.
        generator: draws A.

    Raises:
        ValueError: the family names no modules for a target, or no layer is left to adapt.
    """
    from peft import LoraConfig, inject_adapter_in_model

    kind = model.config.model_type  # type: ignore[union-attr]
    if not family.lora_targets:
        raise ValueError(
            f"plm.lora must be null for the family {kind!r}, which has no targets for it, "
            f"got rank {lora.rank}"
        )
    unknown = [target for target in lora.targets if target not in family.lora_targets]
    if unknown:
        raise ValueError(
            f"plm.lora.targets must be among {', '.join(family.lora_targets)} for the family "
            f"{kind!r}, got {unknown[0]!r}"
        )
    all_layers = list(family.layers(model))
    if first_layer >= len(all_layers):
        raise ValueError(
            f"plm.freeze_layers must leave a layer for plm.lora, got {first_layer} of "
            f"{len(all_layers)} layers"
        )
    layers = nn.ModuleList(all_layers[first_layer:])
    names = {name for target in lora.targets for name in family.lora_targets[target]}
    modules = [f"{number}.{name}" for number in range(len(layers)) for name in sorted(names)]
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides by the rank, no more
        lora_dropout=lora.dropout,
        target_modules=modules,
        fan_in_fan_out=any(_is_transposed(layers.get_submodule(name)) for name in modules),
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # peft draws first; its draws are replaced below
        inject_adapter_in_model(config, layers, adapter_name=_ADAPTER)
    for name in modules:
        module: Any = layers.get_submodule(name)
        nn.init.kaiming_uniform_(
            module.lora_A[_ADAPTER].weight, a=math.sqrt(5), generator=generator
        )
        nn.init.zeros_(module.lora_B[_ADAPTER].weight)
        # Under autocast peft would turn a bf16 input into float32, and autocast turn it back.
        module.cast_input_dtype_enabled = False


def merge_lora(model: nn.Module) -> None:
    """Add every adapter to its matrix and take it out, in place: the model is a plain one again.

    W becomes W + (alpha / rank) B A; names and shapes of the tensors are those of the checkpoint.
    A model without adapters stays as it is.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.get_base_layer())


def _is_transposed(module: nn.Module) -> bool:
    """Whether a linear module keeps its matrix as (in, out), as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)
