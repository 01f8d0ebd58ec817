"""Nodes of the backbone."""

import pandas as pd

from clickprompt.modality import ModelInput
from clickprompt.parameters import ClickStageParameters, CTRParameters, TrainingParameters
from clickprompt.training.result import TrainedModel


def train_backbone(
    model_input: ModelInput,
    ctr: CTRParameters,
    stage: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> tuple[TrainedModel, pd.DataFrame]:
    """Train the CTR model from scratch: reference and predictions."""
    from clickprompt.training import stages

    trained = stages.train_backbone(
        model_input=model_input, ctr=ctr, stage=stage, training=training, seed=seed
    )
    return trained, pd.read_parquet(trained.predictions_path)
