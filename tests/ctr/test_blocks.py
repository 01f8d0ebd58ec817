"""Blocks whose gradients are written by hand, against torch's own."""

from __future__ import annotations

import pytest
import torch

from clickprompt.ctr.blocks import NARROW, softmax_over_fields


@pytest.mark.parametrize("fields", [1, 2, NARROW - 1, NARROW, NARROW + 5])
def test_softmax_over_fields_is_softmax(fields):
    generator = torch.Generator().manual_seed(fields)
    score = 50 * torch.randn(3, 2, fields, fields, generator=generator, dtype=torch.float64)
    weight = torch.randn(score.shape, generator=generator, dtype=torch.float64)
    ours, native = score.clone().requires_grad_(), score.clone().requires_grad_()
    share = softmax_over_fields(ours)
    torch.testing.assert_close(share, native.softmax(dim=-1), rtol=1e-12, atol=1e-14)
    (share * weight).sum().backward()
    (native.softmax(dim=-1) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, native.grad, rtol=1e-12, atol=1e-14)


def test_softmax_over_fields_has_no_overflow():
    share = softmax_over_fields(torch.tensor([[1e4, -1e4, 0.0]]))
    assert share.tolist() == [[1.0, 0.0, 0.0]]


def test_half_precision_scores_are_computed_in_float32():
    score = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert softmax_over_fields(score).dtype == torch.float32
