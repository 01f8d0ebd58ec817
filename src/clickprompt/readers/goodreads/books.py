"""Books of Goodreads with their authors, works and genres, held compactly for millions of rows.

All values are published as text, "" where missing. A value that is no such thing (a year that is no
year) is missing too, and reported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.ids import IdIndex
from clickprompt.readers.formats.json_lines import read_records
from clickprompt.readers.formats.line_blocks import example
from clickprompt.readers.formats.records import collect, joined_surrogates, wrong_id
from clickprompt.readers.formats.text_table import TextTable, require_usable
from clickprompt.readers.goodreads.genres import genres_of_shelves, published_genres
from clickprompt.readers.ratings import unique_ids
from clickprompt.readers.report import ReadReport

# columns of the interactions table that belong to the book, in the order of the fields
BOOK_COLUMNS = (
    "book_title",
    "genre",
    "average_rating",
    "text_reviews_count",
    "author_id",
    "author_name",
    "num_pages",
    "is_ebook",
    "format",
    "publisher",
    "publication_year",
    "work_id",
    "media_type",
)

_TEXT = pa.large_string()
_CODED = pa.dictionary(pa.int32(), _TEXT)
_RATING = re.compile(r"[0-4](\.\d+)?|5(\.0+)?")
_COUNT = re.compile(r"\d{1,9}")
_YEAR = re.compile(r"[1-9]\d{3}")


class Coded(NamedTuple):
    """A column (books,) of few values: row i has ``values[codes[i]]``, null where either is."""

    values: pa.Array
    codes: pa.Array

    def take(self, rows: pa.Array) -> pa.Array:
        """The column at ``rows`` (n,), null where a row is."""
        return self.values.take(self.codes.take(rows))


@dataclass(frozen=True)
class Books:
    """Features by book.

    - ``index``: id of a book -> its row.
    - ``columns``: one for each of ``BOOK_COLUMNS``.
    """

    index: IdIndex
    columns: Mapping[str, Coded]

    def take(self, rows: np.ndarray) -> dict[str, pa.Array]:
        """Columns (n,) of text for rows (n,) int64, null where a row is -1."""
        at = pa.array(rows, mask=rows < 0)
        return {name: column.take(at) for name, column in self.columns.items()}


def read_books(
    files: Mapping[str, Path],
    report: ReadReport,
    *,
    books: str,
    authors: str,
    works: str,
    genres: str | None,
) -> Books:
    """Read the files that say something about books.

    Args:
        files: file name -> path.
        report: gets all events.
        books: name of the file of books; ``authors`` and ``works`` likewise.
        genres: name of the genre file; None takes the genres from the shelves.

    Raises:
        ValueError: less than half of the rows of a file can be used, or what makes a file
            unusable as a whole.
    """
    table = _read_books(files, books, report, with_shelves=genres is None)
    columns = {
        name: Coded(column.dictionary, column.indices)
        for name, column in table.columns.items()
        if name != "book_id"
    }
    names = _read_texts(files, authors, "author_id", {"name": _text}, report)
    columns["author_name"] = _looked_up(columns, "author_id", names, "name", table, report)
    types = _read_texts(files, works, "work_id", {"media_type": _text}, report)
    columns["media_type"] = _looked_up(columns, "work_id", types, "media_type", table, report)
    if genres is not None:
        groups = _read_texts(files, genres, "book_id", {"genres": published_genres}, report)
        rows = IdIndex(groups["book_id"]).positions(table["book_id"])
        table.note(rows < 0, f"book_id_is_not_in_{genres}", report)
        column = groups["genres"]
        at = pa.array(rows, mask=rows < 0)
        columns["genre"] = Coded(column.dictionary, column.indices.take(at))
    return Books(IdIndex(table["book_id"]), {name: columns[name] for name in BOOK_COLUMNS})


def _read_books(
    files: Mapping[str, Path], name: str, report: ReadReport, *, with_shelves: bool
) -> TextTable:
    """Unique ``book_id`` and all columns that the file itself has."""
    parts: dict[str, tuple[str, Callable[[Any], str | None]]] = {
        "book_title": ("title", _text),
        "average_rating": ("average_rating", _average_rating),
        "text_reviews_count": ("text_reviews_count", _count),
        "author_id": ("authors", _author),
        "num_pages": ("num_pages", _pages),
        "is_ebook": ("is_ebook", _flag),
        "format": ("format", _text),
        "publisher": ("publisher", _text),
        "publication_year": ("publication_year", _year),
        "work_id": ("work_id", _text),
    }
    if with_shelves:
        parts["genre"] = ("popular_shelves", genres_of_shelves)
    return _read(files, name, "book_id", parts, report)


def _read_texts(
    files: Mapping[str, Path],
    name: str,
    key: str,
    columns: Mapping[str, Callable[[Any], str | None]],
    report: ReadReport,
) -> TextTable:
    return _read(files, name, key, {c: (c, convert) for c, convert in columns.items()}, report)


def _read(
    files: Mapping[str, Path],
    name: str,
    key: str,
    parts: Mapping[str, tuple[str, Callable[[Any], str | None]]],
    report: ReadReport,
) -> TextTable:
    """Records of one file with a unique ``key``; ``parts``: column -> published key, converter."""

    def rows() -> Iterable[tuple[Any, ...]]:
        for number, line, record in read_records(files, name, kind="skipped", report=report):
            identifier = record.get(key)
            if wrong := wrong_id(identifier):
                reason = wrong.format(key)
                report.add("skipped", reason, name, 1, [(number, example(line))])
                continue
            cells = [number, identifier]
            for column, (published, convert) in parts.items():
                value = record.get(published)
                try:
                    cell = convert(value)
                except ValueError as error:
                    shown = f"{identifier}: {error}"
                    report.add("repaired", f"{column}_is_not_usable", name, 1, [(number, shown)])
                    cell = None
                cells.append(cell)
            yield tuple(cells)

    before = sum(report.reasons("skipped").values())
    table = collect(rows(), {key: _TEXT} | dict.fromkeys(parts, _CODED), name, "skipped")
    unusable = sum(report.reasons("skipped").values()) - before
    require_usable(table, len(table) + unusable, report)
    return unique_ids(table, key, report)


def _looked_up(
    columns: Mapping[str, Coded],
    key: str,
    table: TextTable,
    column: str,
    books: TextTable,
    report: ReadReport,
) -> Coded:
    """Column of another file at the books' ``key``; unknown keys are reported by their book."""
    keys = columns[key]
    rows = IdIndex(table[key]).positions(keys.values)
    unknown = pc.fill_null(pa.array(rows < 0).take(keys.codes), False)
    books.note(unknown.to_numpy(zero_copy_only=False), f"{key}_is_not_in_its_file", report)
    coded = table[column]
    at = pa.array(rows, mask=rows < 0)
    return Coded(coded.dictionary.take(coded.indices.take(at)), keys.codes)


