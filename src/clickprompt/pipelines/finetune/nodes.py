"""Nodes of finetuning."""

from typing import Any

import pandas as pd

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PromptParameters,
    TrainingParameters,
)
from clickprompt.training.result import TrainedModel


def finetune_without_plm(
    model_input: ModelInput,
    pretrained: TrainedModel,
    ctr: CTRParameters,
    stage: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Finetune the pretrained CTR model alone: reference and predictions."""
    from clickprompt.training import stages

    trained = stages.finetune_without_plm(
        model_input=model_input,
        pretrained=pretrained,
        ctr=ctr,
        stage=stage,
        training=training,
        seed=seed,
    )
    return trained, pd.read_parquet(trained.predictions_path)


def finetune_with_plm(
    model_input: ModelInput,
    pretrained: TrainedModel,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: FinetuneWithPLMParameters,
    training: TrainingParameters,
    seed: int,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Finetune the CTR model and the language model together: reference and predictions."""
    from clickprompt.training import stages

    trained = stages.finetune_with_plm(
        model_input=model_input,
        pretrained=pretrained,
        ctr=ctr,
        plm=plm,
        prompts=prompts,
        stage=stage,
        training=training,
        seed=seed,
    )
    return trained, pd.read_parquet(trained.predictions_path)


def plot_finetuning_diagnostics(with_plm: TrainedModel) -> tuple[Any, Any, Any]:
    """Draw who listens to the prompts, what they contribute, and the gradient norms."""
    from clickprompt.pipelines.curves import plot_prompt_diagnostics

    return plot_prompt_diagnostics(with_plm)
