"""Tables of any engine as Arrow record batches: the one place that tells the engines apart.

Filters and joins are written for narwhals and run in the engine that the catalog chose. What comes
out is read in batches, so that a table may exceed memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa

from clickprompt.modality.arrays import ROWS_PER_CHUNK

ROWS_PER_SPARK_JOB = 1 << 21  # a job costs a few tenths of a second before its first row


def record_batches(frame: Any, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a narwhals frame.

    Batches of one table may come in any order and size; an engine without a row order promises
    none. Who needs one carries the column ``row``.

    Args:
        frame: narwhals frame, eager or lazy, with ``row``.
        columns: columns in the order that they are wanted.
    """
    frame = frame.select(*columns)
    if isinstance(frame, nw.DataFrame):
        for start in range(0, len(frame), ROWS_PER_CHUNK):
            yield from frame[start : start + ROWS_PER_CHUNK].to_arrow().to_batches()
        return
    native = frame.to_native()
    if frame.implementation is nw.Implementation.POLARS:
        yield from _polars_batches(native)
    elif frame.implementation is nw.Implementation.DUCKDB:
        yield from native.fetch_arrow_reader(ROWS_PER_CHUNK)
    elif frame.implementation is nw.Implementation.IBIS:
        yield from native.to_pyarrow_batches(chunk_size=ROWS_PER_CHUNK)
    elif frame.implementation is nw.Implementation.PYSPARK:
        yield from _spark_batches(frame)
    else:
        yield from frame.collect(backend="pyarrow").to_arrow().to_batches()


def _polars_batches(frame: Any) -> Iterator[pa.RecordBatch]:
    import polars as pl

    # texts as they are, without a copy; a category of such texts is nothing that Arrow can look up
    categories = any(
        isinstance(of, pl.Categorical | pl.Enum) for of in frame.collect_schema().dtypes()
    )
    level = pl.CompatLevel.oldest() if categories else pl.CompatLevel.newest()
    for part in frame.collect_batches(chunk_size=ROWS_PER_CHUNK, engine="streaming"):
        yield from part.to_arrow(compat_level=level).to_batches()


def in_engine(table: pa.Table, frame: Any) -> Any:
    """A small table as a lazy frame of the engine of ``frame``, to be joined to it."""
    session = None
    if frame.implementation is nw.Implementation.PYSPARK:
        session = frame.to_native().sparkSession
    return nw.from_native(table, eager_only=True).lazy(frame.implementation, session=session)


def _spark_batches(frame: Any) -> Iterator[pa.RecordBatch]:
    """One job for each range of row numbers: Spark hands over whole results only."""
    if "row" not in frame.collect_schema().names():
        yield from frame.to_native().toArrow().to_batches()
        return
    ends = frame.select(low=nw.col("row").min(), high=nw.col("row").max()).collect(
        backend="pyarrow"
    )
    low, high = ends["low"][0], ends["high"][0]
    if low is None:
        return
    for start in range(low, high + 1, ROWS_PER_SPARK_JOB):
        inside = (nw.col("row") >= start) & (nw.col("row") < start + ROWS_PER_SPARK_JOB)
        yield from frame.filter(inside).to_native().toArrow().to_batches()


def column_array(batch: pa.RecordBatch, name: str) -> np.ndarray:
    """A column of numbers (n,) without missing values."""
    return np.asarray(batch[name].to_numpy(zero_copy_only=False))
