"""A diverged training says where, on which rows, and what is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from clickprompt.ctr import build_ctr
from clickprompt.models import CTRForClicks
from clickprompt.parameters import ClickStageParameters, CTRParameters, TrainingParameters
from clickprompt.training.divergence import DivergedError
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import Batch, ClickObjective

BATCH, STEPS = 12, 24
ROWS = BATCH * STEPS - 8  # the last batch has 4
ROW_NUMBERS = np.arange(ROWS) * 10 + 7
# The id of field 0 is the number of the batch: a row of its table is read once in an epoch.
FIELD_SIZES = (STEPS, 5)
Spoil = Callable[[nn.Module, int, int, Tensor], Tensor]


class Spoilt(ClickObjective):
    """Clicks on rows in their order; ``spoil(model, epoch, step, loss)`` gives another loss."""

    criterion = None

    def __init__(self, spoil: Spoil) -> None:
        self._machine = Machine(device=torch.device("cpu"), precision="float32")
        self._text = None
        self._spoil = spoil

    def batches(self, epoch: int) -> list[np.ndarray]:
        return np.split(np.arange(ROWS), range(BATCH, ROWS, BATCH))

    def prepare(self, rows: np.ndarray, epoch: int = 0, step: int = 0) -> Batch:
        self._position = epoch, step
        ids = np.stack([rows // BATCH, rows % 5], axis=1)
        return Batch(x_id_BF=ids, label_B=rows % 2)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._spoil(model, *self._position, super().loss_sum(model, batch))

    def validate(self, model: nn.Module) -> dict[str, float]:
        return {}


class InfiniteGradient(torch.autograd.Function):
    """The same number, with an infinite gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.full_like(gradient, float("inf"))


def run(folder: Path, spoil: Spoil, minutes: float = 2.0, **changes: Any) -> None:
    ctr = CTRParameters(name="deepfm", embedding_size=4, hidden_sizes=(8,), linear=True)
    model = CTRForClicks(
        ctr=build_ctr(ctr, FIELD_SIZES, generator=torch.Generator().manual_seed(0))
    )
    objective = Spoilt(spoil)
    settings = {"epochs": 2, "batch_size": BATCH, "learning_rate_ctr": 0.01} | changes
    fit(
        name="backbone",
        model=model,
        objective=objective,
        stage=ClickStageParameters.model_validate(settings),
        training=TrainingParameters(folder=str(folder), device="cpu", checkpoint_minutes=minutes),
        machine=objective._machine,
        seed=0,
        folder=folder,
        row_numbers=ROW_NUMBERS,
    )


def bad_loss(epoch: int, step: int, value: float = float("nan")) -> Spoil:
    return lambda model, e, s, loss: loss * value if (e, s) == (epoch, step) else loss


def break_table(*positions: tuple[int, int]) -> Spoil:
    """An infinite gradient for the table row that only this step's batch reads."""

    def spoil(model: nn.Module, epoch: int, step: int, loss: Tensor) -> Tensor:
        if (epoch, step) not in positions:
            return loss
        row_E = model.ctr.embedding(torch.tensor([[step, 0]]))[0, 0]
        return loss + 0 * InfiniteGradient.apply(row_E).sum()

    return spoil


def break_head(epoch: int, step: int) -> Spoil:
    def spoil(model: nn.Module, e: int, s: int, loss: Tensor) -> Tensor:
        if (e, s) != (epoch, step):
            return loss
        return loss + 0 * InfiniteGradient.apply(model.ctr.head.weight).sum()

    return spoil


def rows_of(step: int) -> list[int]:
    return ROW_NUMBERS[step * BATCH : (step + 1) * BATCH].tolist() if step >= 0 else []


def left_over(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "not_finite.json").read_text())
    return found


def assert_checkpoint_is_finite(folder: Path) -> None:
    for name in ("model", "optimizer"):
        tensors = load_file(folder / "checkpoint" / f"{name}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("step", [0, 8, 9, 10, 23])
def test_the_first_bad_step_is_named_with_its_rows(tmp_path, step, value):
    """The loss is looked at after steps 10, 20 and 24, and is bad from its first bad step on."""
    rows = rows_of(step)
    shown = ", ".join(str(row) for row in rows[:10]) + (r", \.\.\." if len(rows) > 10 else "")
    message = (
        rf"the training loss of backbone must be finite, got {value} in epoch 1, step {step + 1}, "
        rf"with the rows {shown} of the interactions \(all {len(rows)}, and those of the step "
        r"before, are in .*/not_finite\.json\); last good checkpoint: none yet; lower the learning"
    )
    with pytest.raises(DivergedError, match=message):
        run(tmp_path, bad_loss(0, step, value))
    assert left_over(tmp_path) == {
        "stage": "backbone",
        "problem": f"the training loss must be finite, got {value}",
        "epoch": 1,
        "step": step + 1,
        "rows": rows,
        "rows_of_the_step_before": rows_of(step - 1),
    }


def test_the_last_good_checkpoint_is_named(tmp_path):
    for minutes, step in ((2.0, 1), (0.0, 5)):
        message = rf"last good checkpoint: .*/checkpoint, before epoch 2, step {step};"
        with pytest.raises(DivergedError, match=message):
            run(tmp_path, bad_loss(1, 4), minutes)
        assert_checkpoint_is_finite(tmp_path)


@pytest.mark.parametrize("updates", ["all_rows", "batch_rows"])
@pytest.mark.parametrize("minutes", [0.0, 2.0])
def test_a_table_row_that_no_loss_shows_is_found_before_it_is_saved(tmp_path, updates, minutes):
    message = (
        r"the weights of backbone must be finite, got NaN or infinity in ctr\.embedding\.weight "
        r"in epoch 2, step 7, with the rows 727, 737, .*checkpoint, before epoch 2, step "
    )
    with pytest.raises(DivergedError, match=message):
        run(tmp_path, break_table((1, 6)), minutes, embedding_updates=updates)
    assert_checkpoint_is_finite(tmp_path)
    assert left_over(tmp_path)["rows"] == rows_of(6)


def test_of_several_broken_rows_the_first_is_named(tmp_path):
    with pytest.raises(DivergedError, match=r"in epoch 1, step 4, .*checkpoint: none yet"):
        run(tmp_path, break_table((0, 3), (0, 9)))
    assert not (tmp_path / "checkpoint").exists()


def test_weights_of_every_row_are_broken_by_the_last_step(tmp_path):
    message = r"weights of backbone .* NaN or infinity in ctr\.head\.weight in epoch 1, step 24,"
    with pytest.raises(DivergedError, match=message):
        run(tmp_path, break_head(0, 23))
    assert not (tmp_path / "checkpoint").exists()


def test_the_step_before_is_kept_since_it_may_have_broken_the_weights(tmp_path):
    with pytest.raises(DivergedError, match=r"the training loss .* in epoch 1, step 15,"):
        run(tmp_path, break_head(0, 13))
    assert left_over(tmp_path)["rows_of_the_step_before"] == rows_of(13)


def test_a_training_that_goes_well_leaves_no_such_file(tmp_path):
    with pytest.raises(DivergedError):
        run(tmp_path, bad_loss(0, 3))
    run(tmp_path, lambda model, epoch, step, loss: loss)
    assert not (tmp_path / "not_finite.json").exists()
