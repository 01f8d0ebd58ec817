"""Blocks that more than one CTR model uses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """The deep part: ``x <- dropout(relu(W x + b))``, once per hidden size.

    Args:
        input_size: width of the input.
        hidden_sizes: widths of the layers; the last one is the output's.
        dropout: share of activations that is dropped after each layer; 0 adds no module.
    """

    def __init__(
        self, *, input_size: int, hidden_sizes: Sequence[int], dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in, width_out in zip([input_size, *hidden_sizes], hidden_sizes, strict=False):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, input size) -> (B, last hidden size)."""
        return self.layers(x)
