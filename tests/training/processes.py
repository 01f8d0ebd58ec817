"""A short training, started once or in two processes; its weights and gradient norms go to a file.

python -m torch.distributed.run --nproc-per-node 2 -m tests.training.processes FOLDER UPDATES
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from clickprompt.ctr import build_ctr
from clickprompt.models import CTRForClicks
from clickprompt.parameters import ClickStageParameters, CTRParameters, TrainingParameters
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import Batch, ClickObjective

FIELD_SIZES = (40, 30)


class FewRows(ClickObjective):
    """Clicks on 41 rows of two fields: the last batch has one row, fewer than there are parts."""

    criterion = None

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self._ids = np.stack([generator.integers(0, size, 41) for size in FIELD_SIZES], axis=1)
        self._machine = Machine(device=torch.device("cpu"), precision="float32")

    def batches(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng(epoch).permutation(41)
        return [order[start : start + 8] for start in range(0, 41, 8)]

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        return Batch(x_id_BF=self._ids[rows], label_B=self._ids[rows].sum(axis=1) % 2)

    def validate(self, model: torch.nn.Module) -> dict[str, float]:
        return {}


def train(folder: Path, updates: str) -> dict[str, torch.Tensor]:
    ctr = CTRParameters(name="deepfm", embedding_size=4, hidden_sizes=(8,), linear=True)
    model = CTRForClicks(
        ctr=build_ctr(ctr, FIELD_SIZES, generator=torch.Generator().manual_seed(0))
    ).double()
    objective = FewRows()
    progress = fit(
        name="processes",
        model=model,
        objective=objective,
        stage=ClickStageParameters.model_validate(
            {
                "epochs": 3,
                "batch_size": 8,
                "accumulate": 2,
                "learning_rate_ctr": 0.01,
                "weight_decay": 0.01,
                "clip_norm": 0.05,
                "embedding_updates": updates,
            }
        ),
        training=TrainingParameters(folder=str(folder), device="cpu"),
        machine=objective._machine,
        seed=0,
        folder=folder,
        row_numbers=np.arange(41),
    )
    norms = [[entry["step"], entry["ctr"]] for entry in progress.gradient_norms]
    return model.state_dict() | {"gradient_norms": torch.tensor(norms, dtype=torch.float64)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    result = train(Path(sys.argv[1]) / "run", sys.argv[2])
    number = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    count = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    save_file(result, Path(sys.argv[1]) / f"{number}_of_{count}.safetensors")
