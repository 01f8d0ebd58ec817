"""The prompt generator against a slow NumPy twin, forward and gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clickprompt.prompts import PromptGenerator, rows_from_reference
from tests.reference import prompt_generator as twin

L, A, K, d, D, BATCH = 2, 3, 4, 5, 7, 3


def _pair(bottleneck: int | None) -> tuple[PromptGenerator, twin.GeneratorWeights]:
    """A generator and its twin with the same weights, rows in the documented order."""
    generator = np.random.default_rng(0)
    width = A * d if bottleneck is None else bottleneck
    slots = twin.slots(L, A, K)
    weights = twin.GeneratorWeights(
        generator.normal(size=(width, D)) / 3,
        generator.normal(size=width),
        {s: (generator.normal(size=(d, width)), generator.normal(size=d)) for s in slots},
    )
    module = PromptGenerator(
        representation_size=D, layers=L, heads=A, head_size=d, count=K, bottleneck=bottleneck
    ).double()
    matrix, bias = twin.big_matrix(weights, slots)  # order (layer, key or value, head, prompt)
    state = {
        "first.weight": weights.first_weight,
        "first.bias": weights.first_bias,
        "second.weight": matrix,
        "second.bias": bias,
    }
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return module, weights


@pytest.mark.parametrize("bottleneck", [None, 2])
def test_value_and_gradient_are_the_twins(bottleneck):
    module, weights = _pair(bottleneck)
    random = np.random.default_rng(1)
    representation = random.normal(size=(BATCH, D))
    grad_key, grad_value = random.normal(size=(2, BATCH, L, A, K, d))
    representation_BD = torch.tensor(representation, requires_grad=True)
    key, value = vars(module(representation_BD)).values()
    expected_key, expected_value = twin.prompts(weights, representation, (L, A, K, d))
    np.testing.assert_allclose(key.detach(), expected_key, rtol=1e-9)
    np.testing.assert_allclose(value.detach(), expected_value, rtol=1e-9)
    (
        (key * torch.from_numpy(grad_key)).sum() + (value * torch.from_numpy(grad_value)).sum()
    ).backward()
    gradients, grad_representation = twin.prompts_gradient(
        weights, representation, grad_key, grad_value
    )
    matrix, bias = twin.big_matrix(gradients, twin.slots(L, A, K))
    for found, expected in (
        (representation_BD.grad, grad_representation),
        (module.first.weight.grad, gradients.first_weight),
        (module.first.bias.grad, gradients.first_bias),
        (module.second.weight.grad, matrix),
        (module.second.bias.grad, bias),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_references_rows():
    """The reference orders rows by prompt, layer, key or value, head, component."""
    module, weights = _pair(None)
    order = [
        (layer, kind, head, k)
        for k in range(K)
        for layer in range(L)
        for kind in range(2)
        for head in range(A)
    ]
    matrix, bias = twin.big_matrix(weights, order)
    sizes = {"layers": L, "heads": A, "head_size": d, "count": K}
    assert torch.equal(rows_from_reference(torch.from_numpy(matrix), **sizes), module.second.weight)
    assert torch.equal(rows_from_reference(torch.from_numpy(bias), **sizes), module.second.bias)


def test_reference_of_other_sizes():
    with pytest.raises(ValueError, match="must have 240 rows for these sizes, got 12"):
        rows_from_reference(torch.zeros(12), layers=L, heads=A, head_size=d, count=K)


def test_a_changed_row_changes_that_row_only():
    module, _ = _pair(None)
    representation_BD = torch.randn(4, D, dtype=torch.float64)
    before = torch.stack([*vars(module(representation_BD)).values()])
    representation_BD[2] += 1
    after = torch.stack([*vars(module(representation_BD)).values()])
    assert torch.equal(before[:, [0, 1, 3]], after[:, [0, 1, 3]])
    assert (before[:, 2] != after[:, 2]).all()


def test_initialisation_is_the_generators():
    def fresh(seed: int) -> dict[str, torch.Tensor]:
        module = PromptGenerator(representation_size=200, layers=2, heads=4, head_size=16, count=3)
        module.initialise(torch.Generator().manual_seed(seed))
        return module.state_dict()

    first, again, other = fresh(0), fresh(0), fresh(1)
    for name in first:
        assert torch.equal(first[name], again[name])
    assert not torch.equal(first["second.weight"], other["second.weight"])
    assert first["first.weight"].std().item() == pytest.approx((2 / (200 + 64)) ** 0.5, rel=0.05)
    assert first["second.weight"].std().item() == pytest.approx((2 / (64 + 768)) ** 0.5, rel=0.05)
    assert not first["first.bias"].any()
    assert not first["second.bias"].any()


def test_parameter_count_of_the_bottleneck():
    module = PromptGenerator(
        representation_size=D, layers=L, heads=A, head_size=d, count=K, bottleneck=2
    )
    rows = L * 2 * K * A * d
    assert sum(p.numel() for p in module.parameters()) == (D + 1) * 2 + (2 + 1) * rows
