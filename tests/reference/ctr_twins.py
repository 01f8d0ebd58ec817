"""Slow twins of the CTR models: NumPy, one row at a time, gradients written out by hand.

They share no code with the package. Weights come as plain arrays; linear weights are (out, in).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

Layers = list[tuple[np.ndarray, np.ndarray]]  # (weight (out, in), bias (out,)) per layer


def fill(shape: tuple[int, ...], phase: float) -> np.ndarray:
    """Deterministic weights: the formula of the golden cases."""
    i = np.arange(np.prod(shape), dtype=np.float64)
    return (0.3 * np.sin(1.7 * i + 0.0137 * i * i + phase)).reshape(shape)


@dataclass
class Weights:
    """Weights of a twin, or their gradients."""

    table: np.ndarray
    deep: Layers
    head: tuple[np.ndarray, np.ndarray]
    cross: Layers = field(default_factory=list)

    def zeros(self) -> Weights:
        def like(layers: Layers) -> Layers:
            return [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers]

        return Weights(
            np.zeros_like(self.table), like(self.deep), like([self.head])[0], like(self.cross)
        )


def embed(table: np.ndarray, members: list[list[int]]) -> np.ndarray:
    """x_0 of one row: per field the mean of its members' table rows, side by side."""
    return np.concatenate([sum(table[m] for m in bag) / len(bag) for bag in members])


def embed_gradient(grad_table: np.ndarray, members: list[list[int]], grad: np.ndarray) -> None:
    """Add the gradient with respect to x_0 of one row onto the table's."""
    for bag, part in zip(members, grad.reshape(len(members), -1), strict=True):
        for m in bag:
            grad_table[m] += part / len(bag)


def mlp(layers: Layers, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output and the inputs of all layers, the output last."""
    seen = [x]
    for weight, bias in layers:
        seen.append(np.maximum(weight @ seen[-1] + bias, 0.0))
    return seen[-1], seen


def mlp_gradient(
    layers: Layers, seen: list[np.ndarray], grad: np.ndarray, into: Layers
) -> np.ndarray:
    """Add the layers' gradients onto ``into``; give that of the input."""
    for level in reversed(range(len(layers))):
        grad = grad * (seen[level + 1] > 0)
        into[level][0][...] += np.outer(grad, seen[level])
        into[level][1][...] += grad
        grad = layers[level][0].T @ grad
    return grad


def cross(layers: Layers, x0: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """x_{l+1} = x_l + x_0 * (W_l x_l + b_l); output and all x_l, the output last."""
    seen = [x0]
    for weight, bias in layers:
        seen.append(seen[-1] + x0 * (weight @ seen[-1] + bias))
    return seen[-1], seen


def cross_gradient(
    layers: Layers, seen: list[np.ndarray], grad: np.ndarray, into: Layers
) -> np.ndarray:
    """Add the layers' gradients onto ``into``; give that of x_0."""
    x0 = seen[0]
    grad_x0 = np.zeros_like(x0)
    for level in reversed(range(len(layers))):
        weight, bias = layers[level]
        grad_x0 += grad * (weight @ seen[level] + bias)
        into[level][0][...] += np.outer(grad * x0, seen[level])
        into[level][1][...] += grad * x0
        grad = grad + weight.T @ (grad * x0)
    return grad_x0 + grad


def run(
    weights: Weights, rows: list[list[list[int]]], coefficients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, Weights]:
    """DNN (no cross layers) or DCNv2, row by row.

    ``rows[b][f]`` lists the table rows of field f. Gives representations (B, D), logits (B,) and
    the gradients of sum_b coefficients_b * logit_b.
    """
    grads = weights.zeros()
    representations, logits = [], []
    head_weight, head_bias = weights.head
    for members, coefficient in zip(rows, coefficients, strict=True):
        x0 = embed(weights.table, members)
        deep_output, deep_seen = mlp(weights.deep, x0)
        if weights.cross:
            cross_output, cross_seen = cross(weights.cross, x0)
            q = np.concatenate([cross_output, deep_output])
        else:
            q = deep_output
        representations.append(q)
        logits.append(head_weight[0] @ q + head_bias[0])

        grads.head[0][...] += coefficient * q
        grads.head[1][...] += coefficient
        grad_q = coefficient * head_weight[0]
        grad_deep = grad_q[len(q) - len(deep_output) :]
        grad_x0 = mlp_gradient(weights.deep, deep_seen, grad_deep, grads.deep)
        if weights.cross:
            grad_cross = grad_q[: len(x0)]
            grad_x0 = grad_x0 + cross_gradient(weights.cross, cross_seen, grad_cross, grads.cross)
        embed_gradient(grads.table, members, grad_x0)
    return np.array(representations), np.array(logits), grads
