"""What the prompts do, from the reports of the stages (section 8 of docs/method.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

WAYS = ("on", "off", "shuffled")

# Measured quantity -> its name, and what is better.
MEASURES = {
    "mlm_loss": ("PA-MLM loss", "lower is better"),
    "mlm_accuracy": ("masked-token accuracy", "higher is better"),
    "clm_loss": ("PA-CLM loss", "lower is better"),
    "clm_accuracy": ("next-token accuracy", "higher is better"),
    "auc": ("AUC", "higher is better"),
    "log_loss": ("LogLoss", "lower is better"),
}

Effect = dict[str, dict[str, float | None]]


def prompt_summary(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the evaluation says of the prompts of one trained stage.

    Args:
        report: of pretraining, or of finetuning with the PLM.

    Returns:
        ``stage``; ``effect``: measure -> value with prompts ``on``, ``off``, ``shuffled`` between
        rows, on valid; ``attention``: see `clickprompt.training.diagnostics`, None where it was not
        looked at.
    """
    return {
        "stage": report["stage"],
        "effect": prompt_effect(report),
        "attention": (report.get("diagnostics") or {}).get("attention"),
    }


def prompt_effect(report: Mapping[str, Any]) -> Effect:
    """Measure -> value by way of a stage's report; empty where it measured none."""
    values = {**report["metrics"], **((report.get("diagnostics") or {}).get("effect") or {})}
    effect: Effect = {}
    for key, value in values.items():
        if match := re.fullmatch(rf"valid_(.+)_prompts_({'|'.join(WAYS)})", key):
            effect.setdefault(match[1], {})[match[2]] = value
    return {name: ways for name, ways in effect.items() if set(ways) == set(WAYS)}


def measure_name(measure: str) -> str:
    """As a reader knows it."""
    return MEASURES.get(measure, (measure.replace("_", " "), ""))[0]
