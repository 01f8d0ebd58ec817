"""Slow twins of the generators for ``hidden_state`` and ``input_only``: one vector at a time.

The weights of each prompt are small matrices in a dictionary, so they depend on no row order.
Gradients are by hand.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

Array = np.ndarray
Projections = Mapping[Hashable, tuple[Array, Array]]


def project(projections: Projections, x_BW: Array) -> dict[Hashable, Array]:
    """Vector (B, H) of every slot."""
    return {
        slot: np.array([weight @ x + bias for x in x_BW])
        for slot, (weight, bias) in projections.items()
    }


def project_gradient(
    projections: Projections, x_BW: Array, grads: Mapping[Hashable, Array]
) -> tuple[dict[Hashable, tuple[Array, Array]], Array]:
    """Gradients of the weights and of x for gradients (B, H) of every slot."""
    found = {}
    grad_x = np.zeros_like(x_BW)
    for slot, (weight, bias) in projections.items():
        grad_weight, grad_bias = np.zeros_like(weight), np.zeros_like(bias)
        for b, grad in enumerate(grads[slot]):
            grad_weight += np.outer(grad, x_BW[b])
            grad_bias += grad
            grad_x[b] += weight.T @ grad
        found[slot] = (grad_weight, grad_bias)
    return found, grad_x


def shared_layer(weight: Array, bias: Array, x_BD: Array) -> Array:
    """tanh(W x + b)."""
    return np.array([np.tanh(weight @ x + bias) for x in x_BD])


def shared_layer_gradient(
    weight: Array, u_BW: Array, x_BD: Array, grad_BW: Array
) -> tuple[Array, Array, Array]:
    """Gradients of W, b and x."""
    before = grad_BW * (1 - u_BW**2)
    grad_weight = sum(np.outer(g, x) for g, x in zip(before, x_BD, strict=True))
    return grad_weight, before.sum(axis=0), np.array([weight.T @ g for g in before])
