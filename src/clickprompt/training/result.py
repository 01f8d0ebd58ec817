"""What a training stage leaves behind: a folder, found again by its digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

# Raised when the same parameters give other weights than before.
METHOD_VERSION = 1

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


def training_seconds(trained: TrainedModel) -> float:
    """Seconds of a stage and of all stages that it started from or learnt from."""
    return sum(stage["seconds"] for stage in stages_of(trained))


def stages_of(trained: TrainedModel) -> list[dict[str, Any]]:
    """Name, digest and seconds of each stage behind a model, its own last, each stage once.

    Earlier stages are looked up beside it by their digests; one whose folder was deleted is left
    out.
    """
    folder = Path(trained.folder).parents[2]
    found: dict[str, dict[str, Any]] = {}

    def walk(report: dict[str, Any]) -> None:
        for name in ("pretrained", "teacher"):
            before = report["parameters"].get(name)
            for path in folder.glob(f"*/{before[:16]}/result/{REPORT}") if before else ():
                walk(json.loads(path.read_text(encoding="utf-8")))
        entry = {"stage": report["stage"], "digest": report["digest"]}
        found[report["digest"]] = entry | {"seconds": report["seconds"]}

    walk(trained.report)
    return list(found.values())
