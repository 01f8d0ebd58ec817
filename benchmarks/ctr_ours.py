"""Our CTR models, trained and timed as ``benchmarks.peers`` does with other libraries.

    python -m benchmarks.ctr_ours FOLDER [RAW_MODEL RAW_PRECISION]

FOLDER holds ``clicks.csv``. Without RAW_MODEL it answers the requests of ``peers/turns.py``:
training is ``clickprompt.training.loop.fit`` with everything in it (batch order, steps, schedule,
checkpoint) but the validation, inference is ``ClickObjective.predict``. With it, one run from the
raw file to the trained model is timed: the reader ``table``, the conversion into both views, and
``fit`` for an epoch with the validation after it.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks.ctr_data import NAME, data_parameters
from benchmarks.peers import ctr_sizes as sizes
from benchmarks.peers.turns import serve
from clickprompt import modality
from clickprompt.modality import ModelInput
from clickprompt.models import CTRForClicks
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    PLMParameters,
    TrainingParameters,
)
from clickprompt.plm import load_tokenizer
from clickprompt.readers import read_interactions
from clickprompt.training import parts, stage_run
from clickprompt.training.checkpoint import Progress
from clickprompt.training.inputs import check_ids_once
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine, choose_machine
from clickprompt.training.objectives import ClickObjective

PRECISIONS = ("float32", "bf16")
STAGE = ClickStageParameters(
    epochs=1, batch_size=sizes.BATCH_SIZE, learning_rate_ctr=sizes.LEARNING_RATE, patience=1
)


class Ours:
    """Our models by name over one model input.

    Args:
        folder: of ``clicks.csv``; the model input is kept in it.
    """

    def __init__(self, folder: Path) -> None:
        self._input = model_input_of(folder)
        self._models: dict[tuple[str, str], nn.Module] = {}

    @property
    def train_rows(self) -> int:
        """Rows of the train split."""
        return self._input.rows("train").stop

    def model(self, name: str, precision: str) -> nn.Module:
        """The model of this name; the precision is that of its matrix products."""
        if (name, precision) not in self._models:
            self._models[name, precision] = build(ctr_parameters(name), self._input)
        return self._models[name, precision]

    def parameters(self, model: str, precision: str) -> dict[str, int]:
        return count_parameters(self.model(model, precision))

    def train(self, model: str, precision: str, rows: int) -> float:
        part = first_rows(self._input, rows)
        machine = machine_of(precision)
        objective = _TrainingOnly(part, machine)
        built = self.model(model, precision)
        started = time.perf_counter()
        train_epoch(built, objective, machine, part.row_numbers)
        return time.perf_counter() - started

    def predict(self, model: str, precision: str) -> tuple[int, float]:
        machine = machine_of(precision)
        objective, built = click_objective(self._input, machine), self.model(model, precision)
        started = time.perf_counter()
        rows = len(objective.predict(built, "valid")) + len(objective.predict(built, "test"))
        return rows, time.perf_counter() - started

    def versions(self) -> dict[str, str]:
        return {name: version(name) for name in ("clickprompt", "torch", "numpy")}


class _TrainingOnly(ClickObjective):
    """Leaves validation out, which the other libraries' timed loops do not have either."""

    criterion = None

    def __init__(self, model_input: ModelInput, machine: Machine) -> None:
        super().__init__(
            model_input=model_input,
            machine=machine,
            batch_size=sizes.BATCH_SIZE,
            evaluation_batch_size=sizes.BATCH_SIZE,
            seed=0,
            text=False,
        )

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {}


def ctr_parameters(name: str) -> CTRParameters:
    """The compared sizes; DeepFM and xDeepFM with the linear term of their papers.

    The models that are compared with no other library have the default sizes of ``conf``.
    """
    return CTRParameters(
        name=name,
        embedding_size=sizes.EMBEDDING_SIZE,
        hidden_sizes=sizes.HIDDEN_SIZES,
        cross_layers=sizes.CROSS_LAYERS,
        attention_layers=sizes.ATTENTION_LAYERS,
        attention_size=sizes.EMBEDDING_SIZE,
        attention_heads=1,
        cin_sizes=sizes.CIN_SIZES,
        linear=name in ("fm", "deepfm", "xdeepfm"),
    )


