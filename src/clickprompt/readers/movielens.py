"""What the MovieLens releases share: titles with a year, ratings joined to movies and users."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.files import TextTable, require_usable
from clickprompt.readers.report import ReadReport

GENRE_SEPARATOR = "|"
NO_GENRES = "(no genres listed)"
OPTIONS: Mapping[str, bool] = {"year_in_title": False}

# "Heat (1995)", "Fantasia 2000 (1999) (V)", "Death Note (2006–2007)"
_YEAR = re.compile(r"\s*\((\d{4})(?:\s*([-–])\s*(?:\d{4})?)?\)(\s*\([^()]*\))?$")


def split_titles(
    movies: TextTable, *, year_in_title: bool, report: ReadReport
) -> tuple[pa.Array, pa.Array]:
    """Split titles like ``Heat (1995)`` into title and release year.

    Args:
        movies: table with a column ``title``.
        year_in_title: leave the year in the title too.
        report: gets ``title_without_year``, ``title_with_year_range`` (its first year is used)
            and ``title_with_outer_spaces`` (they are left out).

    Returns:
        Title and year, text, null where there is none.
    """
    published = movies["title"].to_pylist()
    stripped = [title.strip() for title in published]
    titles: list[str | None] = []
    years: list[str | None] = []
    ranges = np.zeros(len(published), dtype=bool)
    for row, title in enumerate(stripped):
        found = _YEAR.search(title)
        years.append(found[1] if found else None)
        ranges[row] = bool(found and found[2])
        if found and not year_in_title:
            title = title[: found.start()] + (found[3] or "") or title
        titles.append(title or None)
    spaced = np.array([a != b for a, b in zip(published, stripped, strict=True)], dtype=bool)
    yearless = np.array([year is None for year in years], dtype=bool)
    movies.note(spaced, "title_with_outer_spaces", report)
    movies.note(yearless, "title_without_year", report)
    movies.note(ranges, "title_with_year_range", report)
    return pa.array(titles, pa.string()), pa.array(years, pa.string())


def genres_or_null(movies: TextTable, report: ReadReport) -> pa.Array:
    """The column ``genres`` with null for "(no genres listed)" and for empty cells."""
    genres = movies["genres"]
    absent = _mask(pc.is_in(genres, pa.array([NO_GENRES, ""], genres.type)))
    movies.note(absent, "movie_without_genre", report)
    return pc.if_else(pa.array(absent), pa.scalar(None, genres.type), genres)


def decode(table: TextTable, column: str, words: Mapping[str, str], report: ReadReport) -> pa.Array:
    """Replace the codes of a column by words; an unknown code stays and is reported."""
    codes = table[column].to_pylist()
    unknown = np.array([code not in words for code in codes], dtype=bool)
    table.note(unknown, f"unknown_{column}_code", report)
    return pa.array([words.get(code, code) or None for code in codes], pa.string())


def unique_ids(table: TextTable, column: str, report: ReadReport) -> TextTable:
    """Keep the first row of every id; rows without an id are left out too."""
    table = table.without(_mask(pc.equal(table[column], "")), f"empty_{column}", report)
    repeated = pd.Index(table[column].to_pandas()).duplicated()
    return table.without(repeated, f"repeated_{column}", report)


def join_ratings(
    ratings: TextTable,
    movies: Mapping[str, pa.Array],
    users: Mapping[str, pa.Array] | None,
    *,
    scale: tuple[float, float],
    report: ReadReport,
) -> pd.DataFrame:
    """Check the ratings and put the columns of their users and movies beside them.

    Args:
        ratings: ``user_id``, ``movie_id``, ``rating``, ``timestamp`` as text.
        movies: ``movie_id`` (unique) and feature columns.
        users: ``user_id`` (unique) and feature columns; None where no user file exists.
        scale: lowest and highest rating.
        report: gets every dropped row, and the number of rows kept.

    Returns:
        The interactions table: ``row``, the users' columns, ``movie_id`` and the movies'
        columns, ``rating``, ``timestamp``, in the order of the ratings file.

    Raises:
        ValueError: less than half of the ratings can be used.
    """
    table = ratings
    for column in ("user_id", "movie_id"):
        table = table.without(_mask(pc.equal(table[column], "")), f"empty_{column}", report)
    numbers = _numbers(table["rating"])
    table = table.without(~np.isfinite(numbers), "rating_is_not_a_number", report)
    numbers = numbers[np.isfinite(numbers)]
    outside = (numbers < scale[0]) | (numbers > scale[1])
    table = table.without(outside, "rating_is_not_on_the_scale", report)
    time = table["timestamp"]
    whole = _mask(pc.and_(pc.ascii_is_decimal(time), pc.less_equal(pc.utf8_length(time), 18)))
    table = table.without(~whole, "timestamp_is_not_a_whole_number", report)
    if users is not None:
        table = _known(table, "user_id", users, report)
    table = _known(table, "movie_id", movies, report)
    table = table.without(_duplicates(table), "duplicate_row", report)
    require_usable(table, report.rows_read, report)

    arrays = {"row": pa.array(np.arange(len(table), dtype=np.int64)), "user_id": table["user_id"]}
    for key, others in (("user_id", users), ("movie_id", movies)):
        if others is not None:
            at = pc.index_in(table[key], others[key].cast(table[key].type))
            arrays |= {name: array.take(at) for name, array in others.items()}
    arrays["rating"] = pa.array(_numbers(table["rating"]))
    arrays["timestamp"] = table["timestamp"].cast(pa.int64())
    report.rows_kept = len(table)
    return pa.table(arrays).to_pandas(split_blocks=True, self_destruct=True)


def _known(
    table: TextTable, key: str, others: Mapping[str, pa.Array], report: ReadReport
) -> TextTable:
    known = _mask(pc.is_in(table[key], others[key].cast(table[key].type)))
    return table.without(~known, f"{key}_is_not_in_its_file", report)


def _duplicates(table: TextTable) -> np.ndarray:
    """Rows that repeat an earlier one in all columns; a second rating of a pair is none."""
    codes = [pc.dictionary_encode(table[column]) for column in ("user_id", "movie_id")]
    user, movie = (_mask(code.indices).astype(np.int64) for code in codes)
    pair = user * len(codes[1].dictionary) + movie
    duplicated = np.zeros(len(table), dtype=bool)
    pairs = np.flatnonzero(pd.Series(pair).duplicated(keep=False).to_numpy())
    if len(pairs):
        rows = pa.table({name: a.take(pa.array(pairs)) for name, a in table.columns.items()})
        duplicated[pairs] = rows.to_pandas().duplicated().to_numpy()
    return duplicated


def _numbers(array: pa.Array) -> np.ndarray:
    """Text as float64, NaN where it is no number."""
    try:
        return _mask(pc.cast(array, pa.float64()))
    except pa.ArrowInvalid:
        return np.asarray(pd.to_numeric(pd.Series(array.to_pylist()), errors="coerce"), float)


def _mask(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False)
