"""The cross entropy and its gradient are torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from clickprompt.training import cross_entropy
from clickprompt.training.cross_entropy import cross_entropy_sum


@pytest.mark.parametrize("values_per_chunk", [1, 60, 1 << 20])
@pytest.mark.parametrize("targets", [[3, -100, 0, 6, -100, 3, 5], [-100] * 7, [1] * 7])
def test_value_and_gradient_are_those_of_torch(monkeypatch, values_per_chunk, targets):
    monkeypatch.setattr(cross_entropy, "VALUES_PER_CHUNK", values_per_chunk)
    generator = torch.Generator().manual_seed(0)
    logit_SV = 5 * torch.randn(7, 9, dtype=torch.float64, generator=generator)
    target_S = torch.tensor(targets)
    found = []
    for loss_of in (
        lambda logits: cross_entropy_sum(logits, target_S, -100),
        lambda logits: functional.cross_entropy(
            logits, target_S, reduction="sum", ignore_index=-100
        ),
    ):
        leaf = logit_SV.clone().requires_grad_()
        loss = loss_of(leaf)
        (loss * 0.37).backward()
        found.append((loss.detach(), leaf.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-13)


def test_logits_in_bf16_are_computed_in_float32():
    generator = torch.Generator().manual_seed(1)
    logit_SV = (8 * torch.randn(64, 500, generator=generator)).bfloat16().requires_grad_()
    target_S = torch.randint(500, (64,), generator=generator)
    loss = cross_entropy_sum(logit_SV, target_S, -100)
    loss.backward()
    exact = logit_SV.detach().double().requires_grad_()
    expected = functional.cross_entropy(exact, target_S, reduction="sum")
    expected.backward()
    assert (loss.dtype, logit_SV.grad.dtype) == (torch.float32, torch.bfloat16)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(logit_SV.grad.double(), exact.grad, rtol=2**-8, atol=1e-6)


def test_large_logits_do_not_overflow():
    logit_SV = torch.tensor([[1e4, -1e4, 0.0]]).requires_grad_()
    loss = cross_entropy_sum(logit_SV, torch.tensor([1]), -100)
    loss.backward()
    assert loss.item() == pytest.approx(2e4)
    assert logit_SV.grad.tolist() == [[1.0, -1.0, 0.0]]


def test_without_a_gradient_none_is_made():
    with torch.no_grad():
        loss = cross_entropy_sum(torch.zeros(2, 4), torch.tensor([0, 3]), -100)
    assert loss.item() == pytest.approx(2 * torch.tensor(4.0).log().item())
