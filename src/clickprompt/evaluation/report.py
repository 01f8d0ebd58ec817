"""From saved predictions to the evaluation report: a plain dict that goes to JSON as it is.

Tables and plots are made from the report only.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from clickprompt.evaluation.long_tail import TrainFacts, long_tail_quadrants
from clickprompt.evaluation.metrics import (
    calibration_curve,
    expected_calibration_error,
    relative_improvement,
    roc_points,
    summarise,
)
from clickprompt.evaluation.significance import (
    bootstrap_log_loss_test,
    delong_test,
    holm,
    seed_test,
)
from clickprompt.parameters import EvaluationParameters

BACKBONE = "backbone"
CONSTANT = "constant"
KEYS = ["model", "ctr", "plm", "seed"]
COLUMNS = ["row", "split", "label", "probability", "user_train_rows", "item_train_rows", *KEYS]
METRICS = ("auc", "log_loss")

Report = dict[str, Any]
Row = dict[str, Any]


def evaluate_predictions(
    predictions: pd.DataFrame, evaluation: EvaluationParameters, train: TrainFacts
) -> Report:
    """Evaluate the predictions of one or more models on valid and test.

    A model is one combination of ``model``, ``ctr``, ``plm`` (null for the backbone) and
    ``seed``. The backbone of the same ``ctr`` and ``seed`` is what the others are compared with.

    Args:
        predictions: columns :data:`COLUMNS`; ``split`` is "valid" or "test", ``row`` names a
            sample, so that models are paired on it.
        evaluation: tail share and calibration bins.
        train: label rate and tail limits of the train split, from
            :func:`~clickprompt.evaluation.long_tail.train_facts`.

    Returns:
        A dict of plain values, undefined metrics being None:

        - ``train``: the train facts.
        - ``metrics``: a row per model and split, and one for the constant prediction of the
          train label rate (the floor); relative improvements over the backbone.
        - ``results``: the test rows of ``metrics``, without the floor: what results.json holds.
        - ``summary``: the test rows summed up over seeds: a row per model, ctr and plm with the
          number of seeds and the mean and sample deviation of each metric.
        - ``comparisons``: DeLong's test (AUC) and the paired bootstrap (LogLoss) against the
          backbone on test, ``p_value_holm`` corrected for all comparisons of that metric.
        - ``seed_comparisons``: the paired tests over seeds, on test.
        - ``calibration``, ``roc``, ``long_tail``: per model, on test. The long tail is empty where
          the data name neither user nor item.

    Raises:
        ValueError: a missing column, an unknown split, no test rows, a sample twice for one
            model, or a model whose samples are not the backbone's.
    """
    _check(predictions)
    test = predictions[predictions["split"] == "test"]
    metrics = _metric_rows(predictions, evaluation, train)
    return {
        "train": asdict(train),
        "metrics": metrics,
        "results": results_rows(metrics),
        "summary": _summary(metrics),
        "comparisons": _compare_rows(test),
        "seed_comparisons": _compare_seeds(metrics),
        "calibration": [
            {
                **key,
                "bins": calibration_curve(
                    frame["label"], frame["probability"], evaluation.calibration_bins
                ),
            }
            for key, frame in _models(test)
        ],
        "roc": [
            {**key, **roc_points(frame["label"], frame["probability"])}
            for key, frame in _models(test)
            if frame["label"].nunique() == 2
        ],
        "long_tail": [
            {**key, **quadrant}
            for key, frame in _models(test)
            for quadrant in long_tail_quadrants(frame, train)
        ],
    }


def results_rows(metrics: list[Row]) -> list[Row]:
    """Rows of results.json: model, ctr, plm, seed, rows, both metrics and their improvements."""
    wanted = [*KEYS, "rows", *METRICS, *(f"{metric}_improvement" for metric in METRICS)]
    return [
        {name: row[name] for name in wanted}
        for row in metrics
        if row["split"] == "test" and row["model"] != CONSTANT
    ]


def _check(predictions: pd.DataFrame) -> None:
    missing = [name for name in COLUMNS if name not in predictions]
    if missing:
        raise ValueError(
            f"predictions must have the columns {', '.join(COLUMNS)}, {missing} are missing"
        )
    unknown = set(predictions["split"].unique()) - {"valid", "test"}
    if unknown:
        raise ValueError(f"split must be 'valid' or 'test', got {sorted(unknown, key=str)[0]!r}")
    if not (predictions["split"] == "test").any():
        raise ValueError("predictions must have test rows, got none")
    for key, frame in _models(predictions):
        twice = frame["row"].duplicated()
        if twice.any():
            raise ValueError(
                f"row must name a sample once per model, got {frame['row'][twice].iloc[0]} twice "
                f"for {_describe(key)}"
            )


def _models(predictions: pd.DataFrame) -> Iterator[tuple[Row, pd.DataFrame]]:
    """Key and rows of each model, in order of appearance."""
    for values, frame in predictions.groupby(KEYS, dropna=False, sort=False):
        yield _plain_key(values), frame


def _plain_key(values: tuple[Any, ...]) -> Row:
    """Key with JSON's types: null for a missing ctr or plm, int for the seed."""
    model, ctr, plm, seed = (None if pd.isna(value) else value for value in values)
    return {"model": model, "ctr": ctr, "plm": plm, "seed": None if seed is None else int(seed)}


