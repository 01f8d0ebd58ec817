"""Write docs/results.md, and the README's table, from the JSON files in benchmarks/results.

No number is typed by hand: ``python -m benchmarks.report`` after a benchmark. A test
compares the pages with what this module makes of the files.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.markdown import contents
from benchmarks.markdown import grid as _grid
from benchmarks.markdown import origin as _origin
from benchmarks.project import REPOSITORY
from benchmarks.report_adaptation import adaptation_section
from benchmarks.report_backbones import anchors_section, backbones_section, outside_the_band
from benchmarks.report_baselines import baselines_section
from benchmarks.report_ctr import large_vocabulary_section
from benchmarks.report_ctr_speed import (
    cost_section,
    precision_section,
    raw_section,
    speed_section,
)
from benchmarks.report_plm import FIGURE as MINUTES_FIGURE
from benchmarks.report_plm import (
    accuracy_per_minute_figure,
    accuracy_per_minute_section,
)
from benchmarks.report_plm import cost_section as plm_cost_section
from benchmarks.report_plm import speed_section as plm_speed_section
from benchmarks.report_scale import FIGURE, peers_section, scale_figure, scale_section
from benchmarks.report_serving import agreement_section, serving_section
from benchmarks.report_studies import expectation_counts, studies_section
from benchmarks.results import FOLDER
from benchmarks.studies import STUDIES
from clickprompt.evaluation.significance import holm

PAGE = REPOSITORY / "docs" / "results.md"
README = REPOSITORY / "README.md"
NAMES = {
    "backbone": "backbone, from scratch",
    "clickprompt_without_plm": "ClickPrompt without PLM",
    "clickprompt_with_plm": "ClickPrompt with PLM",
}


def page() -> str:
    """The whole of docs/results.md."""
    parts = [
        "# Results",
        "Every table on this page is made from a JSON file in `benchmarks/results/` by "
        "`python -m benchmarks.report`. Each file names the machine and the date.",
    ]
    for path in sorted(FOLDER.glob("accuracy_*.json")):
        if path.stem == "accuracy_per_minute":  # a section of its own
            continue
        parts.append(_accuracy(path.stem.removeprefix("accuracy_"), _read(path)))
    if (FOLDER / "backbones.json").exists():
        parts.append(backbones_section(_read(FOLDER / "backbones.json")))
    anchors = FOLDER / "anchors.json"
    parts.append(anchors_section(_read(anchors) if anchors.exists() else None))
    if (FOLDER / "baselines.json").exists():
        backbones = FOLDER / "backbones.json"
        known = _read(backbones) if backbones.exists() else None
        parts.append(baselines_section(_read(FOLDER / "baselines.json"), known))
    if known_studies := _studies():
        extras = (
            FOLDER / f"{name}.json"
            for name in ("study_popularity", "study_settings", "accuracy_per_minute")
        )
        known_extras = (_read(path) if path.exists() else None for path in extras)
        parts.append(studies_section(known_studies, *known_extras))
    for name, section in (
        ("accuracy_per_minute", accuracy_per_minute_section),
        ("plm_speed", plm_speed_section),
        ("plm_cost", plm_cost_section),
        ("adaptation", adaptation_section),
        ("large_vocabulary", large_vocabulary_section),
        ("conversion", _conversion),
        ("scale", scale_section),
        ("peers", peers_section),
        ("ctr_speed", speed_section),
        ("ctr_raw", raw_section),
        ("ctr_cost", cost_section),
        ("precision", precision_section),
        ("serving", serving_section),
        ("serving_agreement", agreement_section),
        ("startup", _startup),
    ):
        if (FOLDER / f"{name}.json").exists():
            parts.append(section(_read(FOLDER / f"{name}.json")))
    parts.insert(2, contents(parts))
    return "\n\n".join(parts) + "\n"


def readme(text: str) -> str:
    """The README with its tables, each between two marks."""
    accuracy = FOLDER / "accuracy_base.json"
    if accuracy.exists():
        result = _read(accuracy)
        text = _between(
            text,
            "embedded",
            f"{_table(result)}\n\n{_means(result)} Paired t tests over the seeds, after Holm's "
            f"correction: the lowest p is {min(_seed_tests(result)[1]):.2g}. "
            "[docs/results.md](docs/results.md) has all of them.",
        )
    return _between(text, "studies", expectation_counts(_studies()))


def _between(text: str, name: str, block: str) -> str:
    return re.sub(
        rf"(<!-- results:{name} -->).*?(<!-- /results:{name} -->)",
        lambda found: f"{found[1]}\n{block}\n{found[2]}",
        text,
        flags=re.DOTALL,
    )


def _studies() -> dict[str, Any]:
    """What `benchmarks.studies` has written, by study."""
    paths = {name: FOLDER / f"study_{name}.json" for name in STUDIES}
    return {name: _read(path) for name, path in paths.items() if path.exists()}


def _accuracy(environment: str, result: dict[str, Any]) -> str:
    option = "" if environment == "base" else f" --env {environment}"
    models = list(result["chosen_weight_decay"])
    if result["seeds"] != 5:  # what benchmarks.accuracy does unless told
        option += f" --seeds {result['seeds']}"
    if len(models) < len(NAMES):
        option += f" --models {' '.join(models)}"
    split = "time" if "time" in environment else "random"
    pretraining = [entry["metrics"] for entry in result["pretraining"]]
    lines = [
        f"## Accuracy on MovieLens latest-small, {split} split",
        f"```sh\npython -m benchmarks.accuracy{option}\n```",
        f"{result['seeds']} seeds. One grid of weight decay (coupled L2 in Adam) for all "
        f"models, {', '.join(f'{decay:g}' for decay in result['grid'])}, chosen by the valid AUC "
        "of seed 0; no choice looked at test. Chosen: "
        + ", ".join(
            f"{NAMES[model]} {decay:g}" for model, decay in result["chosen_weight_decay"].items()
        )
        + f". {_origin(result)}",
        _table(result),
        _means(result),
        "### Differences from the backbone",
        _tests(result),
        "### Each seed",
        _seeds(result),
        "### PA-MLM on valid",
        "Loss (accuracy) of the masked tokens after pretraining, with the prompts on, left out, "
        "and taken from another row:",
        _grid(
            ["seed", "on", "off", "shuffled"],
            [
                [str(entry["seed"])]
                + [
                    f"{metrics[f'valid_mlm_loss_prompts_{name}']:.3f} "
                    f"({metrics[f'valid_mlm_accuracy_prompts_{name}']:.3f})"
                    for name in ("on", "off", "shuffled")
                ]
                for entry, metrics in zip(result["pretraining"], pretraining, strict=True)
            ],
        ),
        "### Tuning",
        "Valid AUC / LogLoss of seed 0 for each weight decay:",
        _tuning(result),
    ]
    return "\n\n".join(lines)


def _table(result: dict[str, Any]) -> str:
    base = {row["model"]: row for row in result["summary"]}["backbone"]
    rows = []
    for row in _named(result["summary"]):
        model, name = row["model"], NAMES[row["model"]]
        rows.append(
            [
                name,
                f"{row['auc']:.4f} ± {row['auc_deviation']:.4f}",
                f"{row['log_loss']:.4f} ± {row['log_loss_deviation']:.4f}",
                "" if model == "backbone" else f"{row['auc'] - base['auc']:+.4f}",
                "" if model == "backbone" else f"{row['log_loss'] - base['log_loss']:+.4f}",
            ]
        )
    return _grid(["model", "test AUC", "test LogLoss", "AUC gain", "LogLoss change"], rows)


def _named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of models, in the order of the tables; the constant prediction is none."""
    order = list(NAMES)
    models = [row for row in rows if row["model"] in NAMES]
    return sorted(models, key=lambda row: (order.index(row["model"]), row.get("seed", 0)))


