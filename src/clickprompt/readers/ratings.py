"""Ratings, and the users and items that they are joined to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.text_table import TextTable, require_usable, to_numpy
from clickprompt.readers.report import ReadReport


def unique_ids(table: TextTable, column: str, report: ReadReport) -> TextTable:
    """Keep the first row of every id; rows without an id are left out too."""
    table = table.without(to_numpy(pc.equal(table[column], "")), f"empty_{column}", report)
    repeated = pd.Index(table[column].to_pandas()).duplicated()
    return table.without(repeated, f"repeated_{column}", report)


def join_ratings(
    ratings: TextTable,
    items: Mapping[str, pa.Array],
    users: Mapping[str, pa.Array] | None,
    *,
    item: str,
    scale: tuple[float, float],
    report: ReadReport,
    keep_unknown_items: bool = False,
    keep_unknown_users: bool = False,
) -> pd.DataFrame:
    """Check the ratings and put the columns of their users and items beside them.

    Args:
        ratings: ``user_id``, ``item``, ``rating`` and, where there is one, ``timestamp`` as text.
        items: ``item`` (unique) and feature columns.
        users: ``user_id`` (unique) and feature columns; None where no user file exists.
        item: column that names the item.
        scale: lowest and highest rating.
        report: gets every dropped row, and the number of rows kept.
        keep_unknown_items: keep ratings whose item is not in ``items``, with null features, and
            report them as repaired; else they are dropped.
        keep_unknown_users: the same for users.

    Returns:
        The interactions table: ``row``, the users' columns, ``item`` and the items' columns,
        ``rating``, ``timestamp``, in the order of the ratings file.

    Raises:
        ValueError: less than half of the ratings can be used.
    """
    table = ratings
    for column in ("user_id", item):
        table = table.without(to_numpy(pc.equal(table[column], "")), f"empty_{column}", report)
    rating = numbers(table["rating"])
    table = table.without(~np.isfinite(rating), "rating_is_not_a_number", report)
    rating = rating[np.isfinite(rating)]
    outside = (rating < scale[0]) | (rating > scale[1])
    table = table.without(outside, "rating_is_not_on_the_scale", report)
    timed = "timestamp" in table.columns
    if timed:
        time = table["timestamp"]
        whole = to_numpy(
            pc.and_(pc.ascii_is_decimal(time), pc.less_equal(pc.utf8_length(time), 18))
        )
        table = table.without(~whole, "timestamp_is_not_a_whole_number", report)
    features = [("user_id", users, keep_unknown_users), (item, items, keep_unknown_items)]
    for key, others, keep in features:
        if others is not None:
            unknown = ~to_numpy(pc.is_in(table[key], others[key].cast(table[key].type)))
            if keep:
                table.note(unknown, f"{key}_is_not_in_its_file", report)
            else:
                table = table.without(unknown, f"{key}_is_not_in_its_file", report)
    duplicated, again = _duplicates(table, item)
    if not timed:  # a pair may be rated anew later; without a time that cannot be told
        table.note(again & ~duplicated, "second_rating_of_a_pair", report)
    table = table.without(duplicated, "duplicate_row", report)
    require_usable(table, len(ratings), report)

    arrays = {"row": pa.array(np.arange(len(table), dtype=np.int64))}
    for key, others, _ in features:
        arrays[key] = table[key]
        if others is not None:
            at = pc.index_in(table[key], others[key].cast(table[key].type))
            arrays |= {name: array.take(at) for name, array in others.items() if name != key}
    arrays["rating"] = pa.array(numbers(table["rating"]))
    if timed:
        arrays["timestamp"] = table["timestamp"].cast(pa.int64())
    report.rows_kept = len(table)
    return pa.table(arrays).to_pandas(split_blocks=True, self_destruct=True)


def numbers(array: pa.Array) -> np.ndarray:
    """Text (rows,) as float64, NaN where it is no number."""
    try:
        return to_numpy(pc.cast(array, pa.float64()))
    except pa.ArrowInvalid:
        return np.asarray(pd.to_numeric(pd.Series(array.to_pylist()), errors="coerce"), float)


def _duplicates(table: TextTable, item: str) -> tuple[np.ndarray, np.ndarray]:
    """Which rows (rows,) bool repeat an earlier one in all columns, and which its pair of ids."""
    codes = [pc.dictionary_encode(table[column]) for column in ("user_id", item)]
    user, thing = (to_numpy(code.indices).astype(np.int64) for code in codes)
    pair = pd.Series(user * len(codes[1].dictionary) + thing)
    duplicated, again = np.zeros((2, len(table)), dtype=bool)
    pairs = np.flatnonzero(pair.duplicated(keep=False).to_numpy())
    if len(pairs):
        rows = pa.table({name: a.take(pa.array(pairs)) for name, a in table.columns.items()})
        duplicated[pairs] = rows.to_pandas().duplicated().to_numpy()
        again[pairs] = pair.iloc[pairs].duplicated().to_numpy()
    return duplicated, again
