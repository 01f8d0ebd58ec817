"""Nodes of distillation."""

from typing import Any

import pandas as pd

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    DistillationParameters,
    EvaluationParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PromptParameters,
    TrainingParameters,
)
from clickprompt.training.result import TrainedModel


def distil(
    model_input: ModelInput,
    pretrained: TrainedModel,
    teacher: TrainedModel,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    with_plm: FinetuneWithPLMParameters,
    without_plm: ClickStageParameters,
    distillation: DistillationParameters,
    training: TrainingParameters,
    seed: int,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Finetune without the PLM, taught by the model with it: reference and predictions."""
    from clickprompt.training import baselines

    trained = baselines.distil(
        model_input=model_input,
        pretrained=pretrained,
        teacher=teacher,
        ctr=ctr,
        plm=plm,
        prompts=prompts,
        with_plm=with_plm,
        stage=without_plm,
        distillation=distillation,
        training=training,
        seed=seed,
    )
    return trained, pd.read_parquet(trained.predictions_path)


def evaluate_distilled(
    backbone: pd.DataFrame,
    without_plm: pd.DataFrame,
    with_plm: pd.DataFrame,
    distilled: pd.DataFrame,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    evaluation: EvaluationParameters,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare pupil, teacher and what the pupil is without one: report and rows of the table."""
    from clickprompt.pipelines.evaluation.nodes import named_predictions, predictions_report

    predictions = named_predictions(
        {
            "backbone": (None, backbone),
            "clickprompt_without_plm": (plm.source, without_plm),
            "clickprompt_with_plm": (plm.source, with_plm),
            "clickprompt_distilled": (plm.source, distilled),
        },
        ctr,
        seed,
    )
    report = predictions_report(predictions, model_input, evaluation)
    return report, report["results"]
