"""BookCrossing: ``BX-Book-Ratings.csv``, ``BX-Books.csv`` and ``BX-Users.csv``.

``;`` between the columns, everything quoted but NULL ages, a quote inside a field as ``\\"``, CRLF,
cp1252. Copies that were saved again with ``,`` or tabs, or as UTF-8, are read too. Columns of the
interactions table: ``row``, ``user_id``, ``country``, ``state``, ``city`` (of the location),
``age``, ``isbn``, ``book_title``, ``author``, ``publication_year``, ``publisher``, ``rating`` (1 to
10, or 0 for an implicit one). There is no time.

An ISBN stays text. Its upper-case form is used; where it is no ISBN-10 as it stands but becomes one
with a right check digit without its other characters and with the leading zeros it lost, that
ISBN-10 is used. Everything else (ASINs, free text) stays.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from html.entities import html5
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.text_table import TextTable, read_table, to_numpy
from clickprompt.readers.ratings import join_ratings, numbers, unique_ids
from clickprompt.readers.report import ReadReport

OPTIONS: Mapping[str, bool] = {"implicit_ratings": True, "ratings_without_book": True}
# published name -> column
RATINGS = {"User-ID": "user_id", "ISBN": "isbn", "Book-Rating": "rating"}
USERS = {"User-ID": "user_id", "Location": "location", "Age": "age"}
BOOKS = {
    "ISBN": "isbn",
    "Book-Title": "book_title",
    "Book-Author": "author",
    "Year-Of-Publication": "publication_year",
    "Publisher": "publisher",
}
AGES = (5, 110)  # plausible ones
NO_NUMBER = ("", "n/a", "null", "nan", "\\n")  # in lower case; the last is MySQL's NULL
NO_PLACE = ("", "n/a")

_ISBN10 = r"^\d{9}[\dX]$"
_SHORTENED = re.compile(r"[0-9]{6,9}[0-9X]")  # an ISBN-10 that lost up to three leading zeros
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]*);")
# some copies have title and author of three books in one field, and the later columns moved up
_TITLE_AND_AUTHOR = re.compile(r'(.*)\\";"?([^"]*)"?', re.DOTALL)


def read_bookcrossing(
    files: Mapping[str, Path],
    report: ReadReport,
    *,
    implicit_ratings: bool,
    ratings_without_book: bool,
) -> pd.DataFrame:
    """Read the three files.

    Args:
        files: file name -> path.
        report: gets all events.
        implicit_ratings: keep the ratings that are 0; else they are dropped.
        ratings_without_book: keep ratings whose book is not in the books file; else they are
            dropped. Ratings whose user is unknown are kept in either case.
    """
    books = _read(files, "BX-Books.csv", BOOKS, "skipped", report)
    books = _separate_title_and_author(books, report)
    books = unique_ids(_canonical_isbn(books, report), "isbn", report)
    users = _read(files, "BX-Users.csv", USERS, "skipped", report)
    users = unique_ids(_stripped(users, "user_id", report), "user_id", report)
    ratings = _read(files, "BX-Book-Ratings.csv", RATINGS, "dropped", report)
    ratings = _canonical_isbn(_stripped(ratings, "user_id", report), report)
    if not implicit_ratings:
        ratings = ratings.without(numbers(ratings["rating"]) == 0, "implicit_rating", report)
    book_features = {
        "isbn": books["isbn"],
        "book_title": _text(books, "book_title", report),
        "author": _text(books, "author", report),
        "publication_year": _year(books, report),
        "publisher": _text(books, "publisher", report),
    }
    user_features = {
        "user_id": users["user_id"],
        **_location(users, report),
        "age": _age(users, report),
    }
    return join_ratings(
        ratings,
        book_features,
        user_features,
        item="isbn",
        scale=(0.0, 10.0),
        report=report,
        keep_unknown_items=ratings_without_book,
        keep_unknown_users=True,
    )


def _read(
    files: Mapping[str, Path], name: str, columns: Mapping[str, str], kind: str, report: ReadReport
) -> TextTable:
    """One file, with the interactions table's names of the columns."""
    table = read_table(
        files,
        name,
        tuple(columns),
        separator=";",
        encoding="cp1252",
        header=True,
        kind=kind,
        report=report,
        backslash=True,
        other_separators=(",", "\t"),
    )
    return table.renamed(*columns.values())


def _stripped(table: TextTable, column: str, report: ReadReport) -> TextTable:
    array = pc.utf8_trim_whitespace(table[column])
    spaced = to_numpy(pc.not_equal(array, table[column]))
    table.note(spaced, f"outer_spaces_in_{column}", report)
    return table.replaced(**{column: array})


def _separate_title_and_author(books: TextTable, report: ReadReport) -> TextTable:
    """Undo a mistake of widespread copies: ``title\\";author"`` in the title, all else moved."""
    rows = np.flatnonzero(to_numpy(pc.match_substring(books["book_title"], '\\";')))
    moved = np.zeros(len(books), dtype=bool)
    columns = {name: books[name] for name in list(books.columns)[1:]}
    cells = {name: array.to_pylist() for name, array in columns.items()} if len(rows) else {}
    for row in rows:
        found = _TITLE_AND_AUTHOR.fullmatch(cells["book_title"][row])
        if found and re.fullmatch(r"\d{1,4}(\.0)?", cells["author"][row]):
            moved[row] = True
            values = (
                found[1] + '"',
                found[2],
                cells["author"][row],
                cells["publication_year"][row],
            )
            for name, value in zip(columns, values, strict=True):
                cells[name][row] = value
    if not moved.any():
        return books
    books.note(moved, "title_and_author_in_one_field", report)
    return books.replaced(**{n: pa.array(v, pa.large_string()) for n, v in cells.items()})


