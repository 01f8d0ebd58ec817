"""What the MovieLens releases share: titles with a year, genres, codes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clickprompt.readers.formats.text_table import TextTable, to_numpy
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
    absent = to_numpy(pc.is_in(genres, pa.array([NO_GENRES, ""], genres.type)))
    movies.note(absent, "movie_without_genre", report)
    return pc.if_else(pa.array(absent), pa.scalar(None, genres.type), genres)


def decode(table: TextTable, column: str, words: Mapping[str, str], report: ReadReport) -> pa.Array:
    """Replace the codes of a column by words; an unknown code stays and is reported."""
    codes = table[column].to_pylist()
    unknown = np.array([code not in words for code in codes], dtype=bool)
    table.note(unknown, f"unknown_{column}_code", report)
    return pa.array([words.get(code, code) or None for code in codes], pa.string())
