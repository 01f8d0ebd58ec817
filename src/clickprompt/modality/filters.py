"""Interactions -> the interactions of users and items that have enough of them (k-core)."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pyarrow.compute as pc

from clickprompt.modality.samples import require_columns
from clickprompt.parameters import DataParameters


def filter_interactions(interactions: Any, data: DataParameters) -> tuple[Any, dict[str, Any]]:
    """Keep the largest set of rows in which every user and every item has enough rows.

    Users below ``data.filters.min_user_rows`` and items below ``min_item_rows`` are taken out again
    and again until none is left (the k-core). All rows count, whatever their rating: this
    comes before the label rule, as in the published 5-core files. A row without user (item) belongs
    to none, so a limit above 1 takes it out.

    Args:
        interactions: pandas or Polars frame, or a lazy frame or relation that narwhals reads, with
            ``row`` and the user's and the item's column.
        data: filters, user and item.

    Returns:
        A frame of the same engine with the same columns, and a report: ``rows_removed``, and
        ``users`` and ``items`` that are left (None where both limits are 1, the default: then the
        table is not looked at).

    Raises:
        ValueError: a column is not there, or no row is left.
    """
    limits = data.filters
    if limits.min_user_rows == limits.min_item_rows == 1:
        return interactions, {"rows_removed": 0, "users": None, "items": None}
    frame: Any = nw.from_native(interactions)
    require_columns(frame.collect_schema().names(), [data.user, data.item])
    keys = frame.select("row", user=nw.col(data.user), item=nw.col(data.item))
    key_table = keys.collect() if isinstance(keys, nw.LazyFrame) else keys
    user, item = _codes(key_table["user"]), _codes(key_table["item"])
    kept = _core(user, item, limits.min_user_rows, limits.min_item_rows)
    if len(kept) == 0:
        raise ValueError(
            f"data.filters must leave some rows, got none of {len(user)} with "
            f"min_user_rows {limits.min_user_rows} and min_item_rows {limits.min_item_rows}"
        )
    report = {
        "rows_removed": len(user) - len(kept),
        "users": len(np.unique(user[kept][user[kept] > 0])),
        "items": len(np.unique(item[kept][item[kept] > 0])),
    }
    if isinstance(frame, nw.LazyFrame):
        # a lazy frame has no row order to rely on: rows are found by their number
        rows = key_table.select("row")[kept].lazy(frame.implementation)
        return frame.join(rows, on="row", how="semi").to_native(), report
    return nw.maybe_reset_index(frame[kept]).to_native(), report


def _codes(column: nw.Series) -> np.ndarray:
    """Integers (rows,) that are equal where the values are; 0 for missing ones."""
    indices = pc.dictionary_encode(column.to_arrow()).indices
    return pc.add(pc.fill_null(indices, -1), 1).to_numpy(zero_copy_only=False)


def _core(user: np.ndarray, item: np.ndarray, min_user: int, min_item: int) -> np.ndarray:
    """Positions of the rows of the core, in order."""
    kept = np.arange(len(user))
    while True:
        enough = _frequent(user[kept], min_user) & _frequent(item[kept], min_item)
        if enough.all():
            return kept
        kept = kept[enough]


def _frequent(codes: np.ndarray, minimum: int) -> np.ndarray:
    if minimum == 1:
        return np.ones(len(codes), dtype=bool)
    counts = np.bincount(codes, minlength=1)
    counts[0] = 0  # missing
    return counts[codes] >= minimum
