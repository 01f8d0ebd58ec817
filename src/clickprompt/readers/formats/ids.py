"""Ids as text -> their positions in a list of ids, looked up batch by batch."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.text_table import to_numpy

MOST_DIGITS = 18  # of a whole number that fits into int64 whatever its digits


class IdIndex:
    """Where each of a list of ids stands; the hash tables are built once.

    Ids that are whole numbers, written as such, are kept as int64, some 20 bytes an id instead of
    over 100 as text. All others, "007" among them, are kept as text, so nothing is taken for equal
    that is not.

    Args:
        ids: text (n,), each once, none null.
    """

    def __init__(self, ids: pa.Array) -> None:
        whole = _whole(ids)
        self._places = np.flatnonzero(whole)
        self._numbers = pd.Index(_as_numbers(ids, whole))
        others = np.flatnonzero(~whole)
        self._others = dict(zip(ids.take(pa.array(others)).to_pylist(), others, strict=True))

    def positions(self, ids: pa.Array) -> np.ndarray:
        """Positions (m,) int64 of the ids (m,) in the list; -1 for those not in it and for null."""
        found = np.full(len(ids), -1, dtype=np.int64)
        whole = _whole(ids)
        if len(self._places):
            at = self._numbers.get_indexer(pd.Index(_as_numbers(ids, whole)))
            found[whole] = np.where(at >= 0, self._places[at], -1)
        if not self._others:
            return found
        for row in np.flatnonzero(~whole):
            found[row] = self._others.get(ids[int(row)].as_py(), -1)
        return found


def _whole(ids: pa.Array) -> np.ndarray:
    """Which ids (n,) bool are written as a whole number is, without leading zeros."""
    digits = pc.and_(pc.ascii_is_decimal(ids), pc.less_equal(pc.binary_length(ids), MOST_DIGITS))
    zero = pc.and_(pc.starts_with(ids, "0"), pc.greater(pc.binary_length(ids), 1))
    return to_numpy(pc.fill_null(pc.and_not(digits, zero), False))


def _as_numbers(ids: pa.Array, whole: np.ndarray) -> np.ndarray:
    return to_numpy(ids.filter(pa.array(whole)).cast(pa.int64()))
