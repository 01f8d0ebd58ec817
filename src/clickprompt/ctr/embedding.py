"""The feature embedding that every CTR model reads its fields from.

Shapes: B batch, F fields, E embedding size, R rows of the table, M members of a bag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional


class FeatureEmbedding(nn.Module):
    """One stacked table for all fields; a bag field gives the mean of its members' rows.

    Field f owns ``field_sizes[f]`` rows of the table, row 0 of them being out-of-vocabulary, and
    ids are local to their field: the table row of id i in field f is
    ``field_sizes[0] + ... + field_sizes[f - 1] + i``. The ids of a bag field number its rows of
    ``bags`` (distinct combinations of members) instead.

    Ids are held against the limits of their fields at every call on a CPU; whoever has checked all
    of them before (``clickprompt.training.inputs``) sets ``trusts_ids``.

    With ``sparse_gradient`` the table's gradient is a sparse tensor with the rows of the batch and
    nothing else, so that its cost does not depend on the size of the table. Whoever brings an
    optimiser that reads it sets the attribute.

    Args:
        field_sizes: table rows per field.
        embedding_size: E.
        bags: bag field -> int array (combinations, M) of local member ids, padded with -1.

    Raises:
        ValueError: sizes below 1, a bag for a field that does not exist, an empty combination, or
            a member outside its field.
    """

    field_offsets: Tensor
    id_limits: Tensor
    sparse_gradient: bool
    trusts_ids: bool

    def __init__(
        self,
        *,
        field_sizes: Sequence[int],
        embedding_size: int,
        bags: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__()
        if not field_sizes or min(field_sizes) < 1:
            raise ValueError(f"field_sizes must all be at least 1, got {list(field_sizes)}")
        if embedding_size < 1:
            raise ValueError(f"embedding_size must be at least 1, got {embedding_size}")
        unknown = sorted(set(bags or {}) - set(range(len(field_sizes))))
        if unknown:
            raise ValueError(
                f"bags must name fields in 0..{len(field_sizes) - 1}, got {unknown[0]}"
            )
        self.field_sizes = tuple(int(size) for size in field_sizes)
        self.embedding_size = embedding_size
        self.weight = nn.Parameter(torch.empty(sum(self.field_sizes), embedding_size))
        nn.init.xavier_normal_(self.weight)
        self.sparse_gradient = False
        self.trusts_ids = False

        # The offsets and bags follow from the data, hence non-persistent: a state dict holds what
        # was learnt and nothing else.
        offsets = np.cumsum([0, *self.field_sizes[:-1]])
        self.register_buffer("field_offsets", torch.from_numpy(offsets), persistent=False)
        self.bag_fields = tuple(sorted(bags or {}))
        self.plain_fields = tuple(f for f in range(len(field_sizes)) if f not in self.bag_fields)
        self.set_bags(bags or {})

    def set_bags(self, bags: Mapping[int, np.ndarray]) -> None:
        """Number the combinations of the bag fields anew: ids of other rows than those of training.

        Args:
            bags: for each bag field, as the constructor takes them.

        Raises:
            ValueError: an empty combination, or a member outside its field.
        """
        assert tuple(sorted(bags)) == self.bag_fields
        device = self.weight.device
        limits = [
            len(bags[field]) if field in bags else size
            for field, size in enumerate(self.field_sizes)
        ]
        limit_F = torch.tensor(limits, device=device)
        self.register_buffer("id_limits", limit_F, persistent=False)
        for field in self.bag_fields:
            bag = _check_bag(field, np.asarray(bags[field]), self.field_sizes)
            real = bag >= 0
            # Padding repeats a member: a sparse gradient must not name a row that is not read.
            member = bag[np.arange(len(bag)), real.argmax(axis=1)]
            offset = sum(self.field_sizes[:field])
            rows = np.where(real, bag, member[:, None]).astype(np.int64) + offset
            row_CM = torch.from_numpy(rows).to(device)
            self.register_buffer(f"bag_rows_{field}", row_CM, persistent=False)
            # 0 and 1 and not 1/count: exact in every precision that the model is cast to.
            mask_CM = torch.from_numpy(real).to(device, self.weight.dtype)
            self.register_buffer(f"bag_mask_{field}", mask_CM, persistent=False)

    def forward(self, x_id_BF: Tensor) -> Tensor:
        """Embed the fields: local ids (B, F), int32 or int64 -> (B, F, E).

        Raises:
            ValueError: another shape; on a CPU also an id outside of its field. A GPU would have
                to wait for that answer: there :meth:`check_ids` is the caller's to call, and ids
                of a model input were checked when it was written.
        """
        if x_id_BF.ndim != 2 or x_id_BF.shape[1] != len(self.field_sizes):
            raise ValueError(
                f"x_id must have the shape (B, {len(self.field_sizes)}), got {tuple(x_id_BF.shape)}"
            )
        if x_id_BF.device.type == "cpu" and not self.trusts_ids:
            self.check_ids(x_id_BF)
        x_BCE = _as_autocast(self.lookup(self.table_rows(x_id_BF)))
        if not self.bag_fields:
            return x_BCE
        masks = [
            self.get_buffer(f"bag_mask_{field}")[x_id_BF[:, field]].unsqueeze(-1)
            for field in self.bag_fields
        ]
        plain_BPE, *members = x_BCE.split(
            [len(self.plain_fields), *(mask_BM1.shape[1] for mask_BM1 in masks)], dim=1
        )
        columns = dict(zip(self.plain_fields, plain_BPE.unbind(dim=1), strict=True))
        for field, member_BME, mask_BM1 in zip(self.bag_fields, members, masks, strict=True):
            columns[field] = (member_BME * mask_BM1).sum(dim=1) / mask_BM1.sum(dim=1)
        return torch.stack([columns[field] for field in range(len(columns))], dim=1)

    def table_rows(self, x_id_BF: Tensor) -> Tensor:
        """Rows of the table that a batch reads: local ids (B, F) -> (B, C).

        The columns are the plain fields, then the members of each bag field; C is F without bags.
        Padding of a bag is a row of one of its members.
        """
        if not self.bag_fields:
            return x_id_BF + self.field_offsets
        # One lookup for plain fields and bag members together: the dense gradient of the table
        # is then written once.
        plain = list(self.plain_fields)
        rows = [x_id_BF[:, plain] + self.field_offsets[plain]]
        rows += [
            self.get_buffer(f"bag_rows_{field}")[x_id_BF[:, field]] for field in self.bag_fields
        ]
        return torch.cat(rows, dim=1)

    def check_ids(self, x_id_BF: Tensor) -> None:
        """Hold every id against the limits of its field: (B, F).

        An id that is too large would mostly be a row of the next field, a wrong one without a
        word.

        Raises:
            ValueError: an id outside of its field; it names field, limits, id and row.
        """
        outside_BF = (x_id_BF < 0) | (x_id_BF >= self.id_limits)
        if not outside_BF.any():
            return
        row, field = (int(place) for place in outside_BF.nonzero()[0])
        raise ValueError(
            f"x_id of field {field} must be in 0..{int(self.id_limits[field]) - 1}, "
            f"got {int(x_id_BF[row, field])} in row {row}"
        )

    def lookup(self, row_BC: Tensor) -> Tensor:
        """Rows of the table: (B, C) -> (B, C, E)."""
        if self.sparse_gradient or self.weight.device.type != "cpu":
            return functional.embedding(row_BC, self.weight, sparse=self.sparse_gradient)
        # On the CPU the gradient of `embedding` loops over rows and takes three times as long as
        # `index_select`'s; on a GPU the latter would be summed in random order.
        flat = self.weight.index_select(0, row_BC.reshape(-1))
        return flat.view(*row_BC.shape, self.embedding_size)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"rows={self.weight.shape[0]}, fields={len(self.field_sizes)}"


def _as_autocast(x: Tensor) -> Tensor:
    """In the number format of matrix products, so that what is between them is in it, too.

    Else each product of an embedding with what a layer made is float32 again, and cast anew for the
    next layer.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _check_bag(field: int, bag: np.ndarray, field_sizes: Sequence[int]) -> np.ndarray:
    """The bag as it is, if it fits its field."""
    if bag.ndim != 2 or bag.size == 0:
        raise ValueError(
            f"bag of field {field} must have the shape (combinations, M), got {bag.shape}"
        )
    if bag.min() < -1 or bag.max() >= field_sizes[field]:
        bad = bag.min() if bag.min() < -1 else bag.max()
        raise ValueError(
            f"bag of field {field} must hold ids in 0..{field_sizes[field] - 1} or -1, got {bad}"
        )
    empty = np.flatnonzero((bag < 0).all(axis=1))
    if len(empty):
        raise ValueError(
            f"bag of field {field} must have a member in each row, row {empty[0]} has none"
        )
    return bag
