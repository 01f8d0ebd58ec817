"""A stage's position between two optimiser steps, so that a killed run continues.

A checkpoint is a folder: ``model.safetensors``, ``optimizer.safetensors`` and
``progress.json``. There is no state of random generators in it: batch order, masks and
dropout each follow from (seed, epoch, step), so the position alone restores them.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from clickprompt.files import recover_folder
from clickprompt.training.distribution import full_tensors, load_weights, share_like
from clickprompt.training.files import (
    check_folder,
    load_tensors,
    save_tensors,
    write_folder,
)
from clickprompt.training.optimizer import load_optimizer_tensors, optimizer_tensors


class Progress(BaseModel):
    """How far a stage has come.

    Attributes:
        epoch: epoch of the next step, from 0.
        step: next step inside the epoch.
        loss_sum: training loss of this epoch so far, summed over its items.
        count: items (rows, or masked tokens) behind ``loss_sum``.
        seconds: computing time so far, over all interrupted parts.
        history: one entry a finished epoch.
        gradient_norms: one entry a step whose gradient was measured (`GradientWatch`).
        best_epoch: epoch with the best valid criterion, or None.
        finished: no step is left.
    """

    model_config = ConfigDict(validate_assignment=True)

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    seconds: float = 0.0
    history: list[dict[str, Any]] = []
    gradient_norms: list[dict[str, Any]] = []
    best_epoch: int | None = None
    finished: bool = False


class Checkpoints:
    """The last checkpoint and the best weights of one stage.

    Sharded tensors are saved whole, so a checkpoint goes on with any number of processes; each of
    them must then call ``save`` and ``save_best``.

    Args:
        folder: the stage's own folder.
        writes: whether this process writes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self._writes = writes
        self._last = folder / "checkpoint"
        self._best = folder / "best"

    @property
    def path(self) -> Path:
        """Folder of the last checkpoint; it need not be there yet."""
        return self._last

    def position(self) -> Progress | None:
        """How far the last checkpoint has come; None when there is none."""
        if not recover_folder(self._last):
            return None
        text = (self._last / "progress.json").read_text(encoding="utf-8")
        return Progress.model_validate(json.loads(text))

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Replace the last checkpoint in one step.

        Raises:
            OSError: it could not be written; the one before is unchanged.
        """
        weights = full_tensors(model.state_dict(), keep=self._writes)
        state = full_tensors(optimizer_tensors(optimizer), keep=self._writes)

        def write(folder: Path) -> None:
            save_tensors(folder / "model.safetensors", weights)
            save_tensors(folder / "optimizer.safetensors", state)
            (folder / "progress.json").write_text(progress.model_dump_json(), encoding="utf-8")

        if self._writes:
            write_folder(self._last, write)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Put the last checkpoint into model and optimiser; None when there is none.

        Raises:
            DamagedFolderError: it is damaged; the message names the file and the remedy.
        """
        if not recover_folder(self._last):
            return None
        check_folder(self._last)
        load_weights(model, load_tensors(self._last / "model.safetensors"))
        state = load_tensors(self._last / "optimizer.safetensors")
        load_optimizer_tensors(optimizer, share_like(optimizer, state))
        return self.position()

    def save_best(self, model: nn.Module) -> None:
        """Keep these weights as the best so far."""
        weights = full_tensors(model.state_dict(), keep=self._writes)

        def write(folder: Path) -> None:
            save_tensors(folder / "model.safetensors", weights)

        if self._writes:
            write_folder(self._best, write)

    def load_best(self, model: nn.Module) -> None:
        """Put the best weights back into the model."""
        recover_folder(self._best)
        check_folder(self._best)
        load_weights(model, load_tensors(self._best / "model.safetensors"))

    def remove(self) -> None:
        """Delete both, when nobody goes on from them, and the stage's folder if it is empty."""
        for folder in (self._last, self._best):
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            self._last.parent.rmdir()
