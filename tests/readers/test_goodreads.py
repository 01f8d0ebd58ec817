"""Goodreads: the JSON and the CSV form, every trap of the data, and damaged files."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clickprompt.modality import (
    build_text_view,
    encode_fields,
    filter_interactions,
    label_and_split,
)
from clickprompt.parameters import DataParameters
from clickprompt.readers import ReadResult, read_interactions
from clickprompt.readers import stream_interactions as stream
from clickprompt.readers.formats import line_blocks as blocks
from clickprompt.readers.goodreads import reader as goodreads
from clickprompt.readers.goodreads.genres import NO_GENRE_NAMES, NO_GENRE_WORDS, is_genre

DATA = DataParameters(
    reader="goodreads",
    item="book_id",
    fields=[{"column": "user_id", "name": "user id"}],
    label={"positive_from": 4, "negative_to": 3},
)
JSON, CSV = "goodreads_interactions_dedup.json", "goodreads_interactions.csv"
BOOKS, GENRES = "goodreads_books.json", "goodreads_book_genres_initial.json"
AUTHORS, WORKS = "goodreads_book_authors.json", "goodreads_book_works.json"
USER_MAP, BOOK_MAP = "user_id_map.csv", "book_id_map.csv"
FEATURES = [
    "book_title", "genre", "average_rating", "text_reviews_count", "author_id", "author_name",
    "num_pages", "is_ebook", "format", "publisher", "publication_year", "work_id", "media_type",
]  # fmt: skip
USER = "8842281e1d1347389f2ab93d60773d4d"
TIME = "Fri Apr 19 08:15:15 -0700 2013"


# --- the files, in the layouts that their publisher describes --------------------------------


def interaction(user=USER, book="836610", rating=5, **other):
    return {
        "user_id": user,
        "book_id": book,
        "review_id": "6b4db26aafeaf0da77c7de6214331e1e",
        "is_read": True,
        "rating": rating,
        "review_text_incomplete": 'A "good" one, \u2026',
        "date_added": TIME,
        "date_updated": "Fri Apr 26 01:10:24 -0700 2013",
        "read_at": "",
        "started_at": "",
    } | other


def book(book_id="836610", **other):
    return {
        "isbn": "0312853122",
        "text_reviews_count": "1",
        "series": [],
        "country_code": "US",
        "language_code": "",
        "popular_shelves": [
            {"count": "15419", "name": "to-read"},
            {"count": "149", "name": "fiction"},
            {"count": "1762", "name": "poetry"},
            {"count": "104", "name": "owned"},
        ],
        "asin": "",
        "is_ebook": "false",
        "average_rating": "4.00",
        "kindle_asin": "",
        "similar_books": ["828466"],
        "description": "",
        "format": "Paperback",
        "link": "https://www.goodreads.com/book/show/836610",
        "authors": [{"author_id": "604031", "role": ""}],
        "publisher": "St. Martin's Press",
        "num_pages": "256",
        "publication_day": "1",
        "isbn13": "9780312853129",
        "publication_month": "9",
        "edition_information": "",
        "publication_year": "1984",
        "url": "https://www.goodreads.com/book/show/836610",
        "image_url": "https://images.gr-assets.com/books/111x148-b.png",
        "book_id": book_id,
        "ratings_count": "3",
        "work_id": "5400751",
        "title": "W.C. Fields: A Life on Film",
        "title_without_series": "W.C. Fields: A Life on Film",
    } | other


def author(author_id="604031", **other):
    return {
        "average_rating": "3.98",
        "author_id": author_id,
        "text_reviews_count": "7",
        "name": "Ronald J. Fields",
        "ratings_count": "49",
    } | other


def work(work_id="5400751", **other):
    return {
        "books_count": "1",
        "reviews_count": "6",
        "original_publication_month": "8",
        "default_description_language_code": "",
        "text_reviews_count": "1",
        "best_book_id": "836610",
        "original_publication_year": "1984",
        "original_title": "W. C. Fields: A Life on Film",
        "rating_dist": "5:1|4:1|3:1|2:0|1:0|total:3",
        "default_chaptering_book_id": "",
        "original_publication_day": "",
        "original_language_id": "",
        "ratings_count": "3",
        "media_type": "book",
        "ratings_sum": "12",
        "work_id": work_id,
    } | other


def genres(book_id="836610", **counts):
    named = {"history, historical fiction, biography": 1, "non-fiction": 3}
    return {"book_id": book_id, "genres": counts or named}


def lines(*records: Any) -> bytes:
    """One record a line; text that is given is a line as it is."""
    return b"".join((r if isinstance(r, str) else json.dumps(r)).encode() + b"\n" for r in records)


def table(header: str, *rows: tuple[Any, ...]) -> bytes:
    return "".join(
        f"{line}\n" for line in [header, *(",".join(map(str, r)) for r in rows)]
    ).encode()


def interactions_csv(*rows: tuple[Any, ...]) -> bytes:
    return table("user_id,book_id,is_read,rating,is_reviewed", *rows)


def published(form: str = "json", **changed: bytes | None) -> dict[str, bytes]:
    """File name -> content; ``changed`` by the short names, None leaves a file out."""
    files: dict[str, bytes | None] = {
        "interactions": lines(interaction())
        if form == "json"
        else interactions_csv((0, 0, 1, 5, 0)),
        "books": lines(book()),
        "authors": lines(author()),
        "works": lines(work()),
        "genres": lines(genres()),
    }
    if form == "csv":
        files["users_map"] = table("user_id_csv,user_id", (0, USER), (1, "f" * 32))
        files["books_map"] = table("book_id_csv,book_id", (0, "836610"), (1, "77"))
    names = {
        "interactions": JSON if form == "json" else CSV, "books": BOOKS, "authors": AUTHORS,
        "works": WORKS, "genres": GENRES, "users_map": USER_MAP, "books_map": BOOK_MAP,
    }  # fmt: skip
    return {names[k]: raw for k, raw in (files | changed).items() if raw is not None}


def written(folder: Path, raw: dict[str, bytes]) -> dict[str, Path]:
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in raw}


def read(folder: Path, form: str = "json", **changed: bytes | None) -> ReadResult:
    result = read_interactions(written(folder, published(form, **changed)), DATA)
    report = result.report
    assert report["rows_kept"] == len(result.interactions)
    assert report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())
    assert result.interactions["row"].tolist() == list(range(report["rows_kept"]))
    return result


def first(folder: Path, form: str = "json", **changed: bytes | None) -> dict[str, Any]:
    row = read(folder, form, **changed).interactions.iloc[0]
    return {name: None if pd.isna(value) else value for name, value in row.items()}


def reasons(report: dict[str, Any], reason: str) -> list[tuple[str, int]]:
    return [(e["file"], e["line"]) for e in report["examples"] if e["reason"] == reason]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_columns_and_types(tmp_path, form):
    found = read(tmp_path, form).interactions
    time = ["timestamp"] if form == "json" else []
    assert list(found) == ["row", "user_id", "book_id", *FEATURES, "rating", "is_read", *time]
    numeric = [str(found[c].dtype) for c in ("row", "rating", "is_read", *time)]
    assert numeric == ["int64", "float64", "float64", "int64"][: len(numeric)]
    assert found.iloc[0].tolist() == [
        0, USER, "836610", "W.C. Fields: A Life on Film",
        "non-fiction|history, historical fiction, biography", "4.00", "1", "604031",
        "Ronald J. Fields", "256", "false", "Paperback", "St. Martin's Press", "1984", "5400751",
        "book", 5.0, 1.0, *([1366384515] if form == "json" else []),
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_clean_file_has_a_clean_report(tmp_path, form):
    report = read(tmp_path, form).report
    assert report["dropped"] == report["repaired"] == report["skipped"] == {}
    assert set(report["files"]) == set(published(form))


@pytest.mark.parametrize("form", ["json", "csv"])
def test_gzipped_files_give_the_same(tmp_path, form):
    plain = read(tmp_path, form)
    packed = {f"{name}.gz": gzip.compress(raw) for name, raw in published(form).items()}
    found = read_interactions(written(tmp_path, packed), DATA)
    assert found.interactions.equals(plain.interactions)
    assert found.report == plain.report


def test_subset_of_a_genre(tmp_path):
    raw = published()
    raw["goodreads_interactions_poetry.json.gz"] = gzip.compress(raw.pop(JSON))
    raw["goodreads_books_poetry.json.gz"] = gzip.compress(raw.pop(BOOKS))
    assert len(read_interactions(written(tmp_path, raw), DATA).interactions) == 1


@pytest.mark.parametrize("form", ["json", "csv"])
def test_the_environment_makes_samples(tmp_path, form):
    """Filter, labels and text by the parameters of conf/goodreads."""
    conf = Path(__file__).parents[2] / "conf/goodreads/parameters.yml"
    raw = yaml.safe_load(conf.read_text(encoding="utf-8"))["data"]
    if form == "csv":
        raw["split"]["by"] = "random"
    data = DataParameters.model_validate(raw)
    pairs = [(u, b, (u + b) % 6) for u in range(12) for b in range(12)]
    rated = sum(rating > 0 for _, _, rating in pairs)
    assert rated == 120  # each user, and each book, has ten of the twelve
    changed: dict[str, bytes | None] = {
        "books": lines(*(book(str(900 + b)) for b in range(12))),
        "genres": lines(*(genres(str(900 + b)) for b in range(12))),
    }
    if form == "json":
        records = [interaction(f"u{u}", str(900 + b), r) for u, b, r in [*pairs, (99, 0, 5)]]
        changed["interactions"] = lines(*records)
    else:
        rows = [(u, b, 1, r, 0) for u, b, r in [*pairs, (99, 0, 5)]]
        changed["interactions"] = interactions_csv(*rows)
        changed["users_map"] = table(
            "user_id_csv,user_id", *((u, f"u{u}") for u in [*range(12), 99])
        )
        changed["books_map"] = table("book_id_csv,book_id", *((b, 900 + b) for b in range(12)))
    filtered, report = filter_interactions(read(tmp_path, form, **changed).interactions, data)
    assert report == {"rows_removed": 1, "users": 12, "items": 12}
    samples = label_and_split(filtered, data)
    assert len(samples) == 120  # no rating lies between the classes
    assert samples["label"].sum() == sum(rating >= 4 for _, _, rating in pairs)
    codes = encode_fields(filtered, samples, data)
    merged = samples.merge(filtered, on="row", validate="one_to_one")
    user, item = merged[["user_id", "book_id"]].iloc[7]
    assert build_text_view(codes, data).texts(codes.codes[7:8])[0] == (
        f"user id is {user}. book id is {item}. book title is W.C. Fields: A Life on Film. "
        "book genres is non-fiction. average rating is 4.00. number of book reviews is 1. "
        "author id is 604031. author name is Ronald J. Fields. number of pages is 256. "
        "ebook flag is false. format is Paperback. publisher is St. Martin's Press. "
        "publication year is 1984. work id is 5400751. media type is book."
    )


def test_a_time_split_of_the_csv_form_says_what_is_missing(tmp_path):
    data = DATA.model_copy(update={"split": DATA.split.model_copy(update={"by": "time"})})
    with pytest.raises(ValueError, match=r"columns of the interactions table .* got 'timestamp'"):
        label_and_split(read(tmp_path, "csv").interactions, data)


# --- traps of both forms -----------------------------------------------------------------------


def test_numbers_are_strings(tmp_path):
    row = first(tmp_path, books=lines(book(num_pages="0120", text_reviews_count="12")))
    assert (row["num_pages"], row["text_reviews_count"]) == ("0120", "12")
    resaved = first(tmp_path, books=lines(book(num_pages=120, average_rating=3.5, work_id=5400751)))
    assert (resaved["num_pages"], resaved["average_rating"]) == ("120", "3.5")
    assert resaved["media_type"] == "book"


def test_missing_is_an_empty_string(tmp_path):
    empty = {key: "" for key in book() if key != "book_id"}
    result = read(tmp_path, books=lines(book(**empty)), genres=None)
    assert result.interactions[FEATURES].isna().all(axis=None)
    assert result.report["repaired"] == {}
    absent = read(tmp_path, books=lines({"book_id": "836610"}), genres=None)
    assert absent.interactions.equals(result.interactions)


@pytest.mark.parametrize(
    ("form", "values", "expected"),
    [
        ("json", [True, False, None, "absent", 1, 0, 1.0, "true", [1], 2], [1, 0, *[None] * 8]),
        ("csv", ["1", "0", "", "true", "2"], [1, 0, None, None, None]),
    ],
)
def test_is_read_is_a_boolean_in_json_and_0_or_1_in_csv(tmp_path, form, values, expected):
    if form == "json":
        expected = [1, 0, None, None, 1, 0, 1, None, None, None]
        records = [interaction(is_read=value) for value in values]
        del records[3]["is_read"]
        result = read(tmp_path, interactions=lines(*records))
    else:
        rows = [(0, 0, value, 5, 0) for value in values]
        result = read(tmp_path, "csv", interactions=interactions_csv(*rows))
    found = [None if pd.isna(value) else value for value in result.interactions["is_read"]]
    assert found == expected
    wrong = {"json": 3, "csv": 2}[form]
    assert result.report["repaired"] == {"is_read_is_no_flag": wrong}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_rating_0_is_no_rating(tmp_path, form):
    many = [0] * 9 + [3]
    raw = (
        lines(*(interaction(rating=r) for r in many))
        if form == "json"
        else interactions_csv(*((0, 0, 1, r, 0) for r in many))
    )
    result = read(tmp_path, form, interactions=raw)
    assert result.interactions["rating"].tolist() == [3.0]
    assert result.report["dropped"] == {"no_rating": 9}
    first_line = 1 if form == "json" else 2
    expected = [(JSON if form == "json" else CSV, n) for n in range(first_line, first_line + 9)]
    assert reasons(result.report, "no_rating") == expected


def test_ids_of_the_csv_form_are_turned_back_by_the_maps(tmp_path):
    raw = interactions_csv((0, 1, 1, 5, 0), (1, 0, 0, 2, 1), (7, 0, 1, 5, 0), (0, 9, 1, 5, 0))
    result = read(tmp_path, "csv", interactions=raw, books=lines(book(), book("77", title="Other")))
    found = result.interactions
    assert found["user_id"].tolist() == [USER, "f" * 32]
    assert found["book_id"].tolist() == ["77", "836610"]
    assert found["book_title"].tolist() == ["Other", "W.C. Fields: A Life on Film"]
    assert result.report["dropped"] == {
        "user_id_is_not_in_its_map": 1, "book_id_is_not_in_its_map": 1,
    }  # fmt: skip
    assert reasons(result.report, "user_id_is_not_in_its_map") == [(CSV, 4)]
    assert reasons(result.report, "book_id_is_not_in_its_map") == [(CSV, 5)]


def test_a_map_with_unusable_rows(tmp_path):
    users = table("user_id_csv,user_id", (0, USER), (0, "again"), ("", "x"), (1, ""), (2, "u2"))
    raw = interactions_csv((0, 0, 1, 5, 0), (1, 0, 1, 5, 0), (2, 0, 1, 5, 0))
    result = read(tmp_path, "csv", users_map=users, interactions=raw)
    assert result.interactions["user_id"].tolist() == [USER, "u2"]
    assert result.report["dropped"] == {"user_id_is_not_in_its_map": 1}
    assert result.report["skipped"] == {
        "empty_user_id": 1, "empty_user_id_csv": 1, "repeated_user_id_csv": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ([{"author_id": "1", "role": ""}, {"author_id": "2", "role": ""}], "1"),
        ([{"author_id": "1", "role": "Translator"}, {"author_id": "2", "role": ""}], "2"),
        ([{"author_id": "1", "role": "Illustrator"}, {"author_id": "2", "role": "Editor"}], "1"),
        ([{"author_id": "", "role": ""}, {"author_id": "2", "role": "Editor"}], "2"),
        ([{"author_id": "2"}], "2"),
        ([], None),
        ("", None),
        (None, None),
        ([{}], None),
        ("1", "unusable"),
        (["1"], "unusable"),
        ([{"author_id": ["1"]}], "unusable"),
    ],
)
def test_the_first_author_without_a_role_is_the_author(tmp_path, authors, expected):
    known = lines(author("1", name="Ann"), author("2", name="Bob"))
    result = read(tmp_path, books=lines(book(authors=authors)), authors=known)
    row = result.interactions.iloc[0]
    if expected in (None, "unusable"):
        assert pd.isna(row["author_id"])
        assert pd.isna(row["author_name"])
    else:
        assert (row["author_id"], row["author_name"]) == (
            expected,
            {"1": "Ann", "2": "Bob"}[expected],
        )
    assert bool(result.report["repaired"]) == (expected == "unusable")


def test_an_author_and_a_work_that_are_not_in_their_files(tmp_path):
    others = lines(book("1"), book(authors=[{"author_id": "9", "role": ""}], work_id="9"))
    result = read(tmp_path, books=others)
    row = result.interactions.iloc[0]
    assert (row["author_id"], row["work_id"]) == ("9", "9")
    assert row.isna()[["author_name", "media_type"]].all()
    for reason in ("author_id_is_not_in_its_file", "work_id_is_not_in_its_file"):
        assert result.report["repaired"][reason] == 1
        assert reasons(result.report, reason) == [(BOOKS, 2)]


def test_a_book_that_is_not_in_the_books_file_is_kept(tmp_path):
    raw = lines(interaction(), interaction(book="1"), interaction(book="0836610"))
    result = read(tmp_path, interactions=raw)
    assert result.interactions[FEATURES].isna().all(axis=1).tolist() == [False, True, True]
    assert result.report["repaired"] == {"book_id_is_not_in_its_file": 2}
    assert reasons(result.report, "book_id_is_not_in_its_file") == [(JSON, 2), (JSON, 3)]


def test_ids_stay_text(tmp_path):
    books = lines(book("007", title="A"), book("7", title="B"), book("nan", title="C"))
    raw = lines(*(interaction("00", b) for b in ("7", "007", "nan")), interaction("None", "7"))
    found = read(tmp_path, interactions=raw, books=books).interactions
    assert found["book_title"].tolist() == ["B", "A", "C", "B"]
    assert found["user_id"].tolist() == ["00", "00", "00", "None"]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("Fri Apr 19 08:15:15 -0700 2013", 1366384515),
        ("Thu Jan 01 00:00:00 +0000 1970", 0),
        ("Wed Feb 29 23:59:59 +0530 2012", 1330540199),
        ("", None),
        (None, None),
        (1366384515, None),
        ("2013-04-19 08:15:15", None),
        ("Ven Avr 19 08:15:15 -0700 2013", None),
        ("Fri Feb 29 08:15:15 -0700 2013", None),
        ("Fri Apr 19 24:15:15 -0700 2013", None),
        ("Wed Dec 31 16:00:00 -0700 1969", None),
        ("Fri Apr 19 08:15:15 -0700 2\u0661\u0661", None),
        ("\ud83d", None),
    ],
)
def test_dates_of_interactions(tmp_path, added, expected):
    raw = lines(interaction(), interaction(date_added=added))
    result = read(tmp_path, interactions=raw)
    assert result.interactions["timestamp"].tolist()[1:] == ([] if expected is None else [expected])
    dropped = {} if expected is not None else {"date_added_is_no_time": 1}
    assert result.report["dropped"] == dropped


def test_popular_shelves_are_the_genres_when_the_genre_file_is_absent(tmp_path):
    assert first(tmp_path, genres=None)["genre"] == "poetry|fiction"
    shelves = [{"count": str(n), "name": f"kind-of-{chr(97 + n)}"} for n in range(8)]
    ranked = first(tmp_path, genres=None, books=lines(book(popular_shelves=shelves)))
    assert (
        ranked["genre"] == "kind-of-h|kind-of-g|kind-of-f|kind-of-d|kind-of-c"
    )  # an "e-" is an electronic copy


def test_shelves_that_are_no_genres():
    published_by_readers = (
        "to-read currently-reading owned favorites books-i-own own kindle ebook e-book e-books "
        "wish-list library audiobook read-in-2015 2016-reads my-books default owned-books "
        "favourites 5-stars series to-buy dnf-d library_books Audio-Books 2014 book-club english "
        "books"
    )
    assert [name for name in published_by_readers.split() if is_genre(name)] == []
    genre_names = (
        "fiction poetry classics fantasy historical-fiction young-adult science-fiction sci-fi "
        "graphic-novels comic-books children-s-books english-literature humor 19th-century "
        "chick-lit self-help true-crime non-fiction read-aloud"
    )
    assert [name for name in genre_names.split() if not is_genre(name)] == ["read-aloud"]
    assert all(word == word.lower() and "-" not in word for word in NO_GENRE_WORDS)
    assert not any(set(name.split("-")) & NO_GENRE_WORDS for name in NO_GENRE_NAMES)


@pytest.mark.parametrize(
    ("shelves", "expected"),
    [
        ([], None),
        ("", None),
        ([{"name": "poetry"}, {"name": "art", "count": "2"}], "art|poetry"),
        ([{"name": "poetry", "count": "many"}], "poetry"),
        ([{"count": "7"}, {"name": None, "count": "9"}, {"name": "", "count": "9"}], None),
        ([{"name": "a|b", "count": "1"}], "a b"),
        ([{"name": "half \ud83d", "count": "1"}], "half \ufffd"),
        ("poetry", "unusable"),
        (["poetry"], "unusable"),
    ],
)
def test_odd_shelves(tmp_path, shelves, expected):
    result = read(tmp_path, genres=None, books=lines(book(popular_shelves=shelves)))
    value = result.interactions["genre"][0]
    assert pd.isna(value) if expected in (None, "unusable") else value == expected
    repaired = {"genre_is_not_usable": 1} if expected == "unusable" else {}
    assert result.report["repaired"] == repaired


@pytest.mark.parametrize(
    ("record", "expected", "repaired"),
    [
        (genres(poetry=2, fiction=9, romance=2), "fiction|poetry|romance", {}),
        ({"book_id": "836610", "genres": {}}, None, {}),
        ({"book_id": "836610"}, None, {}),
        ({"book_id": "836610", "genres": ["poetry"]}, None, {"genres_is_not_usable": 1}),
        (genres("1"), None, {f"book_id_is_not_in_{GENRES}": 1}),
    ],
)
def test_genre_file(tmp_path, record, expected, repaired):
    result = read(tmp_path, genres=lines(record))
    value = result.interactions["genre"][0]
    assert pd.isna(value) if expected is None else value == expected
    assert result.report["repaired"] == repaired


@pytest.mark.parametrize(
    ("key", "column", "value", "expected", "is_reported"),
    [
        ("publication_year", "publication_year", "0", None, False),
        ("publication_year", "publication_year", "0000", None, False),
        ("publication_year", "publication_year", "65", None, True),
        ("publication_year", "publication_year", "20013", None, True),
        ("publication_year", "publication_year", "-400", None, True),
        ("publication_year", "publication_year", "\u0661\u0669\u0668\u0664", None, True),
        ("publication_year", "publication_year", " 1999 ", "1999", False),
        ("num_pages", "num_pages", "0", None, False),
        ("num_pages", "num_pages", "-3", None, True),
        ("num_pages", "num_pages", "many", None, True),
        ("text_reviews_count", "text_reviews_count", "0", "0", False),
        ("average_rating", "average_rating", "0.00", "0.00", False),
        ("average_rating", "average_rating", "5.00", "5.00", False),
        ("average_rating", "average_rating", "5.01", None, True),
        ("average_rating", "average_rating", "nan", None, True),
        ("average_rating", "average_rating", float("nan"), None, True),
        ("is_ebook", "is_ebook", "true", "true", False),
        ("is_ebook", "is_ebook", True, "true", False),
        ("is_ebook", "is_ebook", "yes", None, True),
        ("title", "book_title", "  A\n\ttitle ", "A title", False),
        ("title", "book_title", "caf\u00e9 \ud83d\ude00", "caf\u00e9 \U0001f600", False),
        ("title", "book_title", "half \ud83d", "half \ufffd", False),
        ("title", "book_title", {"a": 1}, None, True),
        ("title", "book_title", True, None, True),
        ("publisher", "publisher", ["x"], None, True),
        ("format", "format", 7, "7", False),
        ("work_id", "work_id", [5400751], None, True),
    ],
)
def test_values_of_books(tmp_path, key, column, value, expected, is_reported):
    result = read(tmp_path, books=lines(book("1"), book(**{key: value})), genres=None)
    found = result.interactions[column][0]
    assert pd.isna(found) if expected is None else found == expected
    assert result.report["repaired"] == ({f"{column}_is_not_usable": 1} if is_reported else {})
    if is_reported:
        assert reasons(result.report, f"{column}_is_not_usable") == [(BOOKS, 2)]


def test_repeated_books_and_the_first_counts(tmp_path):
    result = read(tmp_path, books=lines(book(title="one"), book(title="two"), book(""), book(None)))
    assert result.interactions["book_title"].tolist() == ["one"]
    assert result.report["skipped"] == {"repeated_book_id": 1, "empty_book_id": 2}


# --- interactions that cannot be used --------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("user_id", "absent", "empty_user_id"),
        ("user_id", None, "empty_user_id"),
        ("user_id", "", "empty_user_id"),
        ("user_id", 7, "user_id_is_not_text"),
        ("user_id", "\ud83d", "user_id_is_not_text"),
        ("book_id", "absent", "empty_book_id"),
        ("book_id", "", "empty_book_id"),
        ("book_id", 836610, "book_id_is_not_text"),
        ("rating", "absent", "rating_is_not_a_number"),
        ("rating", None, "rating_is_not_a_number"),
        ("rating", "", "rating_is_not_a_number"),
        ("rating", "good", "rating_is_not_a_number"),
        ("rating", True, "rating_is_not_a_number"),
        ("rating", [5], "rating_is_not_a_number"),
        ("rating", float("nan"), "rating_is_not_a_number"),
        ("rating", float("inf"), "rating_is_not_a_number"),
        ("rating", 10**400, "rating_is_not_a_number"),
        ("rating", -1, "rating_is_not_on_the_scale"),
        ("rating", 0.5, "rating_is_not_on_the_scale"),
        ("rating", 6, "rating_is_not_on_the_scale"),
        ("date_added", "absent", "date_added_is_no_time"),
    ],
)
def test_a_row_of_the_json_form_that_cannot_be_used(tmp_path, key, value, reason):
    bad = interaction() | {key: value}
    if value == "absent":
        del bad[key]
    report = read(tmp_path, interactions=lines(interaction(), bad)).report
    assert report["dropped"] == {reason: 1}
    assert reasons(report, reason) == [(JSON, 2)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (",0,1,5,0", "empty_user_id"),
        ("0,,1,5,0", "empty_book_id"),
        ("0,0,1,,0", "rating_is_not_a_number"),
        ("0,0,1,good,0", "rating_is_not_a_number"),
        ("0,0,1,nan,0", "rating_is_not_a_number"),
        ("0,0,1,9,0", "rating_is_not_on_the_scale"),
        ("00,0,1,5,0", "user_id_is_not_in_its_map"),
        ("0,0,1,5", "wrong_number_of_columns"),
        ("0,0,1,5,0,0", "wrong_number_of_columns"),
        ('"0,0,1,5,0', "misplaced_quote"),
        ('0,"0"x,1,5,0', "misplaced_quote"),
        ("x", "wrong_number_of_columns"),
    ],
)
def test_a_row_of_the_csv_form_that_cannot_be_used(tmp_path, row, reason):
    raw = interactions_csv((0, 0, 1, 5, 0)) + f"{row}\n".encode() + b"0,1,0,4,0\n"
    report = read(tmp_path, "csv", interactions=raw).report
    assert report["dropped"] == {reason: 1}
    assert report["rows_kept"] == 2
    assert reasons(report, reason) == [(CSV, 3)]


def test_csv_quotes_columns_by_name_line_ends_and_bad_bytes(tmp_path):
    raw = (
        b"\xef\xbb\xbf\r\nextra,rating,is_read,book_id,user_id\r\n"
        b'x,5,1,0,0\r\n"x","4","0","1","1"\r\n\r\n\xff,3,1,0,0'
    )
    result = read(tmp_path, "csv", interactions=raw)
    assert result.interactions["rating"].tolist() == [5.0, 4.0, 3.0]
    assert result.interactions["user_id"].tolist() == [USER, "f" * 32, USER]
    assert result.report["skipped"] == {"blank_line": 2}
    assert result.report["repaired"] == {
        "book_id_is_not_in_its_file": 1, "byte_order_mark": 1, "no_final_line_end": 1,
        "not_utf8": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [b'{"user_id": "A1", ', b"[]", b"5", b'{"user_id": "\xe9"}', b"[" * 100_000, b"{}{}"],
)
@pytest.mark.parametrize("which", ["interactions", "books", "authors", "works", "genres"])
def test_bad_lines_are_reported_with_their_number(tmp_path, bad, which):
    good = {
        "interactions": lines(interaction(), interaction()),
        "books": lines(book(), book("1")),
        "authors": lines(author(), author("1")),
        "works": lines(work(), work("1")),
        "genres": lines(genres(), genres("1")),
    }[which]
    report = read(tmp_path, **{which: good + bad + b"\n"}).report
    assert report["dropped" if which == "interactions" else "skipped"] == {"malformed_line": 1}
    assert [line for _, line in reasons(report, "malformed_line")] == [3]


# --- files that cannot be used as a whole ------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "absent", "message"),
    [
        ("json", JSON, "goodreads_interactions_dedup.json or goodreads_interactions.csv"),
        ("json", BOOKS, BOOKS),
        ("json", AUTHORS, AUTHORS),
        ("csv", WORKS, WORKS),
        ("csv", USER_MAP, USER_MAP),
        ("csv", BOOK_MAP, BOOK_MAP),
    ],
)
def test_a_missing_file_is_named_with_the_place_where_it_is_published(
    tmp_path, form, absent, message
):
    raw = published(form)
    del raw[absent]
    expected = (
        rf"files must hold {re.escape(message)}, got .*; "
        r"published at https://mengtingwan\.github\.io/data/goodreads\.html"
    )
    with pytest.raises(ValueError, match=expected):
        read_interactions(written(tmp_path, raw), DATA)


def test_files_of_two_forms_and_unknown_files(tmp_path):
    raw = published() | {CSV: interactions_csv()}
    with pytest.raises(ValueError, match=r"files must hold one of goodreads_interactions\.csv, "):
        read_interactions(written(tmp_path, raw), DATA)
    raw = published() | {"goodreads_reviews_dedup.json": b"{}\n"}
    with pytest.raises(
        ValueError, match=r"files must be .*, got goodreads_reviews_dedup\.json too"
    ):
        read_interactions(written(tmp_path, raw), DATA)


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("empty", [b"", b"\n\n", b" \r\n"])
def test_empty_files(tmp_path, form, empty):
    for name in published(form):
        raw = published(form) | {name: empty}
        with pytest.raises(ValueError, match=rf"{name} must hold rows, got an empty file"):
            read_interactions(written(tmp_path, raw), DATA)


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("cut", [5, 20, -4])
def test_truncated_gzip(tmp_path, form, cut):
    for name, content in published(form).items():
        raw = published(form) | {name: gzip.compress(content)[:cut]}
        with pytest.raises(ValueError, match=rf"{name} must be a whole gzip file, got a damaged"):
            read_interactions(written(tmp_path, raw), DATA)


def test_truncated_files(tmp_path):
    message = r"must end with a whole line, got a truncated file: line 2"
    raw = lines(interaction(), interaction())[:-30]
    with pytest.raises(ValueError, match=message):
        read(tmp_path, interactions=raw)
    with pytest.raises(ValueError, match=message + r" has 3 of 5 columns: '0,1,1'"):
        read(tmp_path, "csv", interactions=interactions_csv((0, 1, 1))[:-1])


def test_csv_with_another_header(tmp_path):
    raw = table("user,book,rating", (0, 0, 5))
    with pytest.raises(ValueError, match=r"must start with the header .* got 'user,book,rating'"):
        read(tmp_path, "csv", interactions=raw)


def test_most_rows_unusable_means_another_format(tmp_path):
    message = (
        r"must be in its published format, got 2 of 3 rows that cannot be used "
        r"\(malformed_line 2\); line 2: 'x'"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, interactions=lines(interaction(), "x", "x"))


def test_books_of_another_subset(tmp_path):
    message = r"the books file must describe the books of .*, got none of its first 1 rated rows"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, books=lines(book("1")))


def test_no_row_with_a_rating(tmp_path):
    message = r"must hold rows with a rating, got none in 2 rows \(no_rating 2\)"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, interactions=lines(interaction(rating=0), interaction(rating=0)))


# --- a slow twin, blocks and batches -------------------------------------------------------------


def twin(raw: dict[str, bytes]) -> list[dict[str, Any]]:
    """The interactions by csv, json, dicts and strptime, a row at a time."""

    def records(name: str, key: str) -> dict[str, dict[str, Any]]:
        found = [json.loads(line) for line in raw[name].decode().splitlines()]
        return {record[key]: record for record in found}

    books, authors = records(BOOKS, "book_id"), records(AUTHORS, "author_id")
    works, groups = records(WORKS, "work_id"), records(GENRES, "book_id")
    if CSV in raw:
        maps = {}
        for name in ("user_id", "book_id"):
            rows = csv.DictReader(raw[f"{name}_map.csv"].decode().splitlines())
            maps[name] = {row[f"{name}_csv"]: row[name] for row in rows}
        interactions = []
        for row in csv.DictReader(raw[CSV].decode().splitlines()):
            row |= {name: mapped[row[name]] for name, mapped in maps.items()}
            interactions.append(row | {"is_read": row["is_read"] == "1"})
    else:
        interactions = [json.loads(line) for line in raw[JSON].decode().splitlines()]
    table = []
    for row in interactions:
        if int(row["rating"]) == 0:
            continue
        book = books.get(row["book_id"], {})
        writers = book.get("authors") or [{"author_id": None}]
        alone = [w["author_id"] for w in writers if not w.get("role")]
        writer = alone[0] if alone else writers[0]["author_id"]
        counts = groups.get(row["book_id"], {}).get("genres", {})
        features = {
            "book_title": book.get("title"),
            "genre": "|".join(sorted(counts, key=lambda name: -counts[name])),
            **{name: book.get(name) for name in FEATURES[2:4] + FEATURES[6:12]},
            "author_id": writer,
            "author_name": authors.get(writer, {}).get("name"),
            "media_type": works.get(book.get("work_id"), {}).get("media_type"),
        }
        if features["publication_year"] == "0":
            features["publication_year"] = None
        time = {}
        if CSV not in raw:
            parsed = datetime.strptime(row["date_added"], "%a %b %d %H:%M:%S %z %Y")
            time["timestamp"] = int(parsed.timestamp())
        table.append(
            {
                "row": len(table),
                "user_id": row["user_id"],
                "book_id": row["book_id"],
                **{name: features[name] or None for name in FEATURES},
                "rating": float(row["rating"]),
                "is_read": float(row["is_read"]),
                **time,
            }
        )
    return table


def random_files(form: str, seed: int, rows: int) -> dict[str, bytes]:
    draw = random.Random(seed)
    books = [
        book(
            str(100 + n),
            title=draw.choice(["", "Émile", "A, B", 'So "it" is', "日本"]) and f"Book {n} é",
            authors=[
                {"author_id": str(draw.randrange(6)), "role": draw.choice(["", "Editor"])}
                for _ in range(draw.randrange(4))
            ],
            publication_year=draw.choice(["", "0", "1999", "2010"]),
            is_ebook=draw.choice(["", "true", "false"]),
            work_id=draw.choice(["", str(draw.randrange(8))]),
            num_pages=draw.choice(["", "12"]),
        )
        for n in range(12)
    ]
    names = ["poetry", "fantasy, paranormal", "fiction", "romance"]
    groups = [
        {
            "book_id": b["book_id"],
            "genres": {g: draw.randint(1, 3) for g in draw.sample(names, draw.randrange(4))},
        }
        for b in books[1:]
    ]
    draw.shuffle(groups)
    raw = {
        BOOKS: lines(*books),
        AUTHORS: lines(*(author(str(n), name=f"Name {n}") for n in range(5))),
        WORKS: lines(*(work(str(n), media_type=draw.choice(["book", ""])) for n in range(7))),
        GENRES: lines(*groups),
    }
    users = [f"{draw.getrandbits(128):032x}" for _ in range(7)]
    pairs = [(draw.randrange(7), draw.randrange(14), draw.randint(0, 5)) for _ in range(rows)]
    ids = [str(100 + n) for n in range(14)]  # the last two have no book
    if form == "csv":
        raw[USER_MAP] = table("user_id_csv,user_id", *enumerate(users))
        raw[BOOK_MAP] = table("book_id_csv,book_id", *enumerate(ids))
        raw[CSV] = interactions_csv(*((u, b, int(r > 0), r, 0) for u, b, r in pairs))
        return raw
    zones = [timezone(timedelta(hours=h)) for h in (-8, -7, 0, 5)]
    times = [
        datetime.fromtimestamp(draw.randrange(10**9, 1_600_000_000), UTC).astimezone(z)
        for z in draw.choices(zones, k=rows)
    ]
    raw[JSON] = lines(
        *(
            interaction(
                users[u], ids[b], r, is_read=r > 0, date_added=t.strftime("%a %b %d %H:%M:%S %z %Y")
            )
            for (u, b, r), t in zip(pairs, times, strict=True)
        )
    )
    return raw


@pytest.mark.parametrize("form", ["json", "csv"])
@pytest.mark.parametrize("seed", range(3))
def test_the_same_as_a_slow_twin(tmp_path, form, seed):
    raw = random_files(form, seed, 300)
    found = read_interactions(written(tmp_path, raw), DATA).interactions
    records = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in found.to_dict("records")
    ]
    assert records == twin(raw)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_blocks_and_batches_change_nothing(tmp_path, monkeypatch, form):
    """Blocks of the file cut anywhere, and batches of any size."""
    raw = random_files(form, 5, 60)
    raw[JSON if form == "json" else CSV] += b"\nx\n\n" if form == "csv" else lines("", "x", "")
    files = written(tmp_path, raw)
    expected = read_interactions(files, DATA)
    assert expected.report["skipped"] == {"blank_line": 1}
    for block, batch in ((1, 7), (13, 1), (1000, 25), (1 << 20, 1)):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block)
        monkeypatch.setattr(goodreads, "ROWS_PER_BATCH", batch)
        found = read_interactions(files, DATA)
        assert found.interactions.equals(expected.interactions)
        for part in expected.report:
            if part != "examples":
                assert found.report[part] == expected.report[part]
        order = lambda report: sorted(report["examples"], key=str)  # noqa: E731
        assert order(found.report) == order(expected.report)


@pytest.mark.parametrize("form", ["json", "csv"])
def test_large_interactions_are_read_as_a_stream(tmp_path, monkeypatch, form):
    """The first batch comes before the file is read: here, before its damaged end is met."""
    raw = random_files(form, 1, 4000)
    name = JSON if form == "json" else CSV
    raw[name] = gzip.compress(raw[name], compresslevel=0)[:-20]
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 2000)
    monkeypatch.setattr(goodreads, "ROWS_PER_BATCH", 100)
    opened = stream(written(tmp_path, raw), DATA)
    batches = iter(opened)
    batch = next(batches)
    assert 0 < batch.num_rows <= 100
    with pytest.raises(ValueError, match="must be a whole gzip file, got a damaged one"):
        list(batches)
    with pytest.raises(RuntimeError, match="the report is complete after the last batch"):
        _ = opened.report


# --- fuzzing -------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.one_of(st.text(max_size=3), st.dictionaries(
        st.sampled_from(["author_id", "role", "name", "count"]), st.text(max_size=3), max_size=2
    )), max_size=3),
    st.dictionaries(st.text(max_size=3), st.one_of(st.integers(), st.text(max_size=3)), max_size=2),
)  # fmt: skip
MANY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 20),
        st.one_of(st.binary(max_size=6), st.sampled_from([b"\n", b'"', b",", b"\\ud83d", b"}{"])),
    ),
    max_size=4,
)


def small_files(form: str) -> dict[str, bytes]:
    raw = published(form)
    raw[BOOKS] += lines(book("1"), book("2", work_id=""))
    if form == "json":
        raw[JSON] = lines(*(interaction(f"u{n}", str(n), n) for n in range(4)), interaction())
    else:
        raw[CSV] = interactions_csv(*((n % 2, n % 2, 1, n, 0) for n in range(6)))
    return raw


def check_fuzzed(folder: Path, raw: dict[str, bytes], interactions: bytes) -> None:
    """A table and a report that account for every line, or a message; ``interactions`` unpacked."""
    error: ValueError | None = None
    try:
        result = read_interactions(written(folder, raw), DATA)
    except ValueError as caught:
        error = caught
    if error is not None:
        assert type(error) is ValueError, repr(error)  # no decoder's own error
        assert re.search(r"(?s) must .*, got ", str(error))
        return
    found, report = result.interactions, result.report
    whole = interactions.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    header = CSV in raw
    assert report["rows_read"] == sum(bool(line.strip()) for line in whole) - header
    assert report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())
    assert found["row"].tolist() == list(range(report["rows_kept"]))
    assert found[["user_id", "book_id", "rating"]].notna().all(axis=None)
    assert found["rating"].between(1, 5).all()
    for name in ("user_id", "book_id", *FEATURES):
        assert not (found[name] == "").any()
    json.dumps(report, ensure_ascii=False).encode()


@MANY
@given(
    name=st.sampled_from([JSON, BOOKS, AUTHORS, WORKS, GENRES]),
    with_genres=st.booleans(),
    row=st.integers(0, 4),
    key=st.integers(0, 30),
    value=CELLS,
    absent=st.booleans(),
)
def test_any_value_under_any_key(tmp_path, name, with_genres, row, key, value, absent):
    raw = small_files("json")
    records = [json.loads(line) for line in raw[name].splitlines()]
    record = records[row % len(records)]
    changed = list(record)[key % len(record)]
    if absent:
        del record[changed]
    else:
        record[changed] = value
    raw[name] = lines(*records)
    if not with_genres:
        del raw[GENRES]
    check_fuzzed(tmp_path, raw, raw[JSON])


@MANY
@given(
    form=st.sampled_from(["json", "csv"]),
    which=st.integers(0, 6),
    edits=EDITS,
    packed=st.booleans(),
)
@example(form="csv", which=0, edits=[(0.0, 0, b"\n")], packed=False)
@example(form="csv", which=0, edits=[(0.5, 3, b'"')], packed=False)
@example(form="json", which=0, edits=[(0.5, 0, b"}\n{")], packed=False)
def test_any_bytes_anywhere(tmp_path, form, which, edits, packed):
    raw = small_files(form)
    name = list(raw)[which % len(raw)]
    damaged = gzip.compress(raw[name], mtime=0) if packed else raw[name]
    for place, removed, inserted in edits:
        at = int(place * len(damaged))
        damaged = damaged[:at] + inserted + damaged[at + removed :]
    if packed and damaged[:2] != b"\x1f\x8b":
        return  # then it is read as plain text: the other branch
    interactions = JSON if form == "json" else CSV
    # gzip's checksum finds every change of the content
    unpacked = raw[interactions] if packed or name != interactions else damaged
    raw[name] = damaged
    check_fuzzed(tmp_path, raw, unpacked)
