"""Interactions -> the interactions of users and items that have enough of them (k-core)."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from clickprompt.modality.encoder import ColumnEncoder
from clickprompt.modality.engines import in_engine, record_batches
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
    keys = {"user": data.user, "item": data.item}
    columns = [column for column in keys.values() if column is not None]
    require_columns(frame.collect_schema().names(), columns)
    encoders = {column: ColumnEncoder() for column in columns}
    parts: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    for batch in record_batches(frame, columns):
        for column in columns:
            parts[column].append(encoders[column].encode(batch[column]))
    codes = {column: _from_one(parts[column], encoders[column]) for column in columns}
    rows = len(codes[columns[0]])  # a limit above 1 needs a column
    user, item = (
        np.zeros(rows, np.int32) if column is None else codes[column] for column in keys.values()
    )
    kept = _core(user, item, limits.min_user_rows, limits.min_item_rows)
    if len(kept) == 0:
        raise ValueError(
            f"data.filters must leave some rows, got none of {rows} with "
            f"min_user_rows {limits.min_user_rows} and min_item_rows {limits.min_item_rows}"
        )
    left = {"user": _present(user[kept]), "item": _present(item[kept])}
    report = {
        "rows_removed": rows - len(kept),
        "users": None if data.user is None else len(left["user"]),
        "items": None if data.item is None else len(left["item"]),
    }
    if isinstance(frame, nw.DataFrame):
        return nw.maybe_reset_index(frame[kept]).to_native(), report
    # a row is in the core when its user and its item are
    schema = frame.select(*columns).head(0).collect(backend="pyarrow").to_arrow().schema
    for key, limit in (("user", limits.min_user_rows), ("item", limits.min_item_rows)):
        if limit > 1:
            column = str(keys[key])
            known = encoders[column].values
            values = [known[number] for number in left[key] - 1]
            table = pa.table({column: pa.array(values, schema.field(column).type)})
            frame = frame.join(in_engine(table, frame), on=column, how="semi")
    return frame.to_native(), report


def _from_one(parts: list[np.ndarray], encoder: ColumnEncoder) -> np.ndarray:
    """Codes (rows,) from 1 on, 0 where the value is missing."""
    codes = np.concatenate([np.zeros(0, np.int32), *parts]) + 1
    missing = encoder.missing
    if missing is not None:
        codes[codes == missing + 1] = 0
    return codes


def _present(codes: np.ndarray) -> np.ndarray:
    found = np.unique(codes)
    return found[found > 0]


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
