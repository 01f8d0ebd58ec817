"""AUC of the main models by how often the test row's item is in train, from saved predictions.

The study ``performance`` asks whether the gain is larger in the tail; this shows where it ends.
The limits of the groups were set after the study's results were seen, so it explains, and proves
nothing. Nothing is trained.

    python -m benchmarks.study_popularity
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.project import REPOSITORY
from benchmarks.results import FOLDER as RESULTS
from benchmarks.results import write_result
from benchmarks.seeds import with_holm
from benchmarks.studies import FOLDER
from clickprompt.evaluation.metrics import auc
from clickprompt.evaluation.significance import seed_test
from clickprompt.studies.records import Records

MODELS = {
    "backbone": "DCNv2",
    "without PLM": "ClickPrompt without PLM",
    "with PLM": "ClickPrompt with PLM",
}
PAIRS = (("with PLM", "backbone"), ("without PLM", "backbone"), ("with PLM", "without PLM"))
FIRST_ROWS = (0, 1, 5, 20, 80)  # of each group, the next one's is its end


def by_popularity(
    labels: np.ndarray, item_train_rows: np.ndarray, predictions: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """AUC in each group of items, and the differences between the models.

    Args:
        labels: (rows,).
        item_train_rows: (rows,), how many train rows the row's item has.
        predictions: model -> (seeds, rows) probabilities.

    Returns:
        ``groups``: ``at_least`` and ``below`` (null: no end) train rows, ``rows``, ``auc`` by model
        (mean over seeds); ``tests``: ``at_least``, ``model``, ``against``, ``difference``,
        ``t_p_value``, ``p_value_holm`` (over all tests).
    """
    groups, tests = [], []
    for first, end in zip(FIRST_ROWS, (*FIRST_ROWS[1:], None), strict=True):
        inside = item_train_rows >= first
        if end is not None:
            inside &= item_train_rows < end
        found = {
            model: [auc(labels[inside], of_seed[inside]) for of_seed in by_seed]
            for model, by_seed in predictions.items()
        }
        means = {model: float(np.mean(values)) for model, values in found.items()}
        rows = int(inside.sum())
        groups.append({"at_least": first, "below": end, "rows": rows, "auc": means})
        for model, against in PAIRS:
            test = seed_test(found[model], found[against])
            tests.append(
                {
                    "at_least": first,
                    "model": model,
                    "against": against,
                    "difference": test.difference,
                    "t_p_value": test.t_p_value,
                }
            )
    return {"groups": groups, "tests": with_holm(tests)}


def saved_predictions() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], list[int]]:
    """Of the study ``performance``: labels, train rows of the items, predictions, seeds.

    Raises:
        ValueError: the models have other seeds.
    """
    records = Records(REPOSITORY / FOLDER)
    study = json.loads((RESULTS / "study_performance.json").read_text(encoding="utf-8"))
    rows = {row["labels"]["model"]: row for row in study["rows"]}
    seeds = {name: rows[study_name]["seeds"] for name, study_name in MODELS.items()}
    if len({tuple(found) for found in seeds.values()}) != 1:
        raise ValueError(f"the models must be finished for the same seeds, got {seeds}")
    predictions = {
        name: np.stack(
            [records.probabilities(cell["digest"]) for cell in rows[study_name]["cells"]]
        )
        for name, study_name in MODELS.items()
    }
    test = records.test_rows(study["data_digests"][0]).rows
    labels, train_rows = test["label"].to_numpy(), test["item_train_rows"].to_numpy()
    return labels, train_rows, predictions, seeds["backbone"]


def main() -> None:
    """Write ``benchmarks/results/study_popularity.json``."""
    labels, train_rows, predictions, seeds = saved_predictions()
    found = by_popularity(labels, train_rows, predictions)
    print(f"written: {write_result('study_popularity', {'seeds': seeds, **found})}")


if __name__ == "__main__":
    main()
