"""From the CTR model's representation to prompts (section 3 of docs/method.md).

One generator for each layout of `clickprompt.prompts.layouts`.

Letters: B batch, D representation, L layers, A heads, K prompts, d head size, H hidden size (A*d),
E size of the word embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clickprompt.parameters import PromptParameters
from clickprompt.prompts.layouts import HiddenStatePrompts, InputPrompts, KeyValuePrompts


class PromptGenerator(nn.Module):
    """``key_value``: a key and a value of every layer and prompt, by parallel projections.

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


class HiddenStateGenerator(nn.Module):
    """``hidden_state``: a vector of every layer and prompt, which that layer then projects.

    ``Linear(D, H) -> Tanh -> Linear(H, L*K*H)``, the paper's text: half the numbers of
    `PromptGenerator`. The rows of the last matrix are ordered (L, K, H).

    Args:
        representation_size: D.
        layers: L.
        hidden_size: H.
        count: K, prompts per layer.
        bottleneck: width of the first layer; None: H.
    """

    def __init__(
        self,
        *,
        representation_size: int,
        layers: int,
        hidden_size: int,
        count: int,
        bottleneck: int | None = None,
    ) -> None:
        super().__init__()
        self.shape = (layers, count, hidden_size)
        width = hidden_size if bottleneck is None else bottleneck
        self.first = nn.Linear(representation_size, width)
        self.second = nn.Linear(width, layers * count * hidden_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights as the CTR model does: Xavier-normal, biases zero."""
        for linear in (self.first, self.second):
            nn.init.xavier_normal_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, representation_BD: Tensor) -> HiddenStatePrompts:
        """Prompts of every row from the CTR model's representation."""
        output = self.second(torch.tanh(self.first(representation_BD)))
        return HiddenStatePrompts(output.unflatten(1, self.shape))


class InputGenerator(nn.Module):
    """``input_only``: a vector of every prompt, in front of the word embeddings.

    K independent ``Linear(D, E)`` without a tanh, as the reference, in one matrix whose rows are
    ordered (K, E). (`input_rows_from_reference` stacks the reference's.)

    Args:
        representation_size: D.
        embedding_size: E.
        count: K.
    """

    def __init__(self, *, representation_size: int, embedding_size: int, count: int) -> None:
        super().__init__()
        self.shape = (count, embedding_size)
        self.projections = nn.Linear(representation_size, count * embedding_size)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw fresh weights, Xavier-normal for each of the K matrices (E, D); biases zero."""
        with torch.no_grad():
            for weight_ED in self.projections.weight.unflatten(0, self.shape):
                nn.init.xavier_normal_(weight_ED, generator=generator)
        nn.init.zeros_(self.projections.bias)

    def forward(self, representation_BD: Tensor) -> InputPrompts:
        """Prompts of every row from the CTR model's representation."""
        return InputPrompts(self.projections(representation_BD).unflatten(1, self.shape))


AnyGenerator = PromptGenerator | HiddenStateGenerator | InputGenerator


def build_generator(
    prompts: PromptParameters,
    *,
    representation_size: int,
    layers: int,
    heads: int,
    head_size: int,
    hidden_size: int,
    embedding_size: int,
    generator: torch.Generator,
) -> AnyGenerator | None:
    """The generator of ``prompts.layout`` with freshly drawn weights; None for ``none``.

    Args:
        prompts: layout, K, bottleneck.
        representation_size: D, of the CTR model.
        layers: L, as the others of the language model.
        heads: A.
        head_size: d.
        hidden_size: H.
        embedding_size: E.
        generator: source of the initial weights.
    """
    built: AnyGenerator
    if prompts.layout == "none":
        return None
    if prompts.layout == "input_only":
        built = InputGenerator(
            representation_size=representation_size,
            embedding_size=embedding_size,
            count=prompts.count,
        )
    elif prompts.layout == "hidden_state":
        built = HiddenStateGenerator(
            representation_size=representation_size,
            layers=layers,
            hidden_size=hidden_size,
            count=prompts.count,
            bottleneck=prompts.bottleneck,
        )
    else:
        built = PromptGenerator(
            representation_size=representation_size,
            layers=layers,
            heads=heads,
            head_size=head_size,
            count=prompts.count,
            bottleneck=prompts.bottleneck,
        )
    built.initialise(generator)
    return built


def input_rows_from_reference(tensors: Sequence[Tensor], *, count: int) -> Tensor:
    """One matrix (or bias) from the reference's K for ``input_only``.

    Args:
        tensors: ``prompt_layers.k.weight`` (E, D) or ``.bias`` (E,), k = 0 ... K-1 in this order.
        count: K.

    Returns:
        The rows for `InputGenerator.projections`.

    Raises:
        ValueError: there are not K tensors, or their shapes differ.
    """
    if len(tensors) != count:
        raise ValueError(f"the reference's projections must be {count}, got {len(tensors)}")
    shapes = {tuple(tensor.shape) for tensor in tensors}
    if len(shapes) != 1:
        raise ValueError(f"the reference's projections must have one shape, got {sorted(shapes)}")
    return torch.cat(tuple(tensors))


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
