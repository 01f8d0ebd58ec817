"""Nodes of evaluation."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from clickprompt.modality import ModelInput
from clickprompt.parameters import CTRParameters, EvaluationParameters, PLMParameters
from clickprompt.training.result import TrainedModel


def collect_predictions(
    backbone: pd.DataFrame,
    without_plm: pd.DataFrame,
    with_plm: pd.DataFrame,
    ctr: CTRParameters,
    plm: PLMParameters,
    seed: int,
) -> pd.DataFrame:
    """Put the predictions of the three models into one table that names them."""
    return named_predictions(
        {
            "backbone": (None, backbone),
            "clickprompt_without_plm": (plm.source, without_plm),
            "clickprompt_with_plm": (plm.source, with_plm),
        },
        ctr,
        seed,
    )


def named_predictions(
    models: Mapping[str, tuple[str | None, pd.DataFrame]], ctr: CTRParameters, seed: int
) -> pd.DataFrame:
    """One table of several models' predictions, with ``model``, ``ctr``, ``plm`` and ``seed``.

    Args:
        models: name -> the language model it has learnt from, if any, and its predictions.
        ctr: the CTR model that all have, or are compared with.
        seed: of all of them.
    """
    parts = [
        frame.assign(model=model, ctr=ctr.name, plm=pd.Series(plm, frame.index, "str"))
        for model, (plm, frame) in models.items()
    ]
    return pd.concat(parts, ignore_index=True).assign(seed=seed)


def evaluate(
    predictions: pd.DataFrame,
    model_input: ModelInput,
    pretrained: TrainedModel,
    with_plm: TrainedModel,
    evaluation: EvaluationParameters,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compute every metric: the report, and the rows of the result table."""
    from clickprompt.evaluation.prompts import prompt_summary

    report = predictions_report(predictions, model_input, evaluation)
    report["prompts"] = [prompt_summary(stage.report) for stage in (pretrained, with_plm)]
    return report, report["results"]


def predictions_report(
    predictions: pd.DataFrame, model_input: ModelInput, evaluation: EvaluationParameters
) -> dict[str, Any]:
    """The evaluation report of named predictions."""
    from clickprompt.evaluation import evaluate_predictions, train_facts

    train = model_input.rows("train")
    facts = train_facts(
        model_input.labels[train],
        model_input.user_train_rows[train],
        model_input.item_train_rows[train],
        evaluation.tail_share,
    )
    return evaluate_predictions(predictions, evaluation, facts)


def plot_evaluation(report: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    """Draw the comparison, the calibration and ROC curves and the long tail."""
    from clickprompt.evaluation import plots

    return (
        plots.plot_comparison(report),
        plots.plot_calibration(report),
        plots.plot_roc(report),
        plots.plot_long_tail(report),
    )


def show_results(report: dict[str, Any]) -> None:
    """Print the result table, and what the prompts do, to the terminal."""
    from rich.console import Console

    from clickprompt.evaluation.tables import prompts_table, results_table

    tables = [results_table(report)]
    if prompts := report.get("prompts"):
        tables.append(prompts_table(prompts))
    Console().print(*tables)
