"""MovieLens latest-small and the other releases with ``ratings.csv`` and ``movies.csv``.

UTF-8, CRLF or LF, a header line, titles with commas quoted. Columns of the interactions
table: ``row``, ``user_id``, ``movie_id``, ``movie_title``, ``genre`` (values joined by ``|``),
``release_year``, ``rating`` (half stars), ``timestamp`` (seconds).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from clickprompt.readers.formats.text_table import read_table
from clickprompt.readers.movielens.shared import genres_or_null, split_titles
from clickprompt.readers.ratings import join_ratings, unique_ids
from clickprompt.readers.report import ReadReport


def read_movielens_small(
    files: Mapping[str, Path], report: ReadReport, *, year_in_title: bool
) -> pd.DataFrame:
    """Read ``ratings.csv`` and ``movies.csv``."""
    movies = read_table(
        files,
        "movies.csv",
        ("movieId", "title", "genres"),
        separator=",",
        encoding="utf-8",
        header=True,
        kind="skipped",
        report=report,
    )
    movies = unique_ids(movies, "movieId", report)
    title, year = split_titles(movies, year_in_title=year_in_title, report=report)
    ratings = read_table(
        files,
        "ratings.csv",
        ("userId", "movieId", "rating", "timestamp"),
        separator=",",
        encoding="utf-8",
        header=True,
        kind="dropped",
        report=report,
    ).renamed("user_id", "movie_id", "rating", "timestamp")
    features = {
        "movie_id": movies["movieId"],
        "movie_title": title,
        "genre": genres_or_null(movies, report),
        "release_year": year,
    }
    return join_ratings(ratings, features, None, item="movie_id", scale=(0.5, 5.0), report=report)
