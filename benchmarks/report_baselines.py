"""The section of the results page on the models that ClickPrompt is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import grid, origin

NAMES = {
    "backbone": "backbone (DCNv2)",
    "longer_backbone": "backbone, more epochs",
    "text_features": "backbone + frozen text vectors",
    "ctr_bert": "CTR-BERT",
    "p5": "P5",
    "ptab": "PTab",
    "ctrl": "CTRL",
    "clickprompt_without_plm": "ClickPrompt without PLM",
    "clickprompt_with_plm": "ClickPrompt with PLM",
    "clickprompt_distilled": "ClickPrompt distilled",
    "clickprompt_masked_ids": "ClickPrompt without PLM, masked IDs too",
}
RANDOM = "T5, random weights"


def baselines_section(result: Mapping[str, Any], backbones: Mapping[str, Any] | None = None) -> str:
    """One table: what is reached, what it costs to train and to serve; the backbones below it.

    Args:
        result: of `benchmarks.baselines`.
        backbones: of `benchmarks.backbones`, whose rows are shown too; None: not at hand.
    """
    trials = sorted(set(result["settings"].values()))
    tried = " or ".join(str(number) for number in trials)
    rows = sorted(result["summary"], key=lambda row: -row["auc"])
    untrained = any(row["plm"] == RANDOM for row in rows)
    return "\n\n".join(
        [
            "## The models that ClickPrompt is compared with",
            "```sh\npython -m benchmarks.baselines\n```",
            f"MovieLens latest-small, random split, the same rows, text and PLM (two layers of "
            f"MiniLM) for all; {tried} settings tried for each model, chosen by the valid AUC of "
            "seed 0; no choice looked at test. Means and sample deviations. "
            f"Trained on: {result['trained_on']}. Seconds (of all stages) and "
            "rows a second (of scoring valid and "
            "test) are of one training each with the values of `conf`, on the machine named below: "
            "those of `kedro run`, or of `python -m benchmarks.baselines --cost`; empty: not "
            "measured. Parameters are what serving holds. "
            f"{origin(dict(result))}",
            grid(
                ["model", "seeds", "test AUC", "test LogLoss", "training, s", "scoring, rows/s",
                 "parameters"],
                [_row(row, result.get("cost", {}).get(row["model"], {})) for row in rows],
            ),
            *(
                ["P5 is a small T5 with random weights: no pretrained one was at hand. Its row "
                 "says what an untrained encoder-decoder learns from this data alone."]
                if untrained
                else []
            ),
            _floor(result),
            "Against the backbone, paired over the seeds that both have; Holm's correction is over "
            f"the {len(result['tests'])} tests of the table:",
            grid(
                ["model", "metric", "seeds", "mean difference", "paired t, p", "after Holm"],
                [
                    [
                        NAMES[test["model"]],
                        test["metric"],
                        str(test["seeds"]),
                        f"{test['difference']:+.4f}",
                        _p(test["t_p_value"]),
                        _p(test["p_value_holm"]),
                    ]
                    for test in result["tests"]
                ],
            ),
            "What was tried, valid AUC of seed 0:",
            grid(
                ["model", "setting", "valid AUC", "chosen"],
                [
                    [
                        NAMES[trial["model"]],
                        ", ".join(f"`{n}` {v}" for n, v in trial["changes"].items()),
                        f"{trial['valid_auc']:.4f}",
                        "x" if result["chosen"][trial["model"]] == trial["changes"] else "",
                    ]
                    for trial in result["tuning"]
                ],
            ),
        ]
        + ([_backbones(backbones)] if backbones else [])
    )  # fmt: skip


def _row(row: Mapping[str, Any], cost: Mapping[str, Any]) -> list[str]:
    name = NAMES[row["model"]] + (f" ({RANDOM})" if row["plm"] == RANDOM else "")
    scored, seconds = cost.get("scored_rows_per_second"), cost.get("seconds")
    return [
        name,
        str(row["seeds"]),
        _spread(row, "auc"),
        _spread(row, "log_loss"),
        "" if seconds is None else f"{seconds:,.0f}",
        "" if scored is None else f"{scored:,.0f}",
        f"{row['parameters']:,}",
    ]


def _floor(result: Mapping[str, Any]) -> str:
    """Is anything worse than a constant?"""
    floor = result["constant_log_loss"]
    worse = [
        NAMES[row["model"]]
        for row in result["summary"]
        if row["log_loss"] >= floor or row["auc"] <= 0.5
    ]
    start = f"The train rate as every prediction has LogLoss {floor:.4f}; "
    return start + (f"worse than that: {', '.join(worse)}." if worse else "no model is worse.")


def _backbones(result: Mapping[str, Any]) -> str:
    from benchmarks.report_backbones import NAMES as BACKBONES

    rows = sorted(result["summary"], key=lambda row: -row["auc"])
    tried = len(result["grid"]["learning_rate"]) * len(result["grid"]["weight_decay"])
    return (
        f"The ten backbones on the same rows, from the comparison above ({tried} settings each, "
        f"{result['seeds']} seeds; seconds on one thread):\n\n"
        + grid(
            ["model", "test AUC", "test LogLoss", "training, s", "parameters"],
            [
                [
                    BACKBONES[row["model"]],
                    _spread(row, "auc"),
                    _spread(row, "log_loss"),
                    f"{row['seconds']:.0f}",
                    f"{row['parameters']:,}",
                ]
                for row in rows
            ],
        )
    )


def _spread(row: Mapping[str, Any], metric: str) -> str:
    deviation = row[f"{metric}_deviation"]
    return f"{row[metric]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