def _describe(key: Row) -> str:
    return ", ".join(f"{name} {key[name]}" for name in KEYS if key[name] is not None)


def _metric_rows(
    predictions: pd.DataFrame, evaluation: EvaluationParameters, train: TrainFacts
) -> list[Row]:
    rows: list[Row] = []
    for split in ("valid", "test"):
        frames = list(_models(predictions[predictions["split"] == split]))
        if not frames:
            continue
        floor = frames[0][1].assign(probability=train.label_rate)
        constant = {"model": CONSTANT, "ctr": None, "plm": None, "seed": None}
        found = [
            {
                **key,
                "split": split,
                **summarise(frame["label"], frame["probability"]),
                "expected_calibration_error": expected_calibration_error(
                    calibration_curve(
                        frame["label"], frame["probability"], evaluation.calibration_bins
                    )
                ),
            }
            for key, frame in [(constant, floor), *frames]
        ]
        backbones = {_pair(row): row for row in found if _is_backbone(row)}
        for row in found:
            backbone = backbones.get(_pair(row))
            for metric in METRICS:
                row[f"{metric}_improvement"] = _improvement(row, backbone, metric)
        rows += found
    return rows


def _pair(row: Row) -> tuple[Any, Any]:
    """What a model and its backbone have in common."""
    return row["ctr"], row["seed"]


def _is_backbone(row: Row) -> bool:
    return row["model"] == BACKBONE


def _improvement(row: Row, backbone: Row | None, metric: Any) -> float | None:
    if backbone is None or _is_backbone(row):
        return None
    if row[metric] is None or backbone[metric] is None:
        return None
    return relative_improvement(row[metric], backbone[metric], metric)


def _compare_rows(test: pd.DataFrame) -> list[Row]:
    """Paired tests on the test rows, each model against its backbone."""
    models = list(_models(test))
    backbones = {_pair(key): frame for key, frame in models if _is_backbone(key)}
    comparisons: list[Row] = []
    for key, frame in models:
        backbone = backbones.get(_pair(key))
        if _is_backbone(key) or backbone is None:
            continue
        labels, first, second = _aligned(key, frame, backbone)
        counts = np.bincount(labels, minlength=2)
        comparisons.append(
            {
                **key,
                "auc": asdict(delong_test(labels, first, second)) if min(counts) > 1 else None,
                "log_loss": asdict(bootstrap_log_loss_test(labels, first, second)),
            }
        )
    for metric in METRICS:
        tests = [row[metric] for row in comparisons if row[metric] is not None]
        for test_row, corrected in zip(
            tests, holm([test_row["p_value"] for test_row in tests]), strict=True
        ):
            test_row["p_value_holm"] = corrected
    return comparisons


def _aligned(
    key: Row, frame: pd.DataFrame, backbone: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and both probabilities, row by row of the same samples."""
    frame, backbone = frame.sort_values("row"), backbone.sort_values("row")
    same = np.array_equal(frame["row"], backbone["row"])
    if not same or not np.array_equal(frame["label"], backbone["label"]):
        raise ValueError(
            f"predictions of {_describe(key)} must be of the backbone's test samples, got "
            f"{len(frame)} rows against {len(backbone)}, not the same rows and labels"
        )
    return (
        frame["label"].to_numpy(),
        frame["probability"].to_numpy(),
        backbone["probability"].to_numpy(),
    )


def _compare_seeds(metrics: list[Row]) -> list[Row]:
    """Paired tests over the seeds that a model and its backbone both have, on test."""
    groups = _over_seeds(metrics)
    backbones = {_pair(row): row for rows in groups.values() for row in rows if _is_backbone(row)}
    comparisons = []
    for (model, ctr, plm), rows in groups.items():
        pairs = [(row, backbones[_pair(row)]) for row in rows if _pair(row) in backbones]
        if model == BACKBONE or not pairs:
            continue
        comparison: Row = {"model": model, "ctr": ctr, "plm": plm}
        for metric in METRICS:
            known = [
                (row[metric], other[metric])
                for row, other in pairs
                if None not in (row[metric], other[metric])
            ]
            comparison[metric] = asdict(seed_test(*zip(*known, strict=True))) if known else None
        comparisons.append(comparison)
    return comparisons


def _over_seeds(metrics: list[Row]) -> dict[tuple[Any, Any, Any], list[Row]]:
    """(model, ctr, plm) -> its test rows, one a seed."""
    groups: dict[tuple[Any, Any, Any], list[Row]] = {}
    for row in metrics:
        if row["split"] == "test":
            groups.setdefault((row["model"], row["ctr"], row["plm"]), []).append(row)
    return groups


def _summary(metrics: list[Row]) -> list[Row]:
    """Mean and deviation over the seeds, and the mean improvement over the backbone."""
    summary = []
    for (model, ctr, plm), rows in _over_seeds(metrics).items():
        line: Row = {"model": model, "ctr": ctr, "plm": plm}
        line |= {"seeds": len(rows), "rows": rows[0]["rows"]}
        for metric in METRICS:
            for name in (metric, f"{metric}_improvement"):
                known = [row[name] for row in rows if row[name] is not None]
                line[name] = statistics.fmean(known) if known else None
            values = [row[metric] for row in rows if row[metric] is not None]
            line[f"{metric}_deviation"] = statistics.stdev(values) if len(values) > 1 else None
        summary.append(line)
    return summary
