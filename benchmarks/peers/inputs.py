"""The interactions table in the formats that the other libraries read; none of this is timed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from benchmarks.scale_data import FIELDS

SPLITS = ("train", "valid", "test")
USER_FIELDS = ("user_id",)


def write_recbole(table: pa.Table, folder: Path, name: str, *, item_file: bool) -> None:
    """Write RecBole's atomic files: ``<name>.inter`` and, if asked for, ``<name>.item``.

    Args:
        table: interactions table.
        folder: where to write.
        name: name of the data set.
        item_file: whether the features of a book stand once in an item file, or in every row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    features = [column for column in FIELDS if column not in USER_FIELDS]
    in_rows = ["user_id", "book_id"] if item_file else [*USER_FIELDS, *features]
    _write_atomic(table.select([*in_rows, "rating", "timestamp"]), folder / f"{name}.inter")
    if item_file:
        books = table.select(features).group_by("book_id", use_threads=False)
        firsts = books.aggregate([(c, "first") for c in features if c != "book_id"])
        names = [column.removesuffix("_first") for column in firsts.column_names]
        _write_atomic(firsts.rename_columns(names).select(features), folder / f"{name}.item")


def _write_atomic(table: pa.Table, path: Path) -> None:
    kinds = {"genres": "token_seq", "rating": "float", "timestamp": "float"}
    header = "\t".join(f"{name}:{kinds.get(name, 'token')}" for name in table.column_names)
    # "none" fails where a value would need quotes, which the header's reader does not understand
    options = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with path.open("wb") as file:
        file.write(f"{header}\n".encode())
        pa_csv.write_csv(table, file, options)


def write_fuxictr(table: pa.Table, folder: Path) -> None:
    """Write train, valid and test as Parquet, with the ``label`` that FuxiCTR asks for."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(SPLITS, split_by_time(table), strict=True):
        wanted = part.select(["label", *FIELDS])
        pq.write_table(wanted, folder / f"{name}.parquet", compression="zstd")


def split_by_time(table: pa.Table) -> list[pa.Table]:
    """Rows in order of time with ``label`` (1 from four stars on), cut 8:1:1."""
    order = np.argsort(table["timestamp"].to_numpy(), kind="stable")
    ordered = table.take(pa.array(order))
    label = pc.cast(pc.greater_equal(ordered["rating"], 4.0), pa.float64())
    labelled = ordered.append_column("label", label)
    cuts = [0, len(order) * 8 // 10, len(order) * 9 // 10, len(order)]
    return [labelled.slice(a, b - a) for a, b in pairwise(cuts)]


def read(path: Path) -> pa.Table:
    """The interactions table in memory."""
    return pq.read_table(path)
