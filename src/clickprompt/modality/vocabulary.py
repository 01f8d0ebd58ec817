"""Distinct values of a field -> local ids, fitted on train rows only; 0 is out-of-vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clickprompt.modality.columns import Column
from clickprompt.parameters import FieldParameters

OUT_OF_VOCABULARY = 0


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What turns the values of one field into local ids.

    - categorical, multi-valued ``first`` and ``joined``: ``values[i]`` has id i + 1;
    - numeric: bucket b, ``edges[b-1] <= x < edges[b]``, has id b + 1; a missing value has
      the id after the last bucket if train rows have missing values, else 0;
    - ``bag``: ``values`` are the members, a combination has the ids of its known members.

    None among the values is "missing", a value of its own where train rows have it.

    NOTE[DIFF]: the reference numbers the values of all splits and has no row for unseen ones; here
    the values are those of the train split, and id 0 stands for all others.
    """

    field: FieldParameters
    values: tuple[str | None, ...] = ()
    edges: tuple[float, ...] = ()
    missing_id: int = OUT_OF_VOCABULARY
    _ids: dict[str | None, int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = {value: number for number, value in enumerate(self.values, 1)}
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def fit(cls, parameters: FieldParameters, column: Column) -> Vocabulary:
        """Fit on the values that train rows have.

        Raises:
            ValueError: a value of a numeric field is not a finite number.
        """
        counts = column.train_counts
        if parameters.kind == "numeric":
            numbers = _as_numbers(column.values, parameters)
            seen = (counts > 0) & ~np.isnan(numbers)
            edges = _quantile_edges(numbers[seen], counts[seen], parameters.buckets)
            missing = any(counts[i] for i, v in enumerate(column.values) if v is None)
            missing_id = len(edges) + 2 if missing else OUT_OF_VOCABULARY
            return cls(parameters, edges=edges, missing_id=missing_id)
        totals: dict[str | None, int] = {}
        single = parameters.kind != "multi_valued"
        for cell, count in zip(column.values, counts.tolist(), strict=True):
            for value in (cell,) if single else cell_values(cell, parameters):
                totals[value] = totals.get(value, 0) + count
        kept = [value for value, count in totals.items() if count >= parameters.min_count]
        texts = sorted(value for value in kept if value is not None)  # the same for any row order
        return cls(parameters, values=(*([None] if len(texts) < len(kept) else []), *texts))

    @property
    def is_bag(self) -> bool:
        """Whether a cell has several ids."""
        return self.field.kind == "multi_valued" and self.field.multi_valued == "bag"

    @property
    def size(self) -> int:
        """Number of embedding rows of the field, row 0 included."""
        if self.field.kind == "numeric":
            return 2 + len(self.edges) + (self.missing_id > 0)
        return 1 + len(self.values)

    def ids(self, values: Sequence[str | None]) -> np.ndarray:
        """Local ids of distinct cells; (values,) int32, or for a bag (values, M) padded by -1."""
        if self.field.kind == "numeric":
            numbers = _as_numbers(values, self.field)
            found = 1 + np.searchsorted(np.array(self.edges), numbers, side="right")
            return np.where(np.isnan(numbers), self.missing_id, found).astype(np.int32)
        if self.field.kind == "categorical":
            return np.array([self._ids.get(value, 0) for value in values], dtype=np.int32)
        cells = [[self._ids.get(v, 0) for v in cell_values(c, self.field)] for c in values]
        if not self.is_bag:
            return np.array([cell[0] for cell in cells], dtype=np.int32)
        # members that train rows never had are left out: row 0 would be an untrained vector
        cells = [sorted(i for i in cell if i) or [OUT_OF_VOCABULARY] for cell in cells]
        members = np.full((len(cells), max(map(len, cells), default=1)), -1, dtype=np.int32)
        for row, cell in enumerate(cells):
            members[row, : len(cell)] = cell
        return members

    def as_dict(self) -> dict[str, Any]:
        """JSON values from which ``from_dict`` makes the vocabulary again."""
        return {
            "field": self.field.model_dump(),
            "values": list(self.values),
            "edges": list(self.edges),
            "missing_id": self.missing_id,
        }

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Vocabulary:
        """The vocabulary that ``as_dict`` stored."""
        return cls(
            FieldParameters.model_validate(stored["field"]),
            tuple(stored["values"]),
            tuple(stored["edges"]),
            stored["missing_id"],
        )


def cell_values(cell: str | None, parameters: FieldParameters) -> list[str | None]:
    """The values of one cell: one, or for a bag each member once; [None] when it is missing."""
    if parameters.kind != "multi_valued" or cell is None:
        return [cell]
    parts = [part.strip() for part in cell.split(parameters.separator)]
    parts = list(dict.fromkeys(part for part in parts if part))
    if not parts:
        return [None]
    if parameters.multi_valued == "first":
        return [parts[0]]
    if parameters.multi_valued == "joined":
        return [", ".join(parts)]
    return list(parts)


def cell_text(cell: str | None, parameters: FieldParameters) -> str | None:
    """What the text view says of one cell: its values, joined by a comma; None when missing."""
    if parameters.kind != "multi_valued":
        return cell
    values = cell_values(cell, parameters)
    return None if values[0] is None else ", ".join(str(value) for value in values)


def _as_numbers(values: Sequence[str | None], parameters: FieldParameters) -> np.ndarray:
    numbers = np.full(len(values), np.nan)
    for position, value in enumerate(values):
        if value is None:
            continue
        try:
            numbers[position] = float(value)
        except ValueError:
            numbers[position] = np.inf
        if not np.isfinite(numbers[position]):
            raise ValueError(
                f"column {parameters.column} must hold finite numbers (its kind is numeric), "
                f"got {value!r}"
            )
    return numbers


def _quantile_edges(numbers: np.ndarray, counts: np.ndarray, buckets: int) -> tuple[float, ...]:
    """Inner edges of buckets with about equally many train rows; each edge is a train value.

    The lowest value is no edge, so that no bucket is empty in train.
    """
    if len(numbers) == 0:
        return ()
    order = np.argsort(numbers)
    cumulated = np.cumsum(counts[order])
    targets = cumulated[-1] * np.arange(1, buckets) / buckets
    positions = np.searchsorted(cumulated, targets, side="right")
    edges = np.unique(numbers[order][np.minimum(positions, len(numbers) - 1)])
    return tuple(float(edge) for edge in edges if edge > numbers.min())
