"""What is said when a training diverges: the first bad step, its rows, the last good checkpoint.

A GPU has to be waited for, so the loss is looked at every few steps only. The first bad step is
found among those since the last look.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from clickprompt.ctr import FeatureEmbedding
from clickprompt.training.checkpoint import Checkpoints
from clickprompt.training.distribution import full_tensor
from clickprompt.training.objectives import Objective

ROWS_FILE = "not_finite.json"  # in the stage's folder, beside the checkpoint
ROWS_SHOWN = 10


class DivergedError(ValueError):
    """A loss or a weight is infinite or not a number."""


class DivergenceWatch:
    """Holds losses and weights to being finite.

    Args:
        name: of the stage.
        objective: gives the batches of a step again.
        row_numbers: row of the interactions table by row of the model input.
        folder: of the stage; an error leaves ``not_finite.json`` with the batch's rows in it.
        writes: whether this process writes that file.
    """

    def __init__(
        self,
        *,
        name: str,
        objective: Objective,
        row_numbers: np.ndarray,
        folder: Path,
        writes: bool = True,
    ) -> None:
        self._name = name
        self._objective = objective
        self._row_numbers = row_numbers
        self._folder = folder
        self._writes = writes
        self._recent: list[tuple[int, torch.Tensor]] = []
        if writes:
            (folder / ROWS_FILE).unlink(missing_ok=True)

    def add(self, step: int, loss: torch.Tensor) -> None:
        """Remember the loss of a step, without waiting for it."""
        self._recent.append((step, loss))

    def check_losses(self, running: torch.Tensor, epoch: int) -> float:
        """The sum of an epoch's losses so far, as a number.

        Raises:
            DivergedError: it is not finite; names the first step whose loss is not, its rows and
                the last checkpoint.
        """
        total = float(running)
        recent, self._recent = self._recent, []
        if np.isfinite(total):
            return total
        step, loss = next((s, loss) for s, loss in recent if not torch.isfinite(loss))
        raise self._error("the training loss", f"{float(loss)}", epoch, step)

    def check_weights(self, model: nn.Module, epoch: int, steps: int) -> None:
        """Called before weights are saved, with ``steps`` steps of the epoch done.

        Their losses were finite. So a weight that every row meets was broken by the last step, and
        a row of an embedding table by the last step that read it.

        Raises:
            DivergedError: a weight is not finite; names it, the step that broke it, that step's
                rows and the last checkpoint.
        """
        state = model.state_dict().items()
        broken = [name for name, tensor in state if not _finite(full_tensor(tensor))]
        if not broken:
            return
        tables = {
            f"{name}.weight": module
            for name, module in model.named_modules()
            if isinstance(module, FeatureEmbedding)
        }
        step = steps - 1
        if set(broken) <= set(tables):
            step = min(self._last_read(tables[name], epoch, steps) for name in broken)
        what = f"{broken[0]} and {len(broken) - 1} more" if len(broken) > 1 else broken[0]
        raise self._error("the weights", f"NaN or infinity in {what}", epoch, step)

    @torch.no_grad()
    def _last_read(self, table: FeatureEmbedding, epoch: int, steps: int) -> int:
        """The first step after which a row that is not finite was not read any more."""
        broken_R = ~full_tensor(table.weight).isfinite().all(dim=1)
        batches = self._objective.batches(epoch)
        first = steps - 1
        for step in reversed(range(steps)):
            ids = self._objective.prepare(batches[step], epoch, step).x_id_BF
            row_N = table.table_rows(torch.from_numpy(ids).to(broken_R.device)).flatten()
            if broken_R[row_N].any():
                first = step
                broken_R[row_N] = False
            if not broken_R.any():
                break
        return first

    def _error(self, what: str, found: str, epoch: int, step: int) -> DivergedError:
        batches = self._objective.batches(epoch)
        rows = self._row_numbers[batches[step]].tolist()
        before = self._row_numbers[batches[step - 1]].tolist() if step else []
        path = self._folder / ROWS_FILE
        if self._writes:
            self._folder.mkdir(parents=True, exist_ok=True)
            entry = {
                "stage": self._name,
                "problem": f"{what} must be finite, got {found}",
                "epoch": epoch + 1,
                "step": step + 1,
                "rows": rows,
                "rows_of_the_step_before": before,
            }
            path.write_text(json.dumps(entry, indent=1), encoding="utf-8")
        shown = ", ".join(str(row) for row in rows[:ROWS_SHOWN])
        more = ", ..." if len(rows) > ROWS_SHOWN else ""
        last = Checkpoints(self._folder).position()
        checkpoint = "none yet"
        if last is not None:
            checkpoint = (
                f"{Checkpoints(self._folder).path}, before epoch {last.epoch + 1}, "
                f"step {last.step + 1}"
            )
        return DivergedError(
            f"{what} of {self._name} must be finite, got {found} in epoch {epoch + 1}, step "
            f"{step + 1}, with the rows {shown}{more} of the interactions (all {len(rows)}, and "
            f"those of the step before, are in {path}); last good checkpoint: {checkpoint}; "
            f"lower the learning rates or look at these rows"
        )


def _finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; in one pass, without a copy of a large table."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())
