"""Optimiser groups and learning-rate schedule (sections 5 and 6 of docs/method.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn

from clickprompt.parameters import StageParameters

# Part of the model (first component of a parameter's name) -> its learning rate.
PARTS = {
    "ctr": "learning_rate_ctr",
    "generator": "learning_rate_prompts",
    "encoder": "learning_rate_plm",
    "mlm_head": "learning_rate_head",
    "click_head": "learning_rate_head",
    "alpha": "learning_rate_head",
}


def parameter_groups(model: nn.Module, stage: StageParameters) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group with its rate and weight decay.

    Biases, norms and the fusion weight alpha have no decay. The embedding tables of the CTR
    model have the decay of the CTR model (coupled L2 on them is what matters most there).

    NOTE[DIFF]: the reference trains biases and LayerNorms at 1e-3 whatever the rate of
    their part; here they have the rate of their part.

    Args:
        model: a model whose top-level children are named in ``PARTS``.
        stage: rates and decay; a rate of 0 freezes the part (no gradient is computed).

    Returns:
        Groups for a torch optimiser, each with ``name``, ``lr``, ``weight_decay``.

    Raises:
        ValueError: every part is frozen.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        assert part in PARTS, f"parameter {name} belongs to no optimiser group"
        if getattr(stage, PARTS[part]) == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            decays = parameter.ndim >= 2
            groups.setdefault((part, decays), []).append(parameter)
    if not groups:
        raise ValueError("at least one learning rate must be above 0, got 0 for every part")
    return [
        {
            "name": f"{part}.{'weights' if decays else 'biases_and_norms'}",
            "params": parameters,
            "lr": getattr(stage, PARTS[part]),
            "weight_decay": _decay(part, decays, stage),
        }
        for (part, decays), parameters in groups.items()
    ]


def _decay(part: str, decays: bool, stage: StageParameters) -> float:
    if not decays:
        return 0.0
    return stage.weight_decay_plm if part in ("encoder", "mlm_head") else stage.weight_decay


def build_optimizer(
    model: nn.Module, stage: StageParameters, *, betas: tuple[float, float] = (0.9, 0.999)
) -> torch.optim.Optimizer:
    """Adam with L2 in the gradient (``coupled``) or AdamW (``decoupled``), fused."""
    kind = torch.optim.Adam if stage.decay == "coupled" else torch.optim.AdamW
    return kind(parameter_groups(model, stage), betas=betas, fused=True)


def rate_factor(step: int, *, total: int, stage: StageParameters) -> float:
    """Factor on every learning rate at optimiser step ``step`` of ``total`` (from 0).

    Rises linearly over the warm-up, then stays, or falls to 0 linearly or as a cosine.
    """
    warm = math.ceil(stage.warmup * total)
    if step < warm:
        return (step + 1) / warm
    if stage.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, total - warm)
    if stage.schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, base: list[float], factor: float) -> None:
    """Set each group's learning rate to its base rate times ``factor``."""
    for group, rate in zip(optimizer.param_groups, base, strict=True):
        group["lr"] = rate * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as named tensors ``<parameter number>.<entry>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{entry}": torch.as_tensor(value)
        for number, entries in state.items()
        for entry, value in entries.items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of ``optimizer_tensors``; the groups stay as they were built."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, entry = name.split(".", 1)
        state.setdefault(int(number), {})[entry] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
