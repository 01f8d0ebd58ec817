"""The quick dropout does what dropout must."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clickprompt.plm.dropout import Dropout, dropout, use_quick_dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_and_the_scale(dtype, probability):
    torch.manual_seed(0)
    x = torch.ones(1001, 303, dtype=dtype)
    y = dropout(x, probability)
    assert y.shape == x.shape
    assert y.dtype == dtype
    dropped = (y == 0).double().mean().item()
    spread = (probability * (1 - probability) / x.numel()) ** 0.5
    assert dropped == pytest.approx(probability, abs=4 * spread + 2**-16)
    kept = y[y != 0].double()
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - probability), rel=4e-3)


def test_elements_are_dropped_independently():
    """Neighbours in memory come from one 64-bit word: their masks must not be related."""
    torch.manual_seed(1)
    kept = (dropout(torch.ones(1 << 20), 0.5) != 0).double() - 0.5
    for distance in (1, 2, 3, 4, 8):
        correlation = (kept[:-distance] * kept[distance:]).mean().item() * 4
        assert abs(correlation) < 4 / 1024
    for position in range(4):
        assert kept[position::4].mean().item() == pytest.approx(0, abs=4 * 0.5 / 512)


def test_gradient_is_the_same_mask():
    torch.manual_seed(2)
    x = torch.rand(64, 33, dtype=torch.float64).add(1).requires_grad_()
    y = dropout(x, 0.3)
    y.sum().backward()
    torch.testing.assert_close(x.grad, (y / x).detach(), rtol=1e-12, atol=0)


def test_the_seed_decides():
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return dropout(torch.ones(1000), 0.5)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_masks_of_one_seed_are_unrelated():
    """They are windows of one pool: equal elements, and neighbours, must have nothing in common."""
    torch.manual_seed(6)
    count = 1 << 18
    masks = [(dropout(torch.ones(count), 0.5) != 0).double() - 0.5 for _ in range(12)]
    for first in range(len(masks)):
        for second in range(first):
            correlation = (masks[first] * masks[second]).mean().item() * 4
            assert abs(correlation) < 5 / count**0.5
    assert torch.stack(masks).mean().abs().item() < 4 * 0.5 / (12 * count) ** 0.5


def test_a_saved_state_gives_the_mask_again_though_a_larger_one_was_drawn_since():
    torch.manual_seed(7)
    dropout(torch.ones(3), 0.5)
    state = torch.get_rng_state()
    before = dropout(torch.ones(5000), 0.5)
    dropout(torch.ones(6 << 20), 0.5)
    torch.manual_seed(8)
    dropout(torch.ones(3), 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropout(torch.ones(5000), 0.5), before)


def test_the_mask_of_a_step_is_new_in_the_next():
    masks = []
    for seed in range(50):
        torch.manual_seed(seed)
        masks.append(dropout(torch.ones(4096), 0.5) != 0)
    kept = torch.stack(masks).double().sub(0.5)
    correlations = kept @ kept.T * 4 / 4096
    assert correlations.fill_diagonal_(0).abs().max().item() < 6 / 64


@pytest.mark.parametrize("shape", [(), (1,), (3,), (0, 4), (2, 3, 5)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_a_transposed_tensor():
    torch.manual_seed(5)
    x = torch.arange(1.0, 13.0).view(3, 4).T
    y = dropout(x, 0.5)
    assert torch.all((y == 0) | (y == 2 * x))


def test_zero_probability_and_evaluation_touch_nothing():
    x = torch.ones(5)
    assert dropout(x, 0.0) is x
    assert Dropout(0.5).eval()(x) is x


def test_every_dropout_of_a_module_is_replaced():
    module = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)))
    use_quick_dropout(module)
    found = [child for child in module.modules() if isinstance(child, nn.Dropout)]
    assert [type(child) for child in found] == [Dropout, Dropout]
    assert [child.p for child in found] == [0.2, 0.3]
