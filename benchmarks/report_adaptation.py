"""The section of the results page on cheaper ways to adapt the language model."""

from __future__ import annotations

from typing import Any

from benchmarks.markdown import grid, origin

NAMES = {
    "full": "full finetuning",
    "frozen": "PLM frozen",
    "lower_half_frozen": "lower half frozen",
    "lora": "LoRA, rank 8",
    "gradient_checkpointing": "gradient checkpointing",
    "bottleneck": "bottleneck 32",
}
STAGES = {"pretrain": "pretraining", "finetune_with_plm": "finetuning"}


def adaptation_section(result: dict[str, Any]) -> str:
    """What each way costs in a step, and what it keeps."""
    settings = result["settings"]
    train, _, test = result["rows"]
    seeds = f"{settings['seeds']} seed" + ("s" if settings["seeds"] > 1 else "")
    rates = settings["lora_rates"]
    return "\n\n".join(
        [
            "## Cheaper adaptation of the language model",
            f"```sh\npython -m benchmarks.adaptation{_options(settings)}\n```",
            f"A step with MiniLM ({settings['layers']} layers), batch {settings['batch']}, "
            f"K = {settings['prompts']}, {settings['mean_tokens']} tokens a row on average, "
            f"{settings['precision']}, everything else as in `conf/base`; each way differs from "
            "full finetuning in one thing. Memory is what the process grows by: weights, "
            "gradients, Adam's moments, activations. Each number is of a process of its own. "
            f"{origin(result)}",
            *(_costs(result["costs"], stage) for stage in STAGES),
            f"What is kept: one epoch of pretraining and one of finetuning on {train:,} train rows "
            f"(the first {settings['users']} users), {result['quality_layers']} layers, measured "
            f"on {test:,} test rows; means of {seeds}. Learning rate of the PLM in finetuning "
            f"{settings['finetune_rate']:g}; LoRA {rates['pretrain']:g} in pretraining and "
            f"{rates['finetune']:g} in finetuning; nothing was tuned. So few rows rank no methods: "
            "they show whether one falls behind.",
            _quality(result),
        ]
    )


def _options(settings: dict[str, Any]) -> str:
    from benchmarks import adaptation

    usual = {"seeds": adaptation.SEEDS, "users": adaptation.USERS}
    return "".join(
        f" --{name} {settings[name]}" for name, value in usual.items() if settings[name] != value
    )


def _costs(costs: list[dict[str, Any]], stage: str) -> str:
    own = {cost["variant"]: cost for cost in costs if cost["stage"] == stage}
    return grid(
        [
            STAGES[stage],
            "trained in the PLM",
            "trained in all",
            "optimiser, MiB",
            "peak memory, MiB",
            "samples per second",
            "ratio",
        ],
        [
            [
                NAMES[variant],
                f"{cost['trained_plm']:,}",
                f"{cost['trained']:,}",
                f"{cost['optimizer_bytes'] / 2**20:,.1f}",
                f"{cost['memory_mb']:,}",
                f"{cost['samples_per_second']:g}",
                f"{cost['samples_per_second'] / own['full']['samples_per_second']:.2f}",
            ]
            for variant, cost in own.items()
        ],
    )


def _quality(result: dict[str, Any]) -> str:
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in result["quality"]:
        entries.setdefault(entry["variant"], []).append(entry)
    rows = [
        [
            NAMES[variant],
            f"{_mean([e['mlm_loss'] for e in found]):.4f}",
            *(
                f"{_mean([e[kind][metric] for e in found]):.4f}"
                for kind in ("with_plm", "without_plm")
                for metric in ("auc", "log_loss")
            ),
        ]
        for variant, found in entries.items()
    ]
    backbone = [
        f"{_mean([e[metric] for e in result['backbone']]):.4f}" for metric in ("auc", "log_loss")
    ]
    return grid(
        [
            "way",
            "PA-MLM loss, valid",
            "AUC with PLM",
            "LogLoss with PLM",
            "AUC without PLM",
            "LogLoss without PLM",
        ],
        [*rows, ["backbone, from scratch", "", "", "", *backbone]],
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
