"""Is the result of another library right? Counts and samples against the table, by Arrow alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.peers.inputs import split_by_time
from benchmarks.scale_data import FIELDS

OUT_OF_VOCABULARY = "__OOV__"  # FuxiCTR's, for values that are missing or unseen in train


def problems(table: pa.Table, facts: dict[str, Any], *, vocabulary_of: str) -> list[str]:
    """What is wrong with a library's facts; an empty list if nothing is.

    Args:
        table: interactions table.
        facts: ``split_rows``, ``positives`` (train, valid, test), ``vocabulary`` (column -> number
            of values), ``multi_valued`` columns, and ``samples``: rows turned back into text.
        vocabulary_of: ``train`` or ``all``: the rows that the library takes its values from.
    """
    splits = split_by_time(table)
    found: list[str] = []

    def compare(what: str, expected: Any, got: Any) -> None:
        if expected != got:
            found.append(f"{what} must be {expected}, got {got}")

    compare("split_rows", [len(part) for part in splits], facts["split_rows"])
    # RecBole keeps the time in float32: ties at the cuts may fall on the other side
    positives = sum(int(pc.sum(part["label"]).as_py()) for part in splits)
    compare("positives", positives, sum(facts["positives"]))
    source = splits[0] if vocabulary_of == "train" else table
    values = {name: _values(source[name], name in facts["multi_valued"]) for name in FIELDS}
    sizes = {name: len(members) for name, members in values.items()}
    compare("vocabulary", sizes, facts["vocabulary"])
    users, books = table["user_id"].to_numpy(), table["book_id"].to_numpy()
    for sample in facts["samples"]:
        rows = np.flatnonzero((users == sample["user_id"]) & (books == sample["book_id"]))
        candidates = table.take(pa.array(rows)).to_pylist()
        if not any(_same(sample, row, values) for row in candidates):
            found.append(f"samples must be rows of the table, got {sample}")
    return found


def _values(column: pa.ChunkedArray, multi_valued: bool) -> set[str]:
    distinct = pc.unique(column).drop_null()
    if multi_valued:
        distinct = pc.unique(pc.list_flatten(pc.split_pattern(distinct, "|")))
    return set(distinct.to_pylist())


def _same(sample: dict[str, Any], row: dict[str, Any], values: dict[str, set[str]]) -> bool:
    if sample["label"] != (row["rating"] >= 4):
        return False
    return all(
        sample[name] == row[name]
        or (sample[name] == OUT_OF_VOCABULARY and row[name] not in values[name])
        for name in FIELDS
    )
