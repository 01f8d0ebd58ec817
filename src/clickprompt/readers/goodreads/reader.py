"""Goodreads (UCSD Book Graph): the whole set and its genre subsets, JSON and CSV form.

- JSON form: ``goodreads_interactions_dedup.json``;
- CSV form: ``goodreads_interactions.csv``, whose ids are renumbered, and ``user_id_map.csv`` and
  ``book_id_map.csv``, which turn them back;
- both: ``goodreads_books.json``, ``goodreads_book_authors.json``, ``goodreads_book_works.json``,
  optionally ``goodreads_book_genres_initial.json`` (see ``goodreads_genres``).

Subsets have the genre in the names, ``goodreads_interactions_poetry.json`` and
``goodreads_books_poetry.json``. Columns of the interactions table: ``row``, ``user_id``,
``book_id``, those of ``goodreads_books.BOOK_COLUMNS``, ``rating`` (1 to 5), ``is_read`` (1, 0) and,
in the JSON form, ``timestamp``: seconds of ``date_added``, when the book was put on a shelf
(``read_at`` and ``started_at`` are often empty). The CSV form has no times.

A rating of 0 means that there is none; such rows, more than half, are dropped. Rows whose book is
not in the books file are kept with missing features. The interactions are read as a stream, and
books are held in memory. Pairs of user and book are not compared, for the hundreds of millions of
them would have to be held; the publishers left one row a pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.ids import IdIndex
from clickprompt.readers.formats.json_lines import read_columns
from clickprompt.readers.formats.line_blocks import ROWS_PER_BATCH
from clickprompt.readers.formats.records import encodable, finite_number, wrong_id
from clickprompt.readers.formats.text_table import TextTable, read_table, stream_table, to_numpy
from clickprompt.readers.goodreads.books import BOOK_COLUMNS, Books, read_books
from clickprompt.readers.goodreads.times import seconds
from clickprompt.readers.ratings import numbers, unique_ids
from clickprompt.readers.report import ReadReport

SCALE = (1.0, 5.0)
NO_RATING = "no_rating"
PUBLISHED_AT = "https://mengtingwan.github.io/data/goodreads.html"
INTERACTIONS, BOOKS = "goodreads_interactions", "goodreads_books"
AUTHORS, WORKS = "goodreads_book_authors.json", "goodreads_book_works.json"
GENRES = "goodreads_book_genres_initial.json"
ID_MAPS = {"user_id": "user_id_map.csv", "book_id": "book_id_map.csv"}

_TEXT = pa.large_string()
_JSON_KEYS = pa.schema(
    {
        "user_id": _TEXT,
        "book_id": _TEXT,
        "rating": pa.float64(),
        "is_read": pa.bool_(),
        "date_added": _TEXT,
    }
)


@dataclass(frozen=True)
class _Names:
    """Names of the given files, without ``.gz``."""

    interactions: str
    books: str
    genres: str | None

    @property
    def is_csv(self) -> bool:
        return self.interactions.endswith(".csv")


def read_goodreads(files: Mapping[str, Path], report: ReadReport) -> pa.RecordBatchReader:
    """Read the features of books, then the interactions as a stream.

    Args:
        files: file name -> path; see the module.
        report: gets all events; it is complete when the stream has ended.

    Returns:
        Record batches of at most ``ROWS_PER_BATCH`` rows, in the order of the interactions file.

    Raises:
        ValueError: a file is missing (which one, and where it is published) or unknown, less than
            half of the rows of a file can be used, the books file describes none of the first rated
            books, no row has a rating, or what makes a file unusable as a whole.
    """
    names = _names(files)
    books = read_books(
        files, report, books=names.books, authors=AUTHORS, works=WORKS, genres=names.genres
    )
    rows = _csv_rows(files, names, report) if names.is_csv else _json_rows(files, names, report)
    fields = {
        "row": pa.int64(),
        **dict.fromkeys(("user_id", "book_id", *BOOK_COLUMNS), _TEXT),
        "rating": pa.float64(),
        "is_read": pa.float64(),
    }
    if not names.is_csv:
        fields["timestamp"] = pa.int64()
    schema = pa.schema(fields)
    batches = _batches(rows, names.interactions, books, schema, report)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _names(files: Mapping[str, Path]) -> _Names:
    given = sorted({name.removesuffix(".gz") for name in files})
    found = ", ".join(given) or "none"

    def one(start: str, ends: tuple[str, ...], usual: str) -> str:
        names = [name for name in given if name.startswith(start) and name.endswith(ends)]
        if len(names) != 1:
            rule = f"hold {usual}" if not names else f"hold one of {', '.join(names)}"
            raise ValueError(f"files must {rule}, got {found}; published at {PUBLISHED_AT}")
        return names[0]

    interactions = one(
        INTERACTIONS, (".json", ".csv"), f"{INTERACTIONS}_dedup.json or {INTERACTIONS}.csv"
    )
    names = _Names(
        interactions, one(BOOKS, (".json",), f"{BOOKS}.json"), GENRES if GENRES in given else None
    )
    needed = [AUTHORS, WORKS, *(ID_MAPS.values() if names.is_csv else ())]
    for name in needed:
        one(name, ("",), name)
    known = {names.interactions, names.books, GENRES, *needed}
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"files must be {', '.join(sorted(known))} for this form, got {', '.join(unknown)} too"
        )
    return names


# --- the two forms: tables of rated rows ---------------------------------------------------------


def _json_rows(files: Mapping[str, Path], names: _Names, report: ReadReport) -> Iterator[TextTable]:
    name = names.interactions

    def cells(number: int, record: dict[str, Any]) -> tuple[Any, ...] | str:
        user, book, added = (record.get(key) for key in ("user_id", "book_id", "date_added"))
        rating, is_read = finite_number(record.get("rating")), record.get("is_read")
        if wrong := wrong_id(user):
            return wrong.format("user_id")
        if wrong := wrong_id(book):
            return wrong.format("book_id")
        if rating is None:
            return "rating_is_not_a_number"
        if isinstance(is_read, int | float) and is_read in (0, 1):
            is_read = bool(is_read)
        elif is_read is not None:
            report.add("repaired", "is_read_is_no_flag", name, 1, [(number, ascii(is_read))])
            is_read = None
        if not isinstance(added, str) or not encodable(added):
            added = None
        return user, book, rating, is_read, added

    blocks = read_columns(files, name, _JSON_KEYS, cells, kind="dropped", report=report)
    for table in _gathered(blocks):
        rated = _rated(_with_ids(table, report), report)
        time, is_time = seconds(rated["date_added"])
        rated = rated.replaced(
            is_read=rated["is_read"].cast(pa.float64()), date_added=pa.array(time)
        )
        rated = rated.renamed("user_id", "book_id", "rating", "is_read", "timestamp")
        yield rated.without(~is_time, "date_added_is_no_time", report)


def _csv_rows(files: Mapping[str, Path], names: _Names, report: ReadReport) -> Iterator[TextTable]:
    indices, ids = {}, {}
    for column, name in ID_MAPS.items():
        keys = (f"{column}_csv", column)
        table = read_table(
            files,
            name,
            keys,
            separator=",",
            encoding="utf-8",
            header=True,
            kind="skipped",
            report=report,
        )
        table = table.without(to_numpy(pc.equal(table[column], "")), f"empty_{column}", report)
        table = unique_ids(table, keys[0], report)
        indices[column], ids[column] = IdIndex(table[keys[0]]), table[column]

    columns = ("user_id", "book_id", "is_read", "rating")  # in the order of the file
    blocks = stream_table(
        files, names.interactions, columns, separator=",", kind="dropped", report=report
    )
    for table in _gathered(blocks):
        table = _with_ids(table, report)
        is_number = np.isfinite(numbers(table["rating"]))  # the report shows the text that is none
        table = table.without(~is_number, "rating_is_not_a_number", report)
        table = _rated(table.replaced(rating=pa.array(numbers(table["rating"]))), report)
        for column, index in indices.items():
            at = index.positions(table[column])
            table = table.without(at < 0, f"{column}_is_not_in_its_map", report)
            published = ids[column].take(pa.array(at[at >= 0]))
            table = table.replaced(**{column: published})
        flag = pc.index_in(table["is_read"], pa.array(["0", "1"], table["is_read"].type))
        wrong = to_numpy(pc.and_(pc.is_null(flag), pc.not_equal(table["is_read"], "")))
        table.note(wrong, "is_read_is_no_flag", report)
        yield table.replaced(is_read=flag.cast(pa.float64()))


def _gathered(blocks: Iterator[TextTable]) -> Iterator[TextTable]:
    """The rows of the blocks in tables of at most ``ROWS_PER_BATCH`` rows, few blocks at a time."""
    waiting: list[TextTable] = []
    rows = 0
    for block in blocks:
        if waiting and rows + len(block) > ROWS_PER_BATCH:
            yield TextTable.stacked(waiting)
            waiting, rows = [], 0
        while len(block) > ROWS_PER_BATCH:
            yield block.part(0, ROWS_PER_BATCH)
            block = block.part(ROWS_PER_BATCH, len(block))
        waiting.append(block)
        rows += len(block)
    if waiting:
        yield TextTable.stacked(waiting)


def _with_ids(table: TextTable, report: ReadReport) -> TextTable:
    for column in ("user_id", "book_id"):
        empty = to_numpy(pc.equal(pc.fill_null(table[column], ""), ""))
        table = table.without(empty, f"empty_{column}", report)
    return table


def _rated(table: TextTable, report: ReadReport) -> TextTable:
    """Rows with a rating; 0 means that there is none."""
    rating = to_numpy(table["rating"])  # null becomes NaN
    table = table.without(~np.isfinite(rating), "rating_is_not_a_number", report)
    rating = rating[np.isfinite(rating)]
    outside = (rating != 0) & ((rating < SCALE[0]) | (rating > SCALE[1]))
    table = table.without(outside, "rating_is_not_on_the_scale", report)
    return table.without(rating[~outside] == 0, NO_RATING, report)


# --- rows and books -> interactions --------------------------------------------------------------


def _batches(
    tables: Iterator[TextTable], name: str, books: Books, schema: pa.Schema, report: ReadReport
) -> Iterator[pa.RecordBatch]:
    for table in tables:
        _require_usable(table, report)
        if len(table) == 0:
            continue
        at = books.index.positions(table["book_id"])
        unknown = at < 0
        if report.rows_kept == 0 and unknown.all():
            raise ValueError(
                f"the books file must describe the books of {table.file}, got none of its first "
                f"{len(table)} rated rows among them"
            )
        table.note(unknown, "book_id_is_not_in_its_file", report)
        first = report.rows_kept
        report.rows_kept += len(table)
        columns = {
            "row": pa.array(np.arange(first, report.rows_kept, dtype=np.int64)),
            **table.columns,
            **books.take(at),
        }
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)
    if report.rows_kept == 0:
        raise ValueError(
            f"{name} must hold rows with a rating, got none in {report.rows_read} rows "
            f"({_counts(report)})"
        )


def _require_usable(table: TextTable, report: ReadReport) -> None:
    """Stop when more than half of the rows so far could not be used, for another reason than 0."""
    dropped = report.reasons("dropped")
    unusable = sum(dropped.values()) - dropped.get(NO_RATING, 0)
    if 2 * unusable > report.rows_read:
        shown = next(e for e in report.examples() if e["reason"] in dropped.keys() - {NO_RATING})
        raise ValueError(
            f"{table.file} must be in its published format, got {unusable} of {report.rows_read} "
            f"rows that cannot be used ({_counts(report)}); line {shown['line']}: {shown['text']!r}"
        )


def _counts(report: ReadReport) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in report.reasons("dropped").items())
