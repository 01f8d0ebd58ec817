"""The generated table: the same whatever its parts, with the sizes, gaps and skew it promises."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scale_data
from benchmarks.scale_data import FIELDS, SCHEMA, Interactions

ROWS = 40_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return Interactions(ROWS).part(0, ROWS)


@given(cuts=st.lists(st.integers(1, ROWS - 1), min_size=1, max_size=3))
@settings(max_examples=10, deadline=None)
def test_parts_put_together_are_the_whole(table, cuts):
    source = Interactions(ROWS)
    ends = [0, *sorted(set(cuts)), ROWS]
    parts = [source.part(a, b) for a, b in pairwise(ends)]
    assert pa.concat_tables(parts).equals(table)


def test_the_same_seed_gives_the_same_table_and_another_seed_another(table):
    assert Interactions(ROWS).part(0, 1_000).equals(table.slice(0, 1_000))
    other = Interactions(ROWS, seed=1).part(0, 1_000)
    for column in ("user_id", "book_id", "title", "rating", "timestamp"):
        assert other[column].to_pylist() != table[column].slice(0, 1_000).to_pylist()


def test_parquet_has_the_schema_and_a_row_group_for_each_part(tmp_path, table, monkeypatch):
    monkeypatch.setattr(scale_data, "ROWS_PER_PART", 16_384)
    path = tmp_path / "interactions.parquet"
    scale_data.write_parquet(path, ROWS)
    stored = pq.ParquetFile(path)
    assert stored.schema_arrow.equals(SCHEMA)
    groups = [stored.metadata.row_group(n).num_rows for n in range(stored.num_row_groups)]
    assert groups == [16_384, 16_384, ROWS - 2 * 16_384]
    assert stored.read().equals(table)
    assert table["row"].to_pylist() == list(range(ROWS))


def test_csv_holds_the_same_rows(tmp_path):
    path = tmp_path / "interactions.csv"
    scale_data.write_csv(path, 3_000)
    options = pa_csv.ConvertOptions(
        column_types=SCHEMA, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    assert pa_csv.read_csv(path, convert_options=options).equals(Interactions(3_000).part(0, 3_000))


def test_users_books_and_the_fields_of_books_have_their_sizes(table):
    frame = table.to_pandas()
    distinct = frame.nunique()
    assert distinct["user_id"] == ROWS / 50
    assert distinct["book_id"] == ROWS / 100
    assert frame["user_id"].str.fullmatch("[0-9a-f]{32}").all()
    assert frame["average_rating"].str.fullmatch(r"[2-4]\.\d\d").all()
    assert distinct["genres"] > 30
    members = frame["genres"].dropna().str.split("|")
    assert set(members.explode()) == set(scale_data.GENRES)
    assert (members.map(lambda cell: len(set(cell)) == len(cell))).all()
    assert set(frame["is_ebook"]) == {"true", "false"}
    assert frame["publication_year"].dropna().astype(int).between(1937, 2017).all()
    assert set(frame["rating"]) == {1.0, 2.0, 3.0, 4.0, 5.0}
    seconds = frame["timestamp"]
    assert seconds.between(scale_data.FIRST_SECOND, scale_data.LAST_SECOND).all()
    # a book has one value in each of its fields, an author has one name
    features = [name for name in FIELDS if name not in ("user_id", "book_id")]
    assert (frame.groupby("book_id")[features].nunique(dropna=False) == 1).all(axis=None)
    assert (frame.groupby("author_id")["author_name"].nunique() == 1).all()
    assert distinct["author_id"] == distinct["author_name"]


def test_missing_values_are_where_they_should_be(table):
    shares = table.to_pandas().drop_duplicates("book_id").isna().mean()
    expected = {"page_count": 0.22, "format": 0.2, "publisher": 0.2, "publication_year": 0.2}
    expected |= {"genres": 0.03, "media_type": 0.05}
    for column in SCHEMA.names:
        assert shares[column] == pytest.approx(expected.get(column, 0), abs=0.07), column
        assert (shares[column] > 0) == (column in expected)


def test_popularity_and_stars_follow_their_formulas(table):
    frame = table.to_pandas()
    rows_of_books = np.sort(frame["book_id"].value_counts().to_numpy())[::-1]
    # P(book < x) = (x / books) ** (1 / 2.5): the first tenth of the books has 0.398 of the rows
    tenth = rows_of_books[: len(rows_of_books) // 10].sum() / ROWS
    assert tenth == pytest.approx(0.1 ** (1 / 2.5), abs=0.02)
    stars = frame["rating"].value_counts(normalize=True).sort_index().to_numpy()
    np.testing.assert_allclose(stars, scale_data.SHARES_OF_STARS, atol=0.01)


def test_draws_are_uniform_and_independent():
    """Kolmogorov's distance of 100,000 draws, and correlations between purposes and neighbours."""
    source = Interactions(100)
    numbers = np.arange(100_000)
    first, second = source._draw(numbers, "first"), source._draw(numbers, "second")
    distance = np.abs(np.sort(first) - (numbers + 0.5) / len(numbers)).max()
    assert distance < 1.63 / np.sqrt(len(numbers))  # the 1 % point
    for other in (second, np.roll(first, 1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 4 / np.sqrt(len(numbers))


def test_ids_of_books_are_distinct_for_any_size():
    numbers = np.random.default_rng(0).choice(scale_data.LARGEST_BOOK_ID, 200_000, replace=False)
    assert len(np.unique(scale_data._scattered(numbers))) == len(numbers)
    assert np.gcd(48_271, scale_data.LARGEST_BOOK_ID) == 1


@pytest.mark.parametrize("rows", [0, -5, scale_data.LARGEST_BOOK_ID * 100])
def test_an_impossible_number_of_rows_is_an_error(rows):
    with pytest.raises(ValueError, match=rf"rows must be in 1\.\.\d+, got {rows}"):
        Interactions(rows)


def test_a_table_of_one_row():
    assert Interactions(1).part(0, 1).num_rows == 1


def test_the_command_line_writes_a_file(tmp_path: Path, monkeypatch, capsys):
    target = tmp_path / "small.parquet"
    monkeypatch.setattr("sys.argv", ["scale_data", "1000", str(target), "--seed", "3"])
    scale_data.main()
    assert pq.read_table(target).equals(Interactions(1_000, seed=3).part(0, 1_000))
    assert "MiB" in capsys.readouterr().out