def _means(result: dict[str, Any]) -> str:
    constant = next(row for row in result["summary"] if row["model"] == "constant")
    return (
        f"Means and sample deviations over {result['seeds']} seeds, DCNv2 and two layers of "
        f"MiniLM. The train rate as every prediction has LogLoss {constant['log_loss']:.4f}."
    )


def _seed_tests(result: dict[str, Any]) -> tuple[list[tuple[str, str, Any]], list[float]]:
    """Each model's tests over the seeds, and their p after Holm's correction."""
    tests = [
        (NAMES[entry["model"]], metric, entry[metric])
        for entry in result["seed_comparisons"]
        for metric in ("auc", "log_loss")
    ]
    return tests, list(holm([test["t_p_value"] for _, _, test in tests]))


def _tests(result: dict[str, Any]) -> str:
    tests, corrected = _seed_tests(result)
    seeds = _grid(
        ["model", "metric", "mean difference", "paired t over seeds, p", "after Holm"],
        [
            [name, metric, f"{test['difference']:+.4f}", f"{test['t_p_value']:.4g}", f"{p:.4g}"]
            for (name, metric, test), p in zip(tests, corrected, strict=True)
        ],
    )
    count = {
        (model, metric): [
            entry[metric]["p_value_holm"] < 0.05
            for entry in result["comparisons"]
            if entry["model"] == model
        ]
        for model in list(result["chosen_weight_decay"])[1:]
        for metric in ("auc", "log_loss")
    }
    said = "; ".join(
        f"{NAMES[model]}, {metric}: {sum(found)} of {len(found)} seeds"
        for (model, metric), found in count.items()
    )
    return (
        f"{seeds}\n\nOn the predictions of one seed (DeLong for AUC, paired bootstrap for LogLoss, "
        f"Holm over all), differences with p < 0.05: {said}."
    )


