"""Packing: spread and gather against a loop, their gradients against numeric ones."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.plm.slots import TOKENS_MULTIPLE, Slots, row_groups, slots_in_rows, text_slots


@settings(deadline=None, max_examples=50)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    more=st.integers(0, 5),
)
def test_text_slots_hold_all_text_in_order_and_a_round_number(lengths, more):
    width = max(lengths) + more
    mask_BN = torch.arange(width) < torch.tensor(lengths)[:, None]
    slots = text_slots(mask_BN)
    text = mask_BN.flatten().nonzero()[:, 0]
    assert set(text.tolist()) <= set(slots.at_T.tolist())
    assert (slots.at_T.diff() > 0).all()
    most = mask_BN.numel()
    assert len(slots.at_T) == min(-(-len(text) // TOKENS_MULTIPLE) * TOKENS_MULTIPLE, most)


def test_row_groups_hold_every_text_token_once():
    mask_BN = torch.arange(9) < torch.tensor([2, 9, 3, 3, 4, 1, 7])[:, None]
    text = text_slots(mask_BN)
    groups = row_groups(text, mask_BN, 3)
    assert [group.rows for group in groups] == [3, 3, 1]
    assert sum(group.tokens for group in groups) == len(text.at_T)
    x_TH = torch.arange(1.0, len(text.at_T) + 1)[:, None]
    whole_BN1 = text.spread(x_TH)
    first = 0
    for group, part in zip(groups, x_TH.split([g.tokens for g in groups]), strict=True):
        spread = group.slots.spread(part)
        rows = slice(first, first + group.rows)
        assert torch.equal(spread, whole_BN1[rows, : spread.shape[1]])
        visible = torch.ones(group.rows, spread.shape[1], dtype=torch.bool)
        if group.visible_B11N is not None:
            visible = group.visible_B11N[:, 0, 0]
        assert torch.equal(visible, mask_BN[rows, : spread.shape[1]])
        assert not mask_BN[rows, spread.shape[1] :].any()
        first += group.rows


@settings(deadline=None, max_examples=50)
@given(rows=st.lists(st.integers(0, 6), min_size=1, max_size=40))
def test_slots_in_rows_keep_the_row_and_are_different(rows):
    rows.sort()
    slots = slots_in_rows(torch.tensor(rows), 7)
    assert [slot // slots.width for slot in slots.at_T.tolist()] == rows
    assert len(set(slots.at_T.tolist())) == len(rows)
    assert slots.width == max(rows.count(row) for row in rows)


def test_spread_and_gather_are_a_loop_and_each_others_inverse():
    slots = Slots(torch.tensor([4, 0, 1, 7]), 3, 3)
    x_TH = torch.arange(1.0, 9.0).view(4, 2)
    spread_BWH = slots.spread(x_TH)
    expected = torch.zeros(9, 2)
    for token, slot in enumerate(slots.at_T.tolist()):
        expected[slot] = x_TH[token]
    assert torch.equal(spread_BWH, expected.view(3, 3, 2))
    assert torch.equal(slots.gather(spread_BWH), x_TH)


def test_gradients_are_the_numeric_ones():
    slots = Slots(torch.tensor([4, 0, 1, 7]), 3, 3)
    generator = torch.Generator().manual_seed(0)
    packed = torch.randn(4, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    spread = torch.randn(3, 3, 2, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(slots.spread, (packed,))
    assert torch.autograd.gradcheck(slots.gather, (spread,))
