"""Tokens of rows of different length, packed one after the other and spread to a rectangle.

Linear layers, norms and dropout work token by token: packed, they waste nothing on padding.
Attention needs rows: each token then stands in a slot of a rectangle. The slots are different
from each other, so each direction is the other's gradient and neither has to add.

Letters: B rows, W slots in each row, T tokens, H width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# T is rounded up to a multiple of this with padding tokens: few distinct shapes keep torch's
# store of planned matrix products and the allocator's gaps small.
TOKENS_MULTIPLE = 256


@dataclass(frozen=True)
class Slots:
    """Where each packed token stands in a rectangle of rows.

    Attributes:
        at_T: slot of each token in the flattened rectangle, all different; in order where the
            tokens fill the rectangle.
        rows: B.
        width: W.
    """

    at_T: Tensor
    rows: int
    width: int

    def spread(self, x_TH: Tensor) -> Tensor:
        """Packed tokens to their slots (B, W, H); the other slots are 0."""
        if self._full:
            return x_TH.view(self.rows, self.width, -1)
        x_PH: Tensor = _Spread.apply(x_TH, self.at_T, self.rows * self.width)
        return x_PH.view(self.rows, self.width, -1)

    def gather(self, x_BWH: Tensor) -> Tensor:
        """The tokens of their slots, packed (T, H)."""
        if self._full:
            return x_BWH.flatten(0, 1)
        x_TH: Tensor = _Gather.apply(x_BWH.flatten(0, 1), self.at_T)
        return x_TH

    @property
    def _full(self) -> bool:
        return len(self.at_T) == self.rows * self.width


@dataclass(frozen=True)
class Group:
    """Neighbouring rows that attend together.

    Attributes:
        rows: how many.
        slots: of their tokens, in a rectangle as wide as their longest text.
        visible_B11N: bool, False at padding; None when there is none.
    """

    rows: int
    slots: Slots
    visible_B11N: Tensor | None

    @property
    def tokens(self) -> int:
        """How many tokens stand in the slots."""
        return len(self.slots.at_T)

    def visible_to(
        self, asking: Slots, column_Q: Tensor, *, causal: bool, window: int | None
    ) -> Tensor | None:
        """Which text columns each query sees: bool (B, 1, Q, N), Q = 1 when all see the same.

        Args:
            asking: slots of the queries.
            column_Q: text column of each query.
            causal: a query sees the columns up to its own only.
            window: a query sees the columns that are at most this far away; None: all.
        """
        if not causal and (window is None or window >= self.slots.width - 1):
            return self.visible_B11N
        column_P = column_Q.new_zeros(asking.rows * asking.width).index_copy_(
            0, asking.at_T, column_Q
        )
        ahead_B1QN = torch.arange(self.slots.width, device=column_Q.device) - column_P.view(
            asking.rows, 1, asking.width, 1
        )
        seen_B1QN = torch.ones_like(ahead_B1QN, dtype=torch.bool)
        if causal:
            seen_B1QN &= ahead_B1QN <= 0
        if window is not None:
            seen_B1QN &= ahead_B1QN.abs() <= window
        if self.visible_B11N is not None:
            # A padding token far behind its text sees nothing in its window but itself: a softmax
            # over nothing is not a number, and 0 times that is none either.
            seen_B1QN &= self.visible_B11N | (ahead_B1QN == 0)
        return seen_B1QN


def text_slots(mask_BN: Tensor) -> Slots:
    """Slots of the text tokens, in order, and of as many padding tokens as make T a round number.

    Args:
        mask_BN: bool, True at text.
    """
    padding_P = ~mask_BN.flatten()
    left = -int(mask_BN.sum()) % TOKENS_MULTIPLE
    chosen_P = ~padding_P | (padding_P.cumsum(0) <= left)
    return Slots(chosen_P.nonzero()[:, 0], *mask_BN.shape)


def row_groups(text: Slots, mask_BN: Tensor, rows: int) -> list[Group]:
    """Cut the text into groups of at most ``rows`` rows, each as wide as it needs to be.

    Rows that are sorted by length then attend with little padding.

    Args:
        text: slots of the text tokens, in order.
        mask_BN: bool, True at text.
        rows: of a group.
    """
    row_T, column_T = text.at_T // text.width, text.at_T % text.width
    groups = []
    for first in range(0, text.rows, rows):
        last = min(first + rows, text.rows)
        inside_T = (row_T >= first) & (row_T < last)
        row_G, column_G = row_T[inside_T] - first, column_T[inside_T]
        width = int(column_G.max()) + 1
        visible_B11N = mask_BN[first:last, None, None, :width]
        # The fused kernels want no mask at all when nothing is padded.
        groups.append(
            Group(
                rows=last - first,
                slots=Slots(row_G * width + column_G, last - first, width),
                visible_B11N=None if bool(visible_B11N.all()) else visible_B11N,
            )
        )
    return groups


def slots_in_rows(row_S: Tensor, rows: int) -> Slots:
    """Slots for tokens of which only the row is given, in as narrow a rectangle as holds them.

    Args:
        row_S: row of each token, in ascending order.
        rows: B.
    """
    count_B = torch.bincount(row_S, minlength=rows)
    width = int(count_B.max())
    start_B = count_B.cumsum(0) - count_B
    slot_S = torch.arange(len(row_S), device=row_S.device) - start_B[row_S]
    return Slots(row_S * width + slot_S, rows, width)


def _to_slots(x_TH: Tensor, at_T: Tensor, slots: int) -> Tensor:
    return x_TH.new_zeros((slots, x_TH.shape[1])).index_copy_(0, at_T, x_TH)


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TH: Tensor, at_T: Tensor, slots: int) -> Tensor:
        ctx.save_for_backward(at_T)
        return _to_slots(x_TH, at_T, slots)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_PH: Tensor) -> tuple[Tensor, None, None]:
        (at_T,) = ctx.saved_tensors
        return gradient_PH.index_select(0, at_T), None, None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_PH: Tensor, at_T: Tensor) -> Tensor:
        ctx.save_for_backward(at_T)
        ctx.slots = x_PH.shape[0]
        return x_PH.index_select(0, at_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_TH: Tensor) -> tuple[Tensor, None]:
        (at_T,) = ctx.saved_tensors
        return _to_slots(gradient_TH, at_T, ctx.slots), None