# --- converters: published value -> text of the table, or None where missing ---------------------


def _plain(value: Any) -> str:
    """A text or number as text, outer and repeated white space off; "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be text, got {value!a}")
    return joined_surrogates(" ".join(str(value).split()))


def _text(value: Any) -> str | None:
    return _plain(value) or None


def _matching(value: Any, pattern: re.Pattern[str], rule: str) -> str | None:
    text = _plain(value)
    if text and not (text.isascii() and pattern.fullmatch(text)):
        raise ValueError(f"must be {rule}, got {text!r}")
    return text or None


def _average_rating(value: Any) -> str | None:
    return _matching(value, _RATING, "a number from 0 to 5")


def _count(value: Any) -> str | None:
    return _matching(value, _COUNT, "a whole number")


def _pages(value: Any) -> str | None:
    """0 means unknown."""
    pages = _count(value)
    return pages if pages and pages.strip("0") else None


def _year(value: Any) -> str | None:
    """0 means unknown."""
    text = _plain(value)
    return None if text and not text.strip("0") else _matching(text, _YEAR, "a year of four digits")


def _flag(value: Any) -> str | None:
    text = str(value).lower() if isinstance(value, bool) else _plain(value).lower()
    if text not in ("true", "false", ""):
        raise ValueError(f"must be true or false, got {text!r}")
    return text or None


def _author(value: Any) -> str | None:
    """Id of the first author without a role (translator, illustrator, ...), else of the first."""
    if value is None or value == "":
        return None
    if not isinstance(value, list) or not all(isinstance(author, dict) for author in value):
        raise ValueError(f"must be a list of objects, got {value!a}")
    authors = [author for author in value if _plain(author.get("author_id"))]
    if not authors:
        return None
    alone = next((author for author in authors if not _plain(author.get("role"))), authors[0])
    return _plain(alone["author_id"])
