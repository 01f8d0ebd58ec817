"""The distinct values of a column that is read in batches, as numbers and as text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ColumnEncoder:
    """Numbers the distinct values of a column in the order in which they come.

    - ``values``: the values so far; a missing one (null or NaN) is None.
    """

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._codes: dict[Any, int] = {}

    def encode(self, column: pa.Array) -> np.ndarray:
        """Codes (n,) int32 of the values of a batch, into ``values``."""
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)  # a category may be unused or null
        elif column.type in (pa.string_view(), pa.binary_view()):
            column = column.cast(pa.large_string())
        encoded = pc.dictionary_encode(column)
        indices = encoded.indices
        if indices.null_count:
            indices = pc.fill_null(indices, len(encoded.dictionary))
        # one number more, for null: it is only used, and only given a code, where there is one
        known = self._codes.get
        found = [known(value, -1) for value in encoded.dictionary.to_pylist()]
        if encoded.null_count:
            found.append(known(None, -1))
        codes = np.array(found, dtype=np.int32)
        new = np.flatnonzero(codes < 0)
        if len(new):
            values = encoded.dictionary.take(pa.array(new[new < len(encoded.dictionary)]))
            fresh = values.to_pylist()
            if len(fresh) < len(new):
                fresh.append(None)
            for position, value in zip(new.tolist(), fresh, strict=True):
                codes[position] = self._number(value)
        return codes[indices.to_numpy(zero_copy_only=False)]

    def code(self, value: Any) -> int | None:
        """The code of a value, None where it did not come."""
        return self._codes.get(value)

    def _number(self, value: Any) -> int:
        if value != value:
            value = None
        code = self._codes.setdefault(value, len(self.values))
        if code == len(self.values):
            self.values.append(value)
        return code


def as_text(value: Any) -> str | None:
    """A value of a table as the text that it stands for; None where it is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, float):
        return format(value, ".15g")
    return str(value)
