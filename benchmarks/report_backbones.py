"""The sections of the results page on the backbones: the embedded data, the published anchors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.markdown import grid, origin

NAMES = {
    "fm": "FM",
    "dnn": "DNN",
    "deepfm": "DeepFM",
    "xdeepfm": "xDeepFM",
    "pnn": "PNN",
    "dcn": "DCN",
    "autoint": "AutoInt+",
    "autoint_without_deep": "AutoInt, without deep part",
    "fignn": "FiGNN",
    "fgcnn": "FGCNN",
    "dcnv2": "DCNv2",
}

# AUC and LogLoss on MovieLens-1M in the AutoInt paper, arXiv 1810.11921 (docs/method.md, 10).
PUBLISHED: Mapping[str, tuple[float, float]] = {
    "fm": (0.8252, 0.3998),
    "deepfm": (0.8437, 0.3846),
    "dcn": (0.8446, 0.3809),
    "xdeepfm": (0.8463, 0.3808),
    "autoint_without_deep": (0.8456, 0.3797),
    "autoint": (0.8488, 0.3753),
}
BAND = 0.004  # AUC that a backbone may be below its published figure

Result = Mapping[str, Any]


def outside_the_band(result: Result) -> list[str]:
    """Models whose mean AUC is more than :data:`BAND` below the published one."""
    means = {row["model"]: row["auc"] for row in result["summary"]}
    return [
        model
        for model, (auc, _) in PUBLISHED.items()
        # rounded, so that a figure of four digits is not below by a float's last bit
        if model in means and round(means[model] - auc, 9) < -BAND
    ]


def band_table(result: Result) -> str:
    """Published beside found, and whether each is within the band."""
    found = {row["model"]: row for row in result["summary"]}
    outside = outside_the_band(result)
    rows = []
    for model, (auc, log_loss) in PUBLISHED.items():
        row = found.get(model)
        if row is None:
            rows.append([NAMES[model], f"{auc:.4f}", "", "", f"{log_loss:.4f}", "", "not run"])
            continue
        rows.append(
            [
                NAMES[model],
                f"{auc:.4f}",
                _spread(row, "auc"),
                f"{row['auc'] - auc:+.4f}",
                f"{log_loss:.4f}",
                _spread(row, "log_loss"),
                "FAIL" if model in outside else "pass",
            ]
        )
    header = ["model", "published AUC", "ours", "difference", "published LogLoss", "ours"]
    return grid([*header, f"within {BAND:g} or better"], rows)


def anchors_section(result: Result | None) -> str:
    """Our backbones against the figures of the AutoInt paper; None: not measured."""
    start = [
        "## Published anchors on MovieLens-1M",
        "```sh\npython -m benchmarks.anchors\n```",
    ]
    if result is None:
        said = (
            "Not measured: the files of MovieLens-1M are not at hand. Who has them runs this "
            f"command; a backbone passes at {BAND:g} below its published AUC or better, and one "
            "that does not ends the command with exit code 1."
        )
        return "\n\n".join([*start, said, band_table({"summary": []})])
    return "\n\n".join(
        [
            *start,
            f"{result['rows']:,} rows, random 8:1:1, the seven fields of the AutoInt paper "
            f"(`conf/{result['environment']}`). {_how(result)}",
            band_table(result),
            "### All backbones",
            summary_table(result),
            "### Tuning",
            _tuning(result),
        ]
    )


def backbones_section(result: Result) -> str:
    """All backbones on the embedded data."""
    option = "" if result["seeds"] == 5 else f" --seeds {result['seeds']}"
    return "\n\n".join(
        [
            "## All backbones on MovieLens latest-small, random split",
            f"```sh\npython -m benchmarks.backbones{option}\n```",
            _how(result),
            summary_table(result),
            "### Differences between the backbones",
            *(_tests(result, reference) for reference in result["tests"]),
            "### Tuning of the backbones",
            _tuning(result),
        ]
    )


def summary_table(result: Result) -> str:
    """Mean and deviation over the seeds, best AUC first, with what was chosen and the cost."""
    rows = sorted(result["summary"], key=lambda row: -row["auc"])
    return grid(
        ["model", "test AUC", "test LogLoss", "learning rate", "weight decay", "parameters",
         "seconds"],
        [
            [
                NAMES[row["model"]],
                _spread(row, "auc"),
                _spread(row, "log_loss"),
                f"{result['chosen'][row['model']]['learning_rate']:g}",
                f"{result['chosen'][row['model']]['weight_decay']:g}",
                f"{row['parameters']:,}",
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip


def _how(result: Result) -> str:
    stage, tried = result["stage"], result["grid"]
    pairs = len(tried["learning_rate"]) * len(tried["weight_decay"])
    return (
        f"{result['seeds']} seeds: means and sample deviations. The same {pairs} pairs for every "
        f"model, learning rate {_list(tried['learning_rate'])} and weight decay (coupled L2) "
        f"{_list(tried['weight_decay'])}, chosen by the valid AUC of seed 0; no choice looked at "
        f"test. At most {stage['epochs']} epochs, batch {stage['batch_size']}, "
        f"{result['precision']}; seconds are those of one training on one thread, with another "
        f"beside it. {_edges(result)} {origin(dict(result))}"
    )


def _edges(result: Result) -> str:
    """Which choices are the smallest or largest that was tried."""
    found = []
    for name, said in (("learning_rate", "rate"), ("weight_decay", "decay")):
        ends = (min(result["grid"][name]), "smallest"), (max(result["grid"][name]), "largest")
        for end, which in ends if ends[0][0] < ends[1][0] else ():
            models = [NAMES[model] for model, pair in result["chosen"].items() if pair[name] == end]
            if models:
                found.append(f"the {which} {said} by {', '.join(models)}")
    return f"Chosen at an edge of the grid: {'; '.join(found)}." if found else ""


def _tests(result: Result, reference: str) -> str:
    tests = result["tests"][reference]
    shown = [
        [
            NAMES[test["model"]],
            test["metric"],
            f"{test['difference']:+.4f}",
            _p(test["t_p_value"]),
            _p(test["p_value_holm"]),
        ]
        for test in tests
    ]
    return (
        f"Against {NAMES[reference]}{_why(result, reference)}, paired over the seeds; Holm's "
        f"correction is over the {len(tests)} tests of the table:\n\n"
        + grid(["model", "metric", "mean difference", "paired t, p", "after Holm"], shown)
    )


def _why(result: Result, reference: str) -> str:
    best = max(result["summary"], key=lambda row: row["valid_auc"])["model"]
    return " (the highest mean valid AUC)" if reference == best else " (ClickPrompt's backbone)"


def _tuning(result: Result) -> str:
    pairs = list(dict.fromkeys((t["learning_rate"], t["weight_decay"]) for t in result["tuning"]))
    found = {(t["model"], t["learning_rate"], t["weight_decay"]): t for t in result["tuning"]}
    return "Valid AUC of seed 0 for each pair:\n\n" + grid(
        ["learning rate", "weight decay", *(NAMES[model] for model in result["chosen"])],
        [
            [f"{rate:g}", f"{decay:g}"]
            + [_valid_auc(found[model, rate, decay]) for model in result["chosen"]]
            for rate, decay in pairs
        ],
    )


def _valid_auc(trial: Mapping[str, Any]) -> str:
    return "diverged" if trial["valid_auc"] is None else f"{trial['valid_auc']:.4f}"


def _spread(row: Mapping[str, Any], metric: str) -> str:
    deviation = row[f"{metric}_deviation"]
    return f"{row[metric]:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _list(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
