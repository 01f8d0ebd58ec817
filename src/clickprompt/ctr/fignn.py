"""FiGNN: a graph network whose nodes are the fields (Li et al., CIKM 2019, 1910.05552).

Shapes: B batch, F fields, E embedding size, D = F * E representation size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from clickprompt.ctr.base import CTRModel

NEGATIVE_SLOPE = 0.01  # of the LeakyReLU around the edge scores


class FiGNN(CTRModel):
    """Fields send messages along weighted edges and update their states by a GRU (section 3).

    - Edges, once: g_ij = softmax over j != i of LeakyReLU(w . [e_i; e_j]).
    - Step t, states h_i (at first e_i): a_i = W_in_i sum_j g_ij W_out_j h_j + b; then
      h_i <- GRU(input a_i, state h_i) [+ e_i], the part in brackets being ``residual``.
    - q = [h_1; ...; h_F], logit = sum_i sigmoid(u_i . q) (v . h_i): the attentional head, u_i and
      v without biases. D = F * E.

    NOTE[DIFF]: in the paper the first states come from multi-head self-attention over the
    embeddings; here, as in the reference, they are the embeddings.

    Args:
        field_sizes: table rows per field, two fields or more.
        embedding_size: E.
        graph_layers: steps.
        graph_shared: all steps have the same W_in, W_out and b; the GRU is always shared.
        residual: add e_i after each step.
        bags: members of the bag fields.

    Raises:
        ValueError: fewer than two fields.
    """

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        graph_layers: int,
        graph_shared: bool,
        residual: bool,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        fields = len(field_sizes)
        if fields < 2:
            raise ValueError(f"fignn needs at least 2 fields, got {fields}")
        super().__init__(
            field_sizes=field_sizes,
            embedding_size=embedding_size,
            representation_size=fields * embedding_size,
            head=AttentionalHead(fields=fields, size=embedding_size),
            bags=bags,
        )
        self.steps = graph_layers
        self.residual = residual
        self.edge = nn.Linear(2 * embedding_size, 1, bias=False)
        self.graph = nn.ModuleList(
            GraphLayer(fields=fields, size=embedding_size)
            for _ in range(1 if graph_shared else graph_layers)
        )
        self.gru = GRU(size=embedding_size)

    def representation(self, x_id_BF: Tensor) -> Tensor:
        """States of all fields after the last step, side by side: (B, F) -> (B, D)."""
        x_BFE = self.embedding(x_id_BF)
        edge_BFF = self._edges(x_BFE)
        # Field first: W_in and W_out are then one batched matrix product over the fields.
        x_FBE = state_FBE = x_BFE.transpose(0, 1)
        for step in range(self.steps):
            layer = self.graph[step % len(self.graph)]
            state_FBE = self.gru(layer(edge_BFF, state_FBE), state_FBE)
            if self.residual:
                state_FBE = state_FBE + x_FBE
        return state_FBE.transpose(0, 1).flatten(1)

    def _edges(self, x_BFE: Tensor) -> Tensor:
        """Weight of the edge from field j to field i in row i, column j: (B, F, F)."""
        # w . [e_i; e_j] is a sum of two numbers: pairs need not be laid side by side.
        to_BF, from_BF = functional.linear(x_BFE, self.edge.weight.view(2, -1)).unbind(dim=-1)
        score_BFF = to_BF.unsqueeze(2) + from_BF.unsqueeze(1)
        score_BFF = functional.leaky_relu(score_BFF, NEGATIVE_SLOPE)
        own_FF = torch.eye(x_BFE.shape[1], dtype=torch.bool, device=x_BFE.device)
        return score_BFF.masked_fill(own_FF, -torch.inf).softmax(dim=-1)


class GraphLayer(nn.Module):
    """a_i = W_in_i sum_j g_ij W_out_j h_j + b; a matrix of each kind per field."""

    def __init__(self, *, fields: int, size: int) -> None:
        super().__init__()
        self.weight_in = nn.Parameter(torch.empty(fields, size, size))
        self.weight_out = nn.Parameter(torch.empty(fields, size, size))
        self.bias = nn.Parameter(torch.zeros(size))
        nn.init.xavier_normal_(self.weight_in)
        nn.init.xavier_normal_(self.weight_out)

    def forward(self, edge_BFF: Tensor, state_FBE: Tensor) -> Tensor:
        """Edges (B, F, F) and states (F, B, E) -> what each field receives (F, B, E)."""
        sent_FBE = state_FBE @ self.weight_out.transpose(1, 2)
        received_BFE = edge_BFF.to(sent_FBE.dtype) @ sent_FBE.transpose(0, 1)
        return received_BFE.transpose(0, 1) @ self.weight_in.transpose(1, 2) + self.bias


class GRU(nn.Module):
    """PyTorch's GRUCell, gates in the order reset, update, new.

    Written out, since autocast knows matrix products but not ``GRUCell`` on a CPU.
    """

    def __init__(self, *, size: int) -> None:
        super().__init__()
        self.input = nn.Linear(size, 3 * size)
        self.hidden = nn.Linear(size, 3 * size)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Input and state (..., E) -> next state (..., E)."""
        reset_x, update_x, new_x = self.input(x).chunk(3, dim=-1)
        reset_h, update_h, new_h = self.hidden(state).chunk(3, dim=-1)
        reset = (reset_x + reset_h).sigmoid()
        update = (update_x + update_h).sigmoid()
        new = (new_x + reset * new_h).tanh()
        return new + update * (state - new)


class AttentionalHead(nn.Module):
    """sum_i sigmoid(u_i . q) (v . h_i) with q = [h_1; ...; h_F]."""

    def __init__(self, *, fields: int, size: int) -> None:
        super().__init__()
        self.fields = fields
        self.score = nn.Linear(size, 1, bias=False)
        self.weight = nn.Linear(fields * size, fields, bias=False)

    def forward(self, q_BD: Tensor) -> Tensor:
        """(B, F * E) -> (B, 1)."""
        score_BF = self.score(q_BD.unflatten(1, (self.fields, -1))).squeeze(-1)
        return (self.weight(q_BD).sigmoid() * score_BF).sum(dim=1, keepdim=True)
