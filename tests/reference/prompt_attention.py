"""Slow twin of prompted attention: NumPy, one row, head and query at a time, gradients by hand.

It shares no code with the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class AttentionInputs:
    """Inputs of one layer's attention, or the gradients with respect to them."""

    query_BANd: np.ndarray
    key_BANd: np.ndarray
    value_BANd: np.ndarray
    prompt_key_BAKd: np.ndarray
    prompt_value_BAKd: np.ndarray

    def zeros(self) -> AttentionInputs:
        return AttentionInputs(*(np.zeros_like(array) for array in vars(self).values()))


def attention(inputs: AttentionInputs, visible_BN: np.ndarray) -> np.ndarray:
    """Context (B, A, N, d): prompts are always seen, text columns where ``visible_BN``.

    ``visible_BN`` may also be (B, N, N), query before key, where queries see different columns.
    """
    context = np.zeros_like(inputs.query_BANd)
    batch, heads, length, _ = inputs.query_BANd.shape
    for b in range(batch):
        for a in range(heads):
            for n in range(length):
                weights, values, _ = _one_query(inputs, visible_BN, b, a, n)
                for weight, value in zip(weights, values, strict=True):
                    context[b, a, n] += weight * value
    return context


def attention_gradient(
    inputs: AttentionInputs, visible_BN: np.ndarray, grad_BANd: np.ndarray
) -> AttentionInputs:
    """Gradients of sum(grad * context) with respect to every input."""
    out = inputs.zeros()
    batch, heads, length, size = inputs.query_BANd.shape
    prompts = inputs.prompt_key_BAKd.shape[2]
    for b in range(batch):
        for a in range(heads):
            for n in range(length):
                weights, values, columns = _one_query(inputs, visible_BN, b, a, n)
                grad = grad_BANd[b, a, n]
                query = inputs.query_BANd[b, a, n]
                grad_weights = np.array([grad @ value for value in values])
                mean = weights @ grad_weights
                for m, column in enumerate(columns):
                    grad_score = weights[m] * (grad_weights[m] - mean) / math.sqrt(size)
                    if column < prompts:
                        keys, out_keys, out_values, at = (
                            inputs.prompt_key_BAKd,
                            out.prompt_key_BAKd,
                            out.prompt_value_BAKd,
                            column,
                        )
                    else:
                        keys, out_keys, out_values, at = (
                            inputs.key_BANd,
                            out.key_BANd,
                            out.value_BANd,
                            column - prompts,
                        )
                    out.query_BANd[b, a, n] += grad_score * keys[b, a, at]
                    out_keys[b, a, at] += grad_score * query
                    out_values[b, a, at] += weights[m] * grad
    return out


def _one_query(
    inputs: AttentionInputs, visible_BN: np.ndarray, b: int, a: int, n: int
) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Weights, values and columns (prompts first) that query n sees."""
    query = inputs.query_BANd[b, a, n]
    prompts = inputs.prompt_key_BAKd.shape[2]
    scores, values, columns = [], [], []
    for k in range(prompts):
        scores.append(query @ inputs.prompt_key_BAKd[b, a, k] / math.sqrt(len(query)))
        values.append(inputs.prompt_value_BAKd[b, a, k])
        columns.append(k)
    seen_N = visible_BN[b] if visible_BN.ndim == 2 else visible_BN[b, n]
    for m in range(len(seen_N)):
        if seen_N[m]:
            scores.append(query @ inputs.key_BANd[b, a, m] / math.sqrt(len(query)))
            values.append(inputs.value_BANd[b, a, m])
            columns.append(prompts + m)
    powers = np.exp(np.array(scores) - max(scores))
    return powers / powers.sum(), values, columns
