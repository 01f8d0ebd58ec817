"""MovieLens-100K: ``u.data``, ``u.user`` and ``u.item``.

Tabs in ``u.data``, ``|`` in the others, no header, ``u.item`` in latin-1 with 19 genre flags.
Movie 267 is "unknown" with empty dates. Copies with three invented rows of a "user 0" circulate:
that user is not in ``u.user``, so the rows are dropped and reported. Columns of the
interactions table are those of MovieLens-1M; ``age`` is a number, ``occupation`` a word, as
published.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from clickprompt.readers.formats.text_table import TextTable, read_table
from clickprompt.readers.movielens.shared import GENRE_SEPARATOR, split_titles
from clickprompt.readers.ratings import join_ratings, unique_ids
from clickprompt.readers.report import ReadReport

# u.genre; the first flag, "unknown", means that there is none
GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


def read_movielens_100k(
    files: Mapping[str, Path], report: ReadReport, *, year_in_title: bool
) -> pd.DataFrame:
    """Read the three files."""
    movies = read_table(
        files,
        "u.item",
        ("movie_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES),
        separator="|",
        encoding="latin-1",
        header=False,
        kind="skipped",
        report=report,
    )
    movies = unique_ids(movies, "movie_id", report)
    users = read_table(
        files,
        "u.user",
        ("user_id", "age", "gender", "occupation", "zip_code"),
        separator="|",
        encoding="latin-1",
        header=False,
        kind="skipped",
        report=report,
    )
    users = unique_ids(users, "user_id", report)
    ratings = read_table(
        files,
        "u.data",
        ("user_id", "movie_id", "rating", "timestamp"),
        separator="\t",
        encoding="latin-1",
        header=False,
        kind="dropped",
        report=report,
    )
    title, year = split_titles(movies, year_in_title=year_in_title, report=report)
    movie_features = {
        "movie_id": movies["movie_id"],
        "movie_title": title,
        "genre": _genres(movies, report),
        "release_year": year,
    }
    user_features = {
        name: users[name] if name == "user_id" else users.nullable(name)
        for name in ("user_id", "gender", "age", "occupation", "zip_code")
    }
    return join_ratings(
        ratings, movie_features, user_features, item="movie_id", scale=(1.0, 5.0), report=report
    )


def _genres(movies: TextTable, report: ReadReport) -> pa.Array:
    """Names of the set flags, in published order, joined; null where only "unknown" is set."""
    flags = np.stack([np.array(movies[genre].to_pylist()) for genre in GENRES], axis=1)
    wrong = np.any((flags != "0") & (flags != "1"), axis=1, keepdims=True)[:, 0]
    movies.note(wrong, "genre_flag_is_not_0_or_1", report)
    names = np.array(GENRES[1:])
    joined = [GENRE_SEPARATOR.join(names[row == "1"]) or None for row in flags[:, 1:]]
    movies.note(np.array([g is None for g in joined]), "movie_without_genre", report)
    return pa.array(joined, pa.string())
