"""Nodes of pretraining."""

from typing import Any

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    CTRParameters,
    PLMParameters,
    PretrainParameters,
    PromptParameters,
    TrainingParameters,
)
from clickprompt.training.result import TrainedModel


def pretrain(
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: PretrainParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """Train CTR model, prompt generator and language model together: reference."""
    from clickprompt.training import stages

    return stages.pretrain(
        model_input=model_input,
        ctr=ctr,
        plm=plm,
        prompts=prompts,
        stage=stage,
        training=training,
        seed=seed,
    )


def plot_pretraining_diagnostics(pretrained: TrainedModel) -> tuple[Any, Any, Any]:
    """Draw who listens to the prompts, what they contribute, and the gradient norms."""
    from clickprompt.pipelines.curves import plot_prompt_diagnostics

    return plot_prompt_diagnostics(pretrained)