def build(ctr: CTRParameters, model_input: ModelInput) -> nn.Module:
    """A fresh model, as the stage ``backbone`` builds it for this input."""
    model = CTRForClicks(ctr=parts.fresh_ctr(ctr, model_input, 0))
    check_ids_once(model_input, model)
    return model


def count_parameters(model: Any) -> dict[str, int]:
    """Parameters: ``table`` (embeddings of the fields) and ``rest``."""
    table = model.ctr.embedding.weight.numel()
    return {"table": table, "rest": sum(p.numel() for p in model.parameters()) - table}


def machine_of(precision: str) -> Machine:
    """The machine as the stages choose it for ``training.precision``, on the CPU."""
    return choose_machine(
        TrainingParameters.model_validate({"precision": precision, "device": "cpu"})
    )


def click_objective(model_input: ModelInput, machine: Machine) -> ClickObjective:
    """The objective of the stage ``backbone``."""
    training = TrainingParameters(evaluation_batch_size=sizes.BATCH_SIZE)
    return stage_run.click_objective(model_input, machine, STAGE, training, 0, text=False)


def first_rows(model_input: ModelInput, rows: int) -> ModelInput:
    """The first train rows as a model input of their own, without valid and test."""
    train = min(rows, model_input.rows("train").stop)
    return replace(
        model_input,
        ids=model_input.ids[:train],
        labels=model_input.labels[:train],
        metadata={**model_input.metadata, "split_rows": [train, 0, 0]},
    )


def train_epoch(
    model: nn.Module, objective: ClickObjective, machine: Machine, row_numbers: Any
) -> Progress:
    """One epoch of the training loop, in a fresh folder for its checkpoint."""
    with tempfile.TemporaryDirectory(prefix="clickprompt-benchmark-") as folder:
        return fit(
            name="benchmark",
            model=model,
            objective=objective,
            stage=STAGE,
            training=TrainingParameters(),
            machine=machine,
            seed=0,
            folder=Path(folder),
            row_numbers=row_numbers,
        )


def model_input_of(folder: Path) -> ModelInput:
    """The model input in the folder of ``clicks.csv``, made where it is missing."""
    target = folder / "model_input"
    made = (target / "metadata.json").exists()
    return ModelInput.open(target) if made else convert(folder, target)


def convert(folder: Path, target: Path) -> ModelInput:
    """From ``clicks.csv`` to the model input, both views."""
    data = data_parameters()
    files = {f"{NAME}.csv": folder / f"{NAME}.csv"}
    interactions = read_interactions(files, data).interactions
    return modality.convert_interactions(
        interactions, data, load_tokenizer(PLMParameters()), target, max_tokens=512
    )


def raw_to_trained(folder: Path, model: str, precision: str) -> dict[str, Any]:
    """Seconds without imports from the raw file to the model after one epoch, and its AUC."""
    target = folder / "model_input_raw"
    shutil.rmtree(target, ignore_errors=True)
    started = time.perf_counter()
    model_input = convert(folder, target)
    converted = time.perf_counter()
    machine = machine_of(precision)
    objective = click_objective(model_input, machine)
    built = build(ctr_parameters(model), model_input)
    progress = train_epoch(built, objective, machine, model_input.row_numbers)
    ended = time.perf_counter()
    shutil.rmtree(target)
    return {
        "seconds": ended - started,
        "seconds_by_step": {
            "conversion": round(converted - started, 3),
            "training": round(ended - converted, 3),
        },
        "valid_auc": progress.history[-1]["valid_auc"],
    }


if __name__ == "__main__":
    source = Path(sys.argv[1])
    if sys.argv[2:]:
        print("\n" + json.dumps(raw_to_trained(source, *sys.argv[2:])))
    else:
        serve(lambda: Ours(source))
