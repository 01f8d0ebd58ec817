"""From the CTR model's representation to prompts of every layer (section 3 of docs/method.md).

Letters: B batch, D representation, L layers, A heads, K prompts, d head size, H = A*d.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clickprompt.prompts.layouts import KeyValuePrompts


class PromptGenerator(nn.Module):
    """Parallel projections of the representation, one for every layer and prompt.

    ``Linear(D, H) -> Tanh -> Linear(H, L*2*A*K*d)``: a shared first layer, then one key and
    one value vector for each layer and prompt. The rows of the last matrix are ordered
    (L, 2, A, K, d): layer, key before value, head, prompt, component. So keys and values are
    views of the output, no copies. (`rows_from_reference` maps the reference's order.)

    Args:
        representation_size: D.
        layers: L.
        heads: A.
        head_size: d.
        count: K, prompts per layer.
        bottleneck: width of the first layer; None: H, as the paper.
    """

    def __init__(
        self,
        *,
        representation_size: int,
        layers: int,
        heads: int,
        head_size: int,
        count: int,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = (layers, 2, heads, count, head_size)
        width = heads * head_size if bottleneck is None else bottleneck
        self.first = nn.Linear(representation_size, width)
        self.second = nn.Linear(width, layers * 2 * heads * count * head_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights as the CTR model does: Xavier-normal, biases zero."""
        for linear in (self.first, self.second):
            nn.init.xavier_normal_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, representation_BD: Tensor) -> KeyValuePrompts:
        """Prompts of every row.

        Args:
            representation_BD: the CTR model's representation.
        """
        output = self.second(torch.tanh(self.first(representation_BD)))
        prompts_BL2AKd = output.unflatten(1, self.shape)
        return KeyValuePrompts(prompts_BL2AKd[:, :, 0], prompts_BL2AKd[:, :, 1])


def rows_from_reference(
    tensor: Tensor, *, layers: int, heads: int, head_size: int, count: int
) -> Tensor:
    """Reorder the rows of the reference's last matrix (or bias) to this generator's order.

    The reference reads its output as (K, 2L, A, d), slot 2l the key and 2l+1 the value of
    layer l; here it is (L, 2, A, K, d).

    Args:
        tensor: ``prompt_layers.2.weight`` (K*2L*A*d, H) or ``.bias`` (K*2L*A*d,).
        layers: L.
        heads: A.
        head_size: d.
        count: K.

    Returns:
        The same rows for `PromptGenerator.second`.

    Raises:
        ValueError: the number of rows is not K*2*L*A*d.
    """
    rows = count * 2 * layers * heads * head_size
    if tensor.shape[0] != rows:
        raise ValueError(
            f"the reference's tensor must have {rows} rows for these sizes, got {tensor.shape[0]}"
        )
    split = tensor.unflatten(0, (count, layers, 2, heads, head_size))
    return split.movedim(0, 3).flatten(0, 4)
