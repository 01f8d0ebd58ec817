"""A tiny model input and stage parameters, also for processes that a test starts and kills."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from clickprompt.modality import ModelInput, PieceTokenizer, convert_interactions
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    DataParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PretrainParameters,
    PromptParameters,
    TrainingParameters,
)
from clickprompt.readers import read_interactions
from clickprompt.synthetic import write_synthetic_ratings
from tests.end_to_end.project import write_tiny_encoder, write_tiny_gpt2

CTR = CTRParameters(name="dcnv2", embedding_size=4, hidden_sizes=(8,), cross_layers=1)
PROMPTS = PromptParameters(count=2)
FIELDS = (
    {"column": "user_id", "name": "user id"},
    {"column": "movie_id", "name": "movie id"},
    {"column": "movie_title", "name": "movie title"},
    {"column": "genre", "name": "genre", "kind": "multi_valued"},
)


def make_inputs(
    folder: Path, *, ratings: int = 700, causal: bool = False
) -> tuple[ModelInput, PLMParameters]:
    """Synthetic ratings as a model input, and a one-layer random BERT in a folder.

    With ``causal`` a two-layer random GPT-2 instead.
    """
    raw = write_synthetic_ratings(folder / "raw", users=30, movies=60, ratings=ratings)
    data = DataParameters.model_validate(
        {
            "reader": "movielens_small",
            "item": "movie_id",
            "fields": FIELDS,
            "label": {"positive_from": 4, "negative_to": 2.5},
        }
    )
    (write_tiny_gpt2 if causal else write_tiny_encoder)(folder / "plm")
    model_input = convert_interactions(
        read_interactions(raw.files, data).interactions,
        data,
        PieceTokenizer.of(folder / "plm" / "tokenizer.json", causal=causal),
        folder / "model_input",
        max_tokens=64,
    )
    return model_input, PLMParameters(source=str(folder / "plm"), keep_layers=None)


def training(folder: Path, **changes: Any) -> TrainingParameters:
    settings = {"precision": "float32", "device": "cpu", "folder": str(folder)} | changes
    return TrainingParameters.model_validate(settings)


def run_stages(
    folder: Path, models: Path, optimisation: dict[str, Any] | None = None, **changes: Any
) -> list[str]:
    """Backbone, pretraining, both finetunings; returns the result folders.

    ``optimisation`` changes the stages, ``changes`` what they share.
    """
    from clickprompt.training import stages

    plm = PLMParameters(source=str(folder / "plm"), keep_layers=None)
    shared: dict[str, Any] = {
        "model_input": ModelInput.open(folder / "model_input"),
        "ctr": CTR,
        "training": training(models, **changes),
        "seed": 3,
    }
    text: dict[str, Any] = {"plm": plm, "prompts": PROMPTS}
    quick: dict[str, Any] = {"epochs": 2, "batch_size": 32, "clip_norm": 1.0, "warmup": 0.1}
    quick |= optimisation or {}
    backbone = stages.train_backbone(**shared, stage=ClickStageParameters(**quick))
    pretrained = stages.pretrain(
        **shared, **text, stage=PretrainParameters(**quick, schedule="cosine")
    )
    alone = stages.finetune_without_plm(
        **shared, pretrained=pretrained, stage=ClickStageParameters(**quick)
    )
    together = stages.finetune_with_plm(
        **shared,
        **text,
        pretrained=pretrained,
        stage=FinetuneWithPLMParameters(**quick, accumulate=2),
    )
    return [stage.folder for stage in (backbone, pretrained, alone, together)]


if __name__ == "__main__":
    print(json.dumps(run_stages(Path(sys.argv[1]), Path(sys.argv[2]), checkpoint_minutes=0)))
