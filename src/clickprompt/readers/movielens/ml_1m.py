"""MovieLens-1M: ``ratings.dat``, ``users.dat`` and ``movies.dat``.

``::`` between the columns, no header, ``movies.dat`` in latin-1. Age and occupation are codes
and become words. Columns of the interactions table: ``row``, ``user_id``, ``gender`` (F, M),
``age``, ``occupation``, ``zip_code`` (text), ``movie_id``, ``movie_title``, ``genre`` (values
joined by ``|``), ``release_year``, ``rating``, ``timestamp`` (seconds).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from clickprompt.readers.formats.text_table import read_table
from clickprompt.readers.movielens.shared import decode, genres_or_null, split_titles
from clickprompt.readers.ratings import join_ratings, unique_ids
from clickprompt.readers.report import ReadReport

# from the README of the data set
AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
OCCUPATIONS = {
    "0": "other or not specified",
    "1": "academic/educator",
    "2": "artist",
    "3": "clerical/admin",
    "4": "college/grad student",
    "5": "customer service",
    "6": "doctor/health care",
    "7": "executive/managerial",
    "8": "farmer",
    "9": "homemaker",
    "10": "K-12 student",
    "11": "lawyer",
    "12": "programmer",
    "13": "retired",
    "14": "sales/marketing",
    "15": "scientist",
    "16": "self-employed",
    "17": "technician/engineer",
    "18": "tradesman/craftsman",
    "19": "unemployed",
    "20": "writer",
}


def read_movielens_1m(
    files: Mapping[str, Path], report: ReadReport, *, year_in_title: bool
) -> pd.DataFrame:
    """Read the three files."""
    movies = read_table(
        files,
        "movies.dat",
        ("movie_id", "title", "genres"),
        separator="::",
        encoding="latin-1",
        header=False,
        kind="skipped",
        report=report,
    )
    movies = unique_ids(movies, "movie_id", report)
    users = read_table(
        files,
        "users.dat",
        ("user_id", "gender", "age", "occupation", "zip_code"),
        separator="::",
        encoding="latin-1",
        header=False,
        kind="skipped",
        report=report,
    )
    users = unique_ids(users, "user_id", report)
    ratings = read_table(
        files,
        "ratings.dat",
        ("user_id", "movie_id", "rating", "timestamp"),
        separator="::",
        encoding="latin-1",
        header=False,
        kind="dropped",
        report=report,
    )
    title, year = split_titles(movies, year_in_title=year_in_title, report=report)
    movie_features = {
        "movie_id": movies["movie_id"],
        "movie_title": title,
        "genre": genres_or_null(movies, report),
        "release_year": year,
    }
    user_features = {
        "user_id": users["user_id"],
        "gender": users.nullable("gender"),
        "age": decode(users, "age", AGES, report),
        "occupation": decode(users, "occupation", OCCUPATIONS, report),
        "zip_code": users.nullable("zip_code"),
    }
    return join_ratings(
        ratings, movie_features, user_features, item="movie_id", scale=(1.0, 5.0), report=report
    )
