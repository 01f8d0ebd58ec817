"""Norm of the gradient of each part over a training: who learns, and who is clipped."""

from __future__ import annotations

import numpy as np
import torch

from clickprompt.training.checkpoint import Progress
from clickprompt.training.distribution import common_norm
from clickprompt.training.optimizer import PARTS, dense_gradients

# Steps of an epoch that are measured: enough for a curve, too few to cost time.
STEPS_PER_EPOCH = 20


def gradient_norms(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Norm of the gradient of each part that is trained, and of all parts together.

    Args:
        optimizer: from `build_optimizer`, with gradients; sparse ones are coalesced in place.
            Where they are sharded every process must call.

    Returns:
        ``ctr``, ``prompts``, ``plm`` and ``head``, as the learning rates are called, where a part
        has a gradient, and ``total`` where there are several; scalars that are not waited for.
    """
    parts: dict[str, list[torch.Tensor]] = {}
    for group in optimizer.param_groups:
        part = PARTS[group["name"].split(".")[0]].removeprefix("learning_rate_")
        parts.setdefault(part, []).extend(dense_gradients(group["params"]))
    norms = {part: common_norm(gradients) for part, gradients in parts.items() if gradients}
    if len(norms) > 1:
        norms["total"] = torch.stack(list(norms.values())).norm()
    return norms


class GradientWatch:
    """Measures the gradient at some steps of each epoch: the first, the last and some between.

    A GPU has to be waited for, so the norms are read later, where the loss is looked at anyway.

    Args:
        optimizer: of the training.
        steps: of an epoch.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, steps: int) -> None:
        self._optimizer = optimizer
        self._steps = steps
        chosen = np.linspace(0, max(steps - 1, 0), min(steps, STEPS_PER_EPOCH))
        self._chosen = frozenset(int(step) for step in chosen.round())
        self._unread: list[tuple[int, int, dict[str, torch.Tensor]]] = []

    def measure(self, epoch: int, step: int) -> None:
        """Called in every step, when its gradient is of all processes and not yet clipped."""
        if step in self._chosen:
            self._unread.append((epoch, step, gradient_norms(self._optimizer)))

    def read(self, progress: Progress) -> None:
        """Wait for what was measured and append it to ``progress.gradient_norms``.

        One entry a step: ``step`` over all epochs and ``epoch``, both from 1, and the norms.
        """
        for epoch, step, norms in self._unread:
            entry: dict[str, float] = {"step": epoch * self._steps + step + 1, "epoch": epoch + 1}
            entry |= {part: float(norm) for part, norm in norms.items()}
            progress.gradient_norms.append(entry)
        self._unread.clear()
