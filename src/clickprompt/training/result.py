"""What a training stage leaves behind: a folder, found again by its digest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

WEIGHTS = "weights.safetensors"
REPORT = "report.json"
PREDICTIONS = "predictions.parquet"


class TrainedModel(BaseModel):
    """Reference to a finished stage.

    Attributes:
        stage: ``backbone``, ``pretrain``, ``finetune_without_plm`` or ``finetune_with_plm``.
        digest: sha256 over everything that decides the weights: stage, parameters, seed, data
            and the stage it started from. Equal digests mean equal weights.
        folder: ``<training.folder>/<stage>/<first 16 digits of the digest>``.
        report: parameters, digests, versions, parameter counts, history (one entry an epoch),
            gradient norms, diagnostics of the prompts, best epoch, metrics, seconds; of ClickPrompt
            also the variant (``full``, ``without prompts``, ``without pretraining``, ``without
            prompts and pretraining``).
    """

    model_config = ConfigDict(frozen=True)

    stage: str
    digest: str
    folder: str
    report: dict[str, Any]

    @property
    def weights_path(self) -> Path:
        """safetensors file with the best epoch's weights."""
        return Path(self.folder) / WEIGHTS

    @property
    def predictions_path(self) -> Path:
        """Parquet file with the probabilities of valid and test."""
        return Path(self.folder) / PREDICTIONS
