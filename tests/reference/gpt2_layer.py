"""Slow twin of one GPT-2 layer that reads prompts: NumPy, from the paper's equations.

It shares no code with the package, but for the twin of attention itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from tests.reference.prompt_attention import AttentionInputs, attention

EPSILON = 1e-5  # of the norms


def layer(
    weights: Mapping[str, np.ndarray],
    hidden_BNH: np.ndarray,
    prompt_key_BAKd: np.ndarray,
    prompt_value_BAKd: np.ndarray,
) -> np.ndarray:
    """Output (B, N, H) of the layer; ``weights`` by transformers' names inside a layer."""
    batch, length, size = hidden_BNH.shape
    heads = prompt_key_BAKd.shape[1]
    read_BNH = norm(hidden_BNH, weights["ln_1.weight"], weights["ln_1.bias"])
    # A row of c_attn's output is all queries, then all keys, then all values, head by head.
    three = read_BNH @ weights["attn.c_attn.weight"] + weights["attn.c_attn.bias"]
    parts = [
        three[..., i * size : (i + 1) * size]
        .reshape(batch, length, heads, size // heads)
        .transpose(0, 2, 1, 3)
        for i in range(3)
    ]
    sees_BNN = np.broadcast_to(
        np.array([[m <= n for m in range(length)] for n in range(length)]), (batch, length, length)
    )
    context_BANd = attention(AttentionInputs(*parts, prompt_key_BAKd, prompt_value_BAKd), sees_BNN)
    context_BNH = context_BANd.transpose(0, 2, 1, 3).reshape(batch, length, size)
    hidden_BNH = (
        hidden_BNH + context_BNH @ weights["attn.c_proj.weight"] + weights["attn.c_proj.bias"]
    )
    read_BNH = norm(hidden_BNH, weights["ln_2.weight"], weights["ln_2.bias"])
    wide = gelu(read_BNH @ weights["mlp.c_fc.weight"] + weights["mlp.c_fc.bias"])
    return hidden_BNH + wide @ weights["mlp.c_proj.weight"] + weights["mlp.c_proj.bias"]


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Layer normalisation over the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + EPSILON) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    """GPT-2's approximation by tanh."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
