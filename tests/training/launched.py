"""Pretraining and finetuning without dropout, for processes that a test starts and kills.

python -m tests.training.launched INPUTS CHANGES-AS-JSON
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clickprompt.modality import ModelInput
from clickprompt.parameters import (
    FinetuneWithPLMParameters,
    PLMParameters,
    PretrainParameters,
)
from clickprompt.training import stages
from clickprompt.training.result import TrainedModel
from tests.training.tiny_run import CTR, PROMPTS, training

OPTIMISATION = {"epochs": 2, "batch_size": 32, "clip_norm": 0.5, "warmup": 0.1}


def pretrain(inputs: Path, models: Path, **changes: Any) -> TrainedModel:
    """``changes`` are of the training parameters; ``plm`` and ``prompts`` change those."""
    return stages.pretrain(
        **_shared(inputs, models, changes),
        stage=PretrainParameters(**OPTIMISATION, weight_decay=0.01, validation_rows=50),
    )


def finetune(inputs: Path, models: Path, pretrained: TrainedModel, **changes: Any) -> TrainedModel:
    """The same, with two parts of each batch."""
    return stages.finetune_with_plm(
        **_shared(inputs, models, changes),
        pretrained=pretrained,
        stage=FinetuneWithPLMParameters(**OPTIMISATION, accumulate=2, patience=2),
    )


def _shared(inputs: Path, models: Path, changes: dict[str, Any]) -> dict[str, Any]:
    plm, prompts = changes.pop("plm", {}), changes.pop("prompts", {})
    return {
        "model_input": ModelInput.open(inputs / "model_input"),
        "ctr": CTR,
        "plm": PLMParameters(source=str(inputs / "plm"), keep_layers=None, dropout=0.0, **plm),
        "prompts": PROMPTS.model_copy(update=prompts),
        "training": training(models, threads=1, **changes),
        "seed": 3,
    }


if __name__ == "__main__":
    asked = json.loads(sys.argv[2])
    print(pretrain(Path(sys.argv[1]), Path(asked.pop("folder")), **asked).folder)
