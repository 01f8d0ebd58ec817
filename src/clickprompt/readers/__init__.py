"""Published raw files -> one interactions table.

A reader takes the files as they are published, plain or gzipped. It loses nothing
silently: rows it cannot use are counted and listed in the report. Its interactions table has
one row a usable rating:

- ``row`` int64, 0, 1, ...: the row's number, by which every later table is ordered;
- ids and features as text, null where missing (never the text "nan");
- ``rating`` float64 and, where there is one, ``timestamp`` int64.

The reader ``table`` makes the same of the user's own files, with the columns that ``data`` names.

The report is a plain dict: ``rows_read``, ``rows_kept``, ``dropped``, ``repaired`` and ``skipped``
(reason -> count), ``examples`` (file, line, reason, text; at most 100 a reason) and ``files``
(name -> sha256 of the unpacked bytes). ``rows_read == rows_kept + sum(dropped.values())``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from clickprompt.parameters import DataParameters
from clickprompt.readers import bookcrossing, movielens
from clickprompt.readers.amazon_toys import read_amazon_toys
from clickprompt.readers.bookcrossing import read_bookcrossing
from clickprompt.readers.formats.line_blocks import ROWS_PER_BATCH
from clickprompt.readers.goodreads import read_goodreads
from clickprompt.readers.movielens import (
    read_movielens_1m,
    read_movielens_100k,
    read_movielens_small,
)
from clickprompt.readers.report import ReadReport
from clickprompt.readers.table import read_table_files


@dataclass(frozen=True)
class Reader:
    """A registered reader: its function, the files it needs, its options with their defaults.

    Where ``takes_data`` is set, the function gets the data parameters too, since they say which
    columns are there and what they hold; it reads whatever files are given.

    The function returns the whole table or, where the data may exceed memory, a stream of record
    batches; then the report is complete, ``rows_kept`` included, when the stream has ended.
    """

    read: Callable[..., pd.DataFrame | pa.RecordBatchReader]
    files: tuple[str, ...]
    options: Mapping[str, bool | int | float | str]
    takes_data: bool = False


READERS: Mapping[str, Reader] = {
    "movielens_small": Reader(
        read_movielens_small, ("ratings.csv", "movies.csv"), movielens.OPTIONS
    ),
    "movielens_1m": Reader(
        read_movielens_1m, ("ratings.dat", "users.dat", "movies.dat"), movielens.OPTIONS
    ),
    "movielens_100k": Reader(
        read_movielens_100k, ("u.data", "u.user", "u.item"), movielens.OPTIONS
    ),
    "bookcrossing": Reader(
        read_bookcrossing,
        ("BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv"),
        bookcrossing.OPTIONS,
    ),
    # names of the 2014 release; those of the others serve too
    "amazon_toys": Reader(
        read_amazon_toys, ("reviews_Toys_and_Games.json", "meta_Toys_and_Games.json"), {}
    ),
    # names of the whole set's JSON form; those of the CSV form and of the subsets serve too, and
    # without the last file genres are taken from shelves
    "goodreads": Reader(
        read_goodreads,
        (
            "goodreads_interactions_dedup.json",
            "goodreads_books.json",
            "goodreads_book_authors.json",
            "goodreads_book_works.json",
            "goodreads_book_genres_initial.json",
        ),
        {},
    ),
    "table": Reader(read_table_files, (), {}, takes_data=True),
}


class InteractionStream:
    """The interactions table as record batches, to be read once, and the report on them.

    - ``schema``: Arrow schema of the batches.
    """

    def __init__(self, batches: pa.RecordBatchReader, report: ReadReport) -> None:
        self.schema: pa.Schema = batches.schema
        self._batches = batches
        self._report = report
        self._ended = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """Yield the batches; the table in memory is never more than a few of them."""
        yield from self._batches
        self._ended = True

    @property
    def report(self) -> dict[str, Any]:
        """The report, once all batches were read.

        Raises:
            RuntimeError: there are batches left.
        """
        if not self._ended:
            raise RuntimeError("the report is complete after the last batch, got an unread stream")
        return self._report.as_dict()


@dataclass(frozen=True)
class ReadResult:
    """The whole interactions table and the report on how it came about."""

    interactions: pd.DataFrame
    report: dict[str, Any]


def stream_interactions(files: Mapping[str, Path], data: DataParameters) -> InteractionStream:
    """Read the published files with the reader that ``data.reader`` names, batch by batch.

    Args:
        files: file name -> path.
        data: ``reader`` and ``options``; the reader ``table`` looks at all of it.

    Raises:
        ValueError: unknown reader, option or column of a table (with the nearest known one), or a
            file that is not given, empty, truncated, in another encoding or format. Some of these
            come with a later batch.
    """
    reader = READERS.get(data.reader)
    if reader is None:
        raise ValueError(_unknown("data.reader", data.reader, READERS))
    options = dict(reader.options)
    for name, value in data.options.items():
        if name not in options:
            if not options:
                rule = f"must be empty, since the reader {data.reader} has no options"
                raise ValueError(f"data.options {rule}, got {name!r}")
            raise ValueError(_unknown("data.options", name, options))
        if type(value) is not type(options[name]):
            kind = type(options[name]).__name__
            raise ValueError(f"data.options.{name} must be a {kind}, got {value!r}")
        options[name] = value
    report = ReadReport()
    given = {"data": data} if reader.takes_data else {}
    read = reader.read(files, report, **given, **options)
    if isinstance(read, pd.DataFrame):
        read = pa.Table.from_pandas(read, preserve_index=False).to_reader(ROWS_PER_BATCH)
    return InteractionStream(read, report)


def read_interactions(files: Mapping[str, Path], data: DataParameters) -> ReadResult:
    """Read the published files as one pandas table; see ``stream_interactions``."""
    stream = stream_interactions(files, data)
    table = pa.Table.from_batches(stream, stream.schema)
    return ReadResult(table.to_pandas(split_blocks=True, self_destruct=True), stream.report)


def _unknown(name: str, value: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(value, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name} must be one of {', '.join(known)}, got {value!r}{hint}"


__all__ = [
    "READERS",
    "ROWS_PER_BATCH",
    "InteractionStream",
    "ReadResult",
    "Reader",
    "read_interactions",
    "stream_interactions",
]
