"""The embedded data set: published counts, and every quirk of its files."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest

from clickprompt.parameters import DataParameters
from clickprompt.readers import ReadResult, read_interactions
from tests.reference.modality_twins import title_and_year

FOLDER = Path(__file__).parents[2] / "data/01_raw/movielens_small"
PATHS = {name: FOLDER / name for name in ("ratings.csv", "movies.csv")}


def parameters(**options: bool) -> DataParameters:
    return DataParameters(
        reader="movielens_small",
        item="movie_id",
        fields=[{"column": "user_id", "name": "user id"}],
        label={"positive_from": 4, "negative_to": 2.5},
        options=options,
    )


@pytest.fixture(scope="module")
def result() -> ReadResult:
    return read_interactions(PATHS, parameters())


@pytest.fixture(scope="module")
def published_movies() -> list[list[str]]:
    with PATHS["movies.csv"].open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


def test_published_counts(result, published_movies):
    table = result.interactions
    assert len(table) == 100_836
    assert table["user_id"].nunique() == 610
    assert len(published_movies) == 9_742
    assert (table["rating"] >= 4).sum() == 48_580
    assert (table["rating"] <= 2.5).sum() == 19_073
    assert result.report["rows_read"] == result.report["rows_kept"] == 100_836
    assert result.report["dropped"] == {}
    assert result.report["skipped"] == {}
    assert result.report["files"]["ratings.csv"].startswith("aa289ca8")
    assert result.report["files"]["movies.csv"].startswith("5a5f32dd")


def test_quirks_of_titles_are_counted_and_listed(result):
    repaired = result.report["repaired"]
    # 13 titles do not end in one year: 12 have none, one has a range
    assert repaired == {
        "title_without_year": 12,
        "title_with_year_range": 1,
        "title_with_outer_spaces": 11,
        "movie_without_genre": 34,
    }
    listed = [e for e in result.report["examples"] if e["reason"] == "title_without_year"]
    assert len(listed) == 12
    lines = (FOLDER / "movies.csv").read_bytes().split(b"\r\n")
    for example in listed:
        assert example["file"] == "movies.csv"
        movie = example["text"].split(",")[0].encode()
        assert lines[example["line"] - 1].startswith(movie + b",")


def test_columns_and_types(result):
    table = result.interactions
    assert list(table) == [
        "row",
        "user_id",
        "movie_id",
        "movie_title",
        "genre",
        "release_year",
        "rating",
        "timestamp",
    ]
    assert table["row"].tolist() == list(range(len(table)))
    assert table["rating"].dtype == "float64"
    assert table["timestamp"].dtype == "int64"
    first = table.iloc[0]
    assert (first["user_id"], first["movie_id"], first["rating"]) == ("1", "1", 4.0)
    assert first["timestamp"] == 964982703
    assert first["genre"] == "Adventure|Animation|Children|Comedy|Fantasy"


def test_titles_and_years_of_all_movies(result, published_movies):
    table = result.interactions.drop_duplicates("movie_id").set_index("movie_id")
    for movie, published, genres in published_movies:
        if movie not in table.index:  # 18 movies have tags only
            continue
        row = table.loc[movie]
        title, year = title_and_year(published)
        if "2006–2007" in published:
            title, year = "Death Note: Desu nôto", "2006"
        assert row["movie_title"] == title
        assert row["release_year"] == year if year else row.isna()["release_year"]
        missing = genres == "(no genres listed)"
        assert row.isna()["genre"] if missing else row["genre"] == genres


def test_missing_is_null_never_text(result):
    for column in ("movie_title", "genre", "release_year"):
        values = set(result.interactions[column].dropna().str.lower())
        assert not values & {"nan", "none", "", "(no genres listed)"}


def test_year_may_stay_in_the_title():
    table = read_interactions(PATHS, parameters(year_in_title=True)).interactions
    assert table["movie_title"].iloc[0] == "Toy Story (1995)"
    assert table["release_year"].iloc[0] == "1995"


def test_gzipped_files_give_the_same(result, tmp_path):
    packed = {}
    for name, path in PATHS.items():
        packed[name] = tmp_path / f"{name}.gz"
        packed[name].write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
    again = read_interactions(packed, parameters())
    assert again.interactions.equals(result.interactions)
    assert again.report == result.report