def _canonical_isbn(table: TextTable, report: ReadReport) -> TextTable:
    """The form of the ISBN by which ratings and books are joined (see the module)."""
    codes = pc.dictionary_encode(table["isbn"])
    values = codes.dictionary
    odd = np.flatnonzero(~to_numpy(pc.match_substring_regex(values, _ISBN10)))
    texts = values.to_pylist() if len(odd) else []
    reasons = np.full(len(values), "", dtype=object)
    for at in odd:
        texts[at], reasons[at] = _isbn(texts[at])
    index = to_numpy(codes.indices)
    for reason in sorted(set(reasons[odd])):
        if reason:
            table.note((reasons == reason)[index], reason, report)
    if len(odd) == 0:
        return table
    return table.replaced(isbn=pa.array(texts, pa.large_string()).take(codes.indices))


def _isbn(published: str) -> tuple[str, str]:
    """Canonical form of one ISBN, and under which reason it is reported ("" where it is empty)."""
    text = published.strip().upper()
    if not text:
        return "", ""
    if re.fullmatch(r"[0-9]{9}[0-9X]", text):
        changed = (
            "isbn_in_lower_case" if published.strip() != text else "isbn_with_other_characters"
        )
        return text, changed
    compact = re.sub(r"[^0-9A-Z]", "", text)
    whole = compact.zfill(10)
    if _SHORTENED.fullmatch(compact) and _check_digit_is_right(whole):
        lost = len(compact) < 10
        return whole, "isbn_without_leading_zeros" if lost else "isbn_with_other_characters"
    return text, "isbn_is_no_isbn10"


def _check_digit_is_right(isbn: str) -> bool:
    digits = [10 if c == "X" else int(c) for c in isbn]
    return (
        sum(weight * digit for weight, digit in zip(range(10, 0, -1), digits, strict=True)) % 11
        == 0
    )


def _decoded(table: TextTable, column: str, report: ReadReport) -> pa.Array:
    """A column with HTML entities decoded."""
    array = table[column]
    entity = to_numpy(pc.match_substring_regex(array, _ENTITY.pattern))
    table.note(entity, f"html_entity_in_{column}", report)
    if not entity.any():
        return array
    decoded = [_unescape(text) for text in array.filter(pa.array(entity)).to_pylist()]
    return pc.replace_with_mask(array, pa.array(entity), pa.array(decoded, array.type))


def _text(table: TextTable, column: str, report: ReadReport) -> pa.Array:
    """A column with HTML entities decoded and outer spaces off, null where it is empty."""
    decoded = table.replaced(**{column: _decoded(table, column, report)})
    return _stripped(decoded, column, report).nullable(column)


def _unescape(text: str) -> str:
    """Decode whole entities only; ``html.unescape`` makes "AT&notes" into "AT¬es"."""

    def character(found: re.Match[str]) -> str:
        entity = found[0]
        return html.unescape(entity) if entity[1] == "#" or entity[1:] in html5 else entity

    return _ENTITY.sub(character, text)


def _year(books: TextTable, report: ReadReport) -> pa.Array:
    """Year of publication as text; 0 means unknown."""
    years = _whole_numbers(books, "publication_year", report)
    zero = to_numpy(pc.match_substring_regex(years, "^0+$"))
    usable = to_numpy(pc.match_substring_regex(years, "^[1-9][0-9]{3}$"))
    absent = to_numpy(_absent(years))
    books.note(zero, "publication_year_is_0", report)
    books.note(~usable & ~zero & ~absent, "publication_year_is_no_year", report)
    return pc.if_else(pa.array(usable), years, pa.scalar(None, years.type))


def _age(users: TextTable, report: ReadReport) -> pa.Array:
    """Age as text; null where it is NULL or not plausible."""
    ages = _whole_numbers(users, "age", report)
    values = numbers(pc.if_else(pc.match_substring_regex(ages, "^[0-9]{1,3}$"), ages, "nan"))
    usable = (values >= AGES[0]) & (values <= AGES[1])
    users.note(~usable & ~to_numpy(_absent(ages)), "age_is_not_plausible", report)
    return pc.if_else(pa.array(usable), ages, pa.scalar(None, ages.type))


def _whole_numbers(table: TextTable, column: str, report: ReadReport) -> pa.Array:
    """Copies made with pandas have ages like 18.0, where others are missing."""
    array = pc.utf8_trim_whitespace(table[column])
    point = pc.match_substring_regex(array, r"^[0-9]+\.0$")
    table.note(to_numpy(point), f"decimal_point_in_{column}", report)
    return pc.if_else(point, pc.replace_substring_regex(array, r"\.0$", ""), array)


def _absent(array: pa.Array) -> pa.Array:
    return pc.is_in(pc.utf8_lower(array), pa.array(NO_NUMBER, array.type))


def _location(users: TextTable, report: ReadReport) -> dict[str, pa.Array]:
    """City, state and country, null where empty; the country is the last part that is not."""
    codes = pc.dictionary_encode(_decoded(users, "location", report))
    parts = [_parts(location) for location in codes.dictionary.to_pylist()]
    without = np.array([found[-1] is None for found in parts], dtype=bool)
    users.note(without[to_numpy(codes.indices)], "location_without_country", report)
    places = {
        "country": [next(filter(None, reversed(found)), None) for found in parts],
        "state": [found[-2] if len(found) > 1 else None for found in parts],
        "city": [", ".join(filter(None, found[:-2])) or None for found in parts],
    }
    return {
        name: pa.array(values, pa.large_string()).take(codes.indices)
        for name, values in places.items()
    }


def _parts(location: str) -> list[str | None]:
    """Parts between commas, None for those that say nothing."""
    parts = [part.strip(' "') for part in location.split(",")]
    return [None if part.lower() in NO_PLACE else part for part in parts]
