"""Slow twin of the attention on prompts in a BERT: NumPy, one row, head and query at a time.

It shares no code with the package. A row comes alone and without padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def prompt_mass(
    weights: Weights,
    token_ids: np.ndarray,
    *,
    heads: int,
    first_position: int = 0,
    epsilon: float = 1e-12,
    causal: bool = False,
    keys: np.ndarray | None = None,
    values: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
    inputs: np.ndarray | None = None,
) -> np.ndarray:
    """Attention weight of each prompt (L, N, A, K) at each token of one text.

    Args:
        weights: of a transformers BERT or RoBERTa, by their names.
        token_ids: (N,), special tokens included.
        heads: A.
        first_position: position id of the first token.
        epsilon: of the layer norms.
        causal: a token sees the text up to itself only.
        keys: (L, A, K, d) with ``values``: prompts of the layout key_value.
        values: see ``keys``.
        hidden: (L, K, H): of hidden_state.
        inputs: (K, H): of input_only.
    """
    front = 0 if inputs is None else len(inputs)
    rows = [] if inputs is None else list(inputs)
    rows += [weights["embeddings.word_embeddings.weight"][token] for token in token_ids]
    states = []
    for column, row in enumerate(rows):
        position = weights["embeddings.position_embeddings.weight"][column + first_position]
        kind = weights["embeddings.token_type_embeddings.weight"][0]
        states.append(_norm(weights, "embeddings.LayerNorm", row + position + kind, epsilon))
    masses = []
    layer = 0
    while f"encoder.layer.{layer}.output.dense.weight" in weights:
        at = f"encoder.layer.{layer}"
        query, key, value = (
            np.array([_linear(weights, f"{at}.attention.self.{part}", s) for s in states])
            for part in ("query", "key", "value")
        )
        size = query.shape[1] // heads
        mass = np.zeros((len(states), heads, front))
        own = 0
        if keys is not None or hidden is not None:
            own = (keys[layer].shape[1]) if keys is not None else len(hidden[layer])
            mass = np.zeros((len(states), heads, own))
        contexts = np.zeros_like(query)
        for a in range(heads):
            part = slice(a * size, (a + 1) * size)
            prompt_keys, prompt_values = [], []
            for k in range(own):
                if keys is not None:
                    prompt_keys.append(keys[layer, a, k])
                    prompt_values.append(values[layer, a, k])
                else:
                    vector = hidden[layer, k]
                    prompt_keys.append(_linear(weights, f"{at}.attention.self.key", vector)[part])
                    prompt_values.append(
                        _linear(weights, f"{at}.attention.self.value", vector)[part]
                    )
            for n in range(len(states)):
                last = n + 1 if causal else len(states)
                seen_keys = [*prompt_keys, *(key[m, part] for m in range(last))]
                seen_values = [*prompt_values, *(value[m, part] for m in range(last))]
                scores = [query[n, part] @ k / math.sqrt(size) for k in seen_keys]
                powers = np.exp(np.array(scores) - max(scores))
                shares = powers / powers.sum()
                contexts[n, part] = sum(s * v for s, v in zip(shares, seen_values, strict=True))
                counted = own or min(front, last)
                mass[n, a, :counted] = shares[:counted]
        masses.append(mass[front:])
        states = [
            _rest(weights, at, state, context, epsilon)
            for state, context in zip(states, contexts, strict=True)
        ]
        layer += 1
    return np.array(masses)


def _rest(
    weights: Weights, at: str, state: np.ndarray, context: np.ndarray, epsilon: float
) -> np.ndarray:
    """Output projection, feed-forward part, residuals and norms of one token."""
    joined = _linear(weights, f"{at}.attention.output.dense", context) + state
    joined = _norm(weights, f"{at}.attention.output.LayerNorm", joined, epsilon)
    inner = _linear(weights, f"{at}.intermediate.dense", joined)
    inner = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner])
    out = _linear(weights, f"{at}.output.dense", inner) + joined
    return _norm(weights, f"{at}.output.LayerNorm", out, epsilon)


def _linear(weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def _norm(weights: Weights, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + epsilon)
    return weights[f"{name}.weight"] * scaled + weights[f"{name}.bias"]
