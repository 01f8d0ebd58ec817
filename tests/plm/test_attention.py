"""Both kernels of prompted attention against a slow NumPy twin, forward and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clickprompt.plm.attention import KERNELS, prompted_attention
from tests.reference import prompt_attention as twin

BATCH, HEADS, TEXT, PROMPTS, SIZE = 3, 2, 5, 4, 6
VISIBLE = {
    "no padding": np.ones((BATCH, TEXT), bool),
    "padding": np.arange(TEXT) < np.array([5, 2, 3])[:, None],
    "causal": np.tril(np.ones((BATCH, TEXT, TEXT), bool)),
    "causal, padding": np.tril(np.ones((BATCH, TEXT, TEXT), bool))
    & (np.arange(TEXT) < np.array([5, 2, 3])[:, None])[:, None],
    "window": np.abs(np.subtract.outer(np.arange(TEXT), np.arange(TEXT)))
    <= np.ones((BATCH, 1, 1), int),
}


def _inputs(prompts: int = PROMPTS) -> twin.AttentionInputs:
    generator = np.random.default_rng(0)
    shapes = [(BATCH, HEADS, columns, SIZE) for columns in (TEXT, TEXT, TEXT, prompts, prompts)]
    return twin.AttentionInputs(*(generator.normal(size=shape) for shape in shapes))


def _mask(visible: np.ndarray) -> torch.Tensor:
    """(B, N) or (B, N, N) -> (B, 1, 1 or N, N)."""
    mask = torch.from_numpy(visible)
    return mask[:, None, None] if mask.ndim == 2 else mask[:, None]


@pytest.mark.parametrize("prompts", [0, 1, PROMPTS])
@pytest.mark.parametrize("visible_BN", VISIBLE.values(), ids=VISIBLE)
@pytest.mark.parametrize("kernel", KERNELS)
def test_value_and_gradient_are_the_twins(kernel, visible_BN, prompts):
    inputs = _inputs(prompts)
    grad_BANd = np.random.default_rng(1).normal(size=inputs.query_BANd.shape)
    tensors = [torch.tensor(array, requires_grad=True) for array in vars(inputs).values()]
    query, key, value, prompt_key, prompt_value = tensors
    context_BANd = prompted_attention(
        KERNELS[kernel],
        query,
        key,
        value,
        (prompt_key, prompt_value) if prompts else None,
        None if visible_BN.all() else _mask(visible_BN),
        dropout=0.0,
        scaling=SIZE**-0.5,
    )
    np.testing.assert_allclose(
        context_BANd.detach(), twin.attention(inputs, visible_BN), rtol=1e-9, atol=1e-12
    )
    context_BANd.backward(torch.from_numpy(grad_BANd))
    expected = twin.attention_gradient(inputs, visible_BN, grad_BANd)
    for tensor, (name, gradient) in zip(tensors, vars(expected).items(), strict=True):
        if gradient.size:
            np.testing.assert_allclose(tensor.grad, gradient, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_twins_gradient_is_a_gradient():
    inputs, visible_BN = _inputs(), VISIBLE["padding"]
    grad_BANd = np.random.default_rng(1).normal(size=inputs.query_BANd.shape)
    gradients = twin.attention_gradient(inputs, visible_BN, grad_BANd)
    for name, array in vars(inputs).items():
        for index in [(0, 0, 0, 0), (1, 1, 1, 2), (2, 0, 3, 5)]:
            at, step, losses = array[index], 1e-6, []
            for moved in (at + step, at - step):
                array[index] = moved
                losses.append((grad_BANd * twin.attention(inputs, visible_BN)).sum())
            array[index] = at
            slope = (losses[0] - losses[1]) / (2 * step)
            assert getattr(gradients, name)[index] == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_attention_weights_are_dropped_and_rescaled(kernel):
    """With values of one and no other randomness, a context is the kept weight / (1 - p)."""
    length, dropout = 400, 0.25
    query, key = torch.zeros(1, 8, length, 4), torch.zeros(1, 8, length, 4)
    value = torch.ones(1, 8, length, 4)
    torch.manual_seed(0)
    context = prompted_attention(
        KERNELS[kernel], query, key, value, None, None, dropout=dropout, scaling=0.5
    )[..., 0]
    # Each query averages 400 weights of 1/400: mean 1, variance p / (1 - p) / 400.
    assert context.mean().item() == pytest.approx(1, abs=5 * (1 / 3 / 400 / 3200) ** 0.5)
    assert context.var().item() == pytest.approx(1 / 3 / 400, rel=0.15)
