"""The distinct values of a column that is read in batches, as numbers and as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.modality.repeated import value_hashes


class ColumnEncoder:
    """Numbers the distinct values of a column in the order in which they come.

    Values stay in Arrow and are found by a sorted array of their hashes: a table in random order
    has nearly as many distinct values in a batch as rows, and a Python object for each, or a hash
    table made anew for each batch, would be what takes the time.
    """

    def __init__(self) -> None:
        self._known: list[pa.Array] = []
        self._hashes = np.zeros(0, dtype=np.uint64)  # sorted
        self._codes = np.zeros(0, dtype=np.int32)  # of the values with these hashes, None left out
        self._count = 0
        self._missing: int | None = None

    def __len__(self) -> int:
        """Number of values so far, missing included where it came."""
        return self._count + (self._missing is not None)

    @property
    def values(self) -> list[Any]:
        """The values by their codes; a missing one (null or NaN) is None."""
        found = [value for part in self._known for value in part.to_pylist()]
        if self._missing is not None:
            found.insert(self._missing, None)
        return found

    @property
    def texts(self) -> list[str | None]:
        """``values`` as text, see ``as_text``."""
        if all(pa.types.is_large_string(part.type) for part in self._known):
            return self.values
        return [as_text(value) for value in self.values]

    @property
    def missing(self) -> int | None:
        """Code of missing values, None where none came."""
        return self._missing

    def encode(self, column: pa.Array, rows: np.ndarray | None = None) -> np.ndarray:
        """Codes of the values of a batch.

        Args:
            column: the batch.
            rows: its rows (n,) that count, in the order that is wanted; values of others get no
                code. None for all as they stand.

        Returns:
            (n,) int32.
        """
        encoded = pc.dictionary_encode(_plain(column))
        distinct, indices = encoded.dictionary, encoded.indices
        if pa.types.is_string(distinct.type) or pa.types.is_string_view(distinct.type):
            distinct = distinct.cast(pa.large_string())
        no_value = len(distinct)
        if indices.null_count:
            indices = pc.fill_null(indices, no_value)
        index = indices.to_numpy()
        used = None
        if rows is not None:
            index = index.take(rows)
            if len(rows) < len(column):
                used = np.flatnonzero(np.bincount(index, minlength=no_value)[:no_value])
                distinct = distinct.take(pa.array(used))
        codes = self._codes_of(distinct)
        if encoded.null_count and self._missing is None and (index == no_value).any():
            self._missing = self._count
        if self._missing is not None:
            codes += codes >= self._missing
        if used is not None:
            codes, some = np.empty(no_value, np.int32), codes
            codes[used] = some
        if encoded.null_count:
            codes = np.append(codes, np.int32(-1 if self._missing is None else self._missing))
        return codes.take(index)

    def _codes_of(self, distinct: pa.Array) -> np.ndarray:
        """Codes (n,) int32 of different values, as if none were missing; new ones are noted."""
        hashes = value_hashes(distinct)
        order = np.argsort(hashes)
        codes = np.empty(len(distinct), dtype=np.int32)
        codes[order] = self._find(distinct.take(pa.array(order)), hashes[order])
        new = order[codes[order] < 0]
        if len(new):
            codes[new] = np.arange(self._count, self._count + len(new))
            self._count += len(new)
            self._known.append(distinct.take(pa.array(new)))
            places = np.searchsorted(self._hashes, hashes[new])
            self._hashes = np.insert(self._hashes, places, hashes[new])
            self._codes = np.insert(self._codes, places, codes[new])
        return codes

    def _find(self, values: pa.Array, hashes: np.ndarray) -> np.ndarray:
        """Codes (n,) of values, in the order of their hashes (n,); -1 for those that are new."""
        found = np.full(len(values), -1, dtype=np.int32)
        if not self._known:
            return found
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        rows = np.flatnonzero(self._hashes[places] == hashes)
        found[rows] = self._codes[places[rows]]
        known = pa.chunked_array(self._known)
        same = pc.equal(values.take(pa.array(rows)), known.take(pa.array(found[rows])))
        if not pc.all(same, min_count=0).as_py():  # two values of one hash
            found[rows] = pc.fill_null(
                pc.index_in(values.take(pa.array(rows)), value_set=known), -1
            ).to_numpy()
        return found


def _plain(column: pa.Array) -> pa.Array:
    """The column in a type that can be looked up, equal values in one form, NaN as null."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)  # a category may be unused or null
    if pa.types.is_floating(column.type):
        column = pc.add(column, 0.0)  # -0.0 is 0.0
        return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column


def as_text(value: Any) -> str | None:
    """A value of a table as the text that it stands for; None where it is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float):
        return format(value, ".15g")
    return str(value)
