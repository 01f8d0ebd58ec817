"""Generators of the layouts ``hidden_state``, ``input_only`` and ``none``, and their builder."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from clickprompt.parameters import PromptParameters
from clickprompt.prompts import (
    HiddenStateGenerator,
    HiddenStatePrompts,
    InputGenerator,
    InputPrompts,
    KeyValuePrompts,
    PromptGenerator,
    build_generator,
    input_rows_from_reference,
)
from tests.reference import layout_generators as twin

L, A, d, K, D, BATCH = 2, 3, 2, 4, 7, 3
H = A * d
E = 5
CLOSE = {"rtol": 1e-9, "atol": 1e-12}
SIZES = {
    "representation_size": D,
    "layers": L,
    "heads": A,
    "head_size": d,
    "hidden_size": H,
    "embedding_size": E,
}


def _projections(slots, out, width, seed):
    random = np.random.default_rng(seed)
    return {slot: (random.normal(size=(out, width)), random.normal(size=out)) for slot in slots}


def _stacked(projections, slots):
    return {
        "weight": np.concatenate([projections[slot][0] for slot in slots]),
        "bias": np.concatenate([projections[slot][1] for slot in slots]),
    }


def _load(module, arrays):
    module.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


@pytest.mark.parametrize("bottleneck", [None, 2])
def test_hidden_state_is_the_twin(bottleneck):
    width = bottleneck or H
    slots = list(product(range(L), range(K)))
    random = np.random.default_rng(0)
    first = random.normal(size=(width, D)) / 3, random.normal(size=width)
    projections = _projections(slots, H, width, 1)
    module = HiddenStateGenerator(
        representation_size=D, layers=L, hidden_size=H, count=K, bottleneck=bottleneck
    ).double()
    second = _stacked(projections, slots)
    _load(
        module,
        {"first.weight": first[0], "first.bias": first[1]}
        | {f"second.{name}": array for name, array in second.items()},
    )
    q_BD = random.normal(size=(BATCH, D))
    grad_BLKH = random.normal(size=(BATCH, L, K, H))
    tensor_BD = torch.tensor(q_BD, requires_grad=True)
    prompts = module(tensor_BD)
    assert isinstance(prompts, HiddenStatePrompts)
    (prompts.vector_BLKH * torch.from_numpy(grad_BLKH)).sum().backward()

    u_BW = twin.shared_layer(*first, q_BD)
    vectors = twin.project(projections, u_BW)
    for layer, k in slots:
        found = prompts.vector_BLKH[:, layer, k].detach()
        np.testing.assert_allclose(found, vectors[layer, k], **CLOSE)
    grads = {(layer, k): grad_BLKH[:, layer, k] for layer, k in slots}
    expected, grad_u = twin.project_gradient(projections, u_BW, grads)
    stacked = _stacked(expected, slots)
    np.testing.assert_allclose(module.second.weight.grad, stacked["weight"], **CLOSE)
    np.testing.assert_allclose(module.second.bias.grad, stacked["bias"], **CLOSE)
    grad_first = twin.shared_layer_gradient(first[0], u_BW, q_BD, grad_u)
    found = module.first.weight.grad, module.first.bias.grad, tensor_BD.grad
    for ours, twins in zip(found, grad_first, strict=True):
        np.testing.assert_allclose(ours, twins, **CLOSE)


def _input_pair():
    projections = _projections(range(K), E, D, 2)
    module = InputGenerator(representation_size=D, embedding_size=E, count=K).double()
    both = [
        [torch.from_numpy(projections[k][part]) for k in range(K)] for part in (0, 1)
    ]  # as the reference keeps them: prompt_layers.k.weight and .bias
    module.load_state_dict(
        {
            "projections.weight": input_rows_from_reference(both[0], count=K),
            "projections.bias": input_rows_from_reference(both[1], count=K),
        }
    )
    return module, projections


def test_input_only_is_k_projections_without_a_tanh():
    module, projections = _input_pair()
    random = np.random.default_rng(3)
    q_BD, grad_BKE = 9 * random.normal(size=(BATCH, D)), random.normal(size=(BATCH, K, E))
    tensor_BD = torch.tensor(q_BD, requires_grad=True)
    prompts = module(tensor_BD)
    assert isinstance(prompts, InputPrompts)
    (prompts.vector_BKE * torch.from_numpy(grad_BKE)).sum().backward()
    vectors = twin.project(projections, q_BD)
    for k in range(K):
        np.testing.assert_allclose(prompts.vector_BKE[:, k].detach(), vectors[k], **CLOSE)
    grads = {k: grad_BKE[:, k] for k in range(K)}
    expected, grad_q = twin.project_gradient(projections, q_BD, grads)
    stacked = _stacked(expected, range(K))
    np.testing.assert_allclose(module.projections.weight.grad, stacked["weight"], **CLOSE)
    np.testing.assert_allclose(module.projections.bias.grad, stacked["bias"], **CLOSE)
    np.testing.assert_allclose(tensor_BD.grad, grad_q, **CLOSE)


def test_projections_of_the_reference_that_do_not_fit():
    with pytest.raises(ValueError, match="projections must be 4, got 3"):
        input_rows_from_reference([torch.zeros(E, D)] * 3, count=4)
    with pytest.raises(ValueError, match=r"must have one shape, got \[\(5, 7\), \(5, 8\)\]"):
        input_rows_from_reference([torch.zeros(E, D), torch.zeros(E, D + 1)], count=2)


def _build(layout, seed=0, **changes):
    prompts = PromptParameters(layout=layout, count=K, **changes)
    return build_generator(prompts, **SIZES, generator=torch.Generator().manual_seed(seed))


def test_each_layout_has_its_generator():
    q_BD = torch.randn(BATCH, D)
    key_value, hidden, front = (
        _build(layout) for layout in ("key_value", "hidden_state", "input_only")
    )
    assert isinstance(key_value, PromptGenerator)
    assert isinstance(key_value(q_BD), KeyValuePrompts)
    assert key_value(q_BD).key_BLAKd.shape == (BATCH, L, A, K, d)
    assert isinstance(hidden, HiddenStateGenerator)
    assert hidden(q_BD).vector_BLKH.shape == (BATCH, L, K, H)
    assert isinstance(front, InputGenerator)
    assert front(q_BD).vector_BKE.shape == (BATCH, K, E)
    assert _build("none") is None


@pytest.mark.parametrize("layout", ["key_value", "hidden_state"])
def test_the_bottleneck_is_the_width_of_the_first_layer(layout):
    assert _build(layout).first.out_features == H
    assert _build(layout, bottleneck=2).first.out_features == 2


@pytest.mark.parametrize("layout", ["key_value", "hidden_state", "input_only"])
def test_weights_are_drawn_from_the_generator(layout):
    first, again, other = _build(layout), _build(layout), _build(layout, seed=1)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
        assert tensor.any() != name.endswith("bias")
        assert torch.equal(tensor, other.state_dict()[name]) == name.endswith("bias")


def test_initial_deviation_is_xaviers_of_each_matrix():
    prompts = PromptParameters(layout="input_only", count=6)
    sizes = SIZES | {"representation_size": 90, "embedding_size": 110}
    module = build_generator(prompts, **sizes, generator=torch.Generator().manual_seed(0))
    deviations = module.projections.weight.unflatten(0, (6, 110)).std(dim=(1, 2))
    expected = torch.full((6,), (2 / (90 + 110)) ** 0.5)
    torch.testing.assert_close(deviations, expected, rtol=0.05, atol=0)
    hidden = HiddenStateGenerator(representation_size=90, layers=3, hidden_size=110, count=4)
    hidden.initialise(torch.Generator().manual_seed(0))
    assert hidden.first.weight.std().item() == pytest.approx((2 / 200) ** 0.5, rel=0.05)
    rows = 3 * 4 * 110
    assert hidden.second.weight.std().item() == pytest.approx((2 / (110 + rows)) ** 0.5, rel=0.05)


@pytest.mark.parametrize("layout", ["hidden_state", "input_only"])
def test_a_changed_row_changes_that_row_only(layout):
    module = _build(layout)
    q_BD = torch.randn(4, D)
    (before,) = vars(module(q_BD)).values()
    q_BD[2] += 1
    (after,) = vars(module(q_BD)).values()
    assert torch.equal(before[[0, 1, 3]], after[[0, 1, 3]])
    assert (before[2] != after[2]).all()
