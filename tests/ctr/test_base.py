"""What the base class does for models that are yet to come."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clickprompt.ctr import CTRModel


class _Normed(CTRModel):
    """A model with norms, a bare parameter and a shallow term."""

    def __init__(self) -> None:
        super().__init__(field_sizes=(3, 4), embedding_size=2, representation_size=4)
        self.norms = nn.ModuleList([nn.BatchNorm1d(4), nn.LayerNorm(4)])
        self.gate = nn.Parameter(torch.full((4, 4), 7.0))
        self.bias = nn.Parameter(torch.full((4,), 7.0))

    def representation(self, x_id_BF: Tensor) -> Tensor:
        q_BD = self.embedding(x_id_BF).flatten(1) @ self.gate + self.bias
        for norm in self.norms:
            q_BD = norm(q_BD)
        return q_BD

    def logits(self, representation_BD: Tensor, x_id_BF: Tensor) -> Tensor:
        return super().logits(representation_BD, x_id_BF) + x_id_BF[:, 0]


def test_initialise_fills_bare_parameters_and_leaves_norms_at_one_and_zero():
    model = _Normed()
    for norm in model.norms:
        nn.init.constant_(norm.weight, 5.0)
        nn.init.constant_(norm.bias, 5.0)
    model.norms[0].running_mean.fill_(5.0)
    model.initialise(torch.Generator().manual_seed(0))
    for norm in model.norms:
        assert (norm.weight == 1).all()
        assert (norm.bias == 0).all()
    assert (model.norms[0].running_mean == 0).all()
    assert model.gate.abs().max() < 3
    assert (model.bias == 0).all()


def test_forward_includes_the_shallow_terms_of_a_subclass():
    model = _Normed().eval()
    x_id_BF = torch.tensor([[2, 1], [0, 3]])
    head_B = model.head(model.representation(x_id_BF)).squeeze(-1)
    torch.testing.assert_close(model(x_id_BF), head_B + torch.tensor([2.0, 0.0]))
