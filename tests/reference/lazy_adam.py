"""Lazy Adam row by row: what a step does to the rows of its batch, and to no other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def lazy_adam(
    weight: np.ndarray,
    steps: Sequence[tuple[Sequence[int], np.ndarray]],
    *,
    rate: float,
    decay: float,
    coupled: bool,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights and both moments after ``steps``, each (rows of the batch, their gradients).

    A row may stand several times in a step: its gradients are added up.
    """
    w, m, v = weight.copy(), np.zeros_like(weight), np.zeros_like(weight)
    for t, (rows, gradients) in enumerate(steps, start=1):
        sums: dict[int, np.ndarray] = {}
        for row, gradient in zip(rows, gradients, strict=True):
            sums[row] = sums.get(row, np.zeros(weight.shape[1])) + gradient
        for row, g in sums.items():
            if coupled:
                g = g + decay * w[row]
            else:
                w[row] = w[row] - rate * decay * w[row]
            m[row] = b1 * m[row] + (1 - b1) * g
            v[row] = b2 * v[row] + (1 - b2) * g * g
            step = (m[row] / (1 - b1**t)) / (np.sqrt(v[row] / (1 - b2**t)) + eps)
            w[row] = w[row] - rate * step
    return w, m, v
