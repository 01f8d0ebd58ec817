"""Nodes of the baselines."""

from typing import Any

import pandas as pd

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    EvaluationParameters,
    ModelParameters,
    PLMParameters,
    PretrainParameters,
    TrainingParameters,
)
from clickprompt.training.result import TrainedModel


def train_baseline(
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    model: ModelParameters,
    backbone: ClickStageParameters,
    pretrain: PretrainParameters,
    finetune: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Train the model that ``model.name`` names: reference and predictions."""
    from clickprompt.training import baselines, stages

    shared: dict[str, Any] = {"model_input": model_input, "training": training, "seed": seed}
    read: dict[str, Any] = {"ctr": ctr, "plm": plm}
    match model.name:
        case "ctr_bert":
            trained = baselines.train_ctr_bert(**shared, **read, stage=model.ctr_bert)
        case "p5":
            trained = baselines.train_p5(**shared, plm=plm, stage=model.p5)
        case "ptab":
            trained = baselines.train_ptab(**shared, **read, stage=model.ptab)
        case "ctrl":
            trained = baselines.train_ctrl(**shared, **read, stage=model.ctrl)
        case "text_features":
            trained = baselines.train_text_features(**shared, **read, stage=model.text_features)
        case "longer_backbone":
            epochs = model.longer_backbone.epochs or pretrain.epochs + finetune.epochs
            longer = backbone.model_copy(update={"epochs": epochs})
            trained = stages.train_backbone(**shared, ctr=ctr, stage=longer)
    return trained, pd.read_parquet(trained.predictions_path)


def plot_baseline_curves(trained: TrainedModel, model: ModelParameters) -> Any:
    """Draw loss, valid AUC and valid LogLoss by epoch, under the model's name."""
    from clickprompt.evaluation.tables import MODEL_NAMES
    from clickprompt.pipelines.curves import click_curves

    return click_curves(trained, MODEL_NAMES[model.name])


def evaluate_baseline(
    backbone: pd.DataFrame,
    predictions: pd.DataFrame,
    trained: TrainedModel,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    model: ModelParameters,
    evaluation: EvaluationParameters,
    seed: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare the model with the backbone: the report, and the rows of the result table."""
    from clickprompt.pipelines.evaluation.nodes import named_predictions, predictions_report

    known = trained.report["plm"] or (plm.source if model.name != "longer_backbone" else None)
    named = named_predictions(
        {"backbone": (None, backbone), model.name: (known, predictions)}, ctr, seed
    )
    report = predictions_report(named, model_input, evaluation)
    return report, report["results"]
