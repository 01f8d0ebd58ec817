"""Slow twin of the prompt generator: NumPy, one prompt vector at a time, gradients by hand.

The twin holds one projection for each (layer, key or value, head, prompt), a dictionary of
small matrices, so it depends on no row order. `big_matrix` writes them into the documented one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

Slot = tuple[int, int, int, int]  # layer, 0 key / 1 value, head, prompt


@dataclass
class GeneratorWeights:
    """Weights of the twin, or their gradients."""

    first_weight: np.ndarray
    first_bias: np.ndarray
    projections: dict[Slot, tuple[np.ndarray, np.ndarray]]


def slots(layers: int, heads: int, count: int) -> list[Slot]:
    return list(product(range(layers), range(2), range(heads), range(count)))


def prompts(
    weights: GeneratorWeights, representation_BD: np.ndarray, sizes: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values, (B, L, A, K, d) each; ``sizes`` is (L, A, K, d)."""
    output = np.zeros((2, len(representation_BD), *sizes))
    for b, representation in enumerate(representation_BD):
        hidden = np.tanh(weights.first_weight @ representation + weights.first_bias)
        for (layer, kind, head, k), (weight, bias) in weights.projections.items():
            output[kind, b, layer, head, k] = weight @ hidden + bias
    return output[0], output[1]


def prompts_gradient(
    weights: GeneratorWeights,
    representation_BD: np.ndarray,
    grad_key: np.ndarray,
    grad_value: np.ndarray,
) -> tuple[GeneratorWeights, np.ndarray]:
    """Gradients of sum(grad_key * keys) + sum(grad_value * values)."""
    out = GeneratorWeights(
        np.zeros_like(weights.first_weight),
        np.zeros_like(weights.first_bias),
        {
            slot: (np.zeros_like(w), np.zeros_like(b))
            for slot, (w, b) in weights.projections.items()
        },
    )
    grad_representation = np.zeros_like(representation_BD)
    for b, representation in enumerate(representation_BD):
        hidden = np.tanh(weights.first_weight @ representation + weights.first_bias)
        grad_hidden = np.zeros_like(hidden)
        for slot, (weight, _) in weights.projections.items():
            layer, kind, head, k = slot
            grad = (grad_key, grad_value)[kind][b, layer, head, k]
            out.projections[slot][0][...] += np.outer(grad, hidden)
            out.projections[slot][1][...] += grad
            grad_hidden += weight.T @ grad
        grad_before = grad_hidden * (1 - hidden**2)
        out.first_weight += np.outer(grad_before, representation)
        out.first_bias += grad_before
        grad_representation[b] = weights.first_weight.T @ grad_before
    return out, grad_representation


def big_matrix(weights: GeneratorWeights, order: list[Slot]) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of one Linear whose rows are the projections in the given order."""
    matrices, biases = zip(*(weights.projections[slot] for slot in order), strict=True)
    return np.concatenate(matrices), np.concatenate(biases)