def _seeds(result: dict[str, Any]) -> str:
    return _grid(
        ["model", "seed", "test AUC", "test LogLoss"],
        [
            [NAMES[row["model"]], str(row["seed"]), f"{row['auc']:.4f}", f"{row['log_loss']:.4f}"]
            for row in _named(result["results"])
        ],
    )


def _tuning(result: dict[str, Any]) -> str:
    found = {
        (entry["model"], entry["weight_decay"]): entry["metrics"] for entry in result["tuning"]
    }
    return _grid(
        ["model", *(f"{decay:g}" for decay in result["grid"])],
        [
            [NAMES[model]]
            + [
                f"{found[model, decay]['valid_auc']:.4f} / "
                f"{found[model, decay]['valid_log_loss']:.4f}"
                for decay in result["grid"]
            ]
            for model in result["chosen_weight_decay"]
        ],
    )


def _conversion(result: dict[str, Any]) -> str:
    rows = [[key, f"{value:,}"] for key, value in result.items() if isinstance(value, int | float)]
    return "\n\n".join(
        [
            "## Modality conversion at MovieLens-1M size",
            "```sh\npython -m benchmarks conversion\n```",
            f"Generated files in the published format, to memory-mapped arrays. {_origin(result)}",
            _grid(["measured", "value"], rows),
        ]
    )


def _startup(result: dict[str, Any]) -> str:
    rows = [
        [f"`{command}`", *(f"{value:.3g}" for value in entry.values())]
        for command, entry in result.items()
        if isinstance(entry, dict)
    ]
    first = next(entry for entry in result.values() if isinstance(entry, dict))
    return "\n\n".join(
        [
            "## Start of the command line",
            "```sh\npython -m benchmarks startup\n```",
            f"Against a bare Kedro project with the same plugins. {_origin(result)}",
            _grid(["command", *(key.replace("_", " ") for key in first)], rows),
        ]
    )


def _read(path: Any) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def figures() -> dict[Path, str]:
    """The figures of the page: path -> content."""
    drawn = {}
    for name, figure, draw in (
        ("scale", FIGURE, scale_figure),
        ("accuracy_per_minute", MINUTES_FIGURE, accuracy_per_minute_figure),
    ):
        path = FOLDER / f"{name}.json"
        drawing = draw(_read(path)) if path.exists() else None
        if drawing is not None:
            drawn[PAGE.parent / figure] = drawing
    return drawn


def main() -> None:
    """Write pages and figures; exit with 1 where a published anchor is missed."""
    for figure_path, drawing in figures().items():
        figure_path.write_text(drawing, encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    anchors = FOLDER / "anchors.json"
    if anchors.exists() and (outside := outside_the_band(_read(anchors))):
        sys.exit(f"outside of the band of the published anchors: {', '.join(outside)}")


if __name__ == "__main__":
    main()
