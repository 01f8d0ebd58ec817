"""MovieLens-1M and -100K: small files in their raw formats, with the published traps."""

from __future__ import annotations

from pathlib import Path

import pytest

from clickprompt.parameters import DataParameters
from clickprompt.readers import ReadResult, read_interactions

USERS_1M = "1::F::1::10::48067\n2::M::56::16::70072-1234\n3::M::25::0::\n"
MOVIES_1M = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n"
    "2::Misérables, Les (1995)::Drama|Musical\n"
    "3::Fantasia 2000 (1999)::Musical\n"
)
RATINGS_1M = "1::1::5::978300760\n1::2::3::978302109\n2::2::1::978301968\n3::3::4::978300275\n"

FLAGS = {"unknown": 0, "Action": 1, "Animation": 3, "Children's": 4, "Comedy": 5, "Drama": 8}


def item_100k(movie: str, title: str, date: str, *genres: str) -> str:
    flags = ["0"] * 19
    for genre in genres:
        flags[FLAGS[genre]] = "1"
    return "|".join([movie, title, date, "", "http://example.org/a", *flags]) + "\n"


ITEMS_100K = (
    item_100k("1", "Toy Story (1995)", "01-Jan-1995", "Animation", "Children's", "Comedy")
    + item_100k("267", "unknown", "", "unknown")
    + item_100k("2", "Misérables, Les (1995)", "01-Jan-1995", "Drama")
    + item_100k("3", "Land Before Time III (1995) (V)", "01-Jan-1995", "Animation")
)
USERS_100K = "1|24|M|technician|85711\n2|53|F|other|T8H1N\n"
RATINGS_100K = "1\t1\t5\t874965758\n1\t267\t4\t875693118\n2\t2\t2\t888550871\n2\t3\t3\t888550872\n"
USER_0 = "0\t1\t5\t881250949\n0\t267\t5\t881250949\n0\t2\t1\t881250949\n"


def read(folder: Path, reader: str, files: dict[str, str | bytes], **options: bool) -> ReadResult:
    paths = {}
    for name, content in files.items():
        paths[name] = folder / name
        raw = content.encode("latin-1") if isinstance(content, str) else content
        paths[name].write_bytes(raw)
    data = DataParameters(
        reader=reader,
        item="movie_id",
        fields=[{"column": "user_id", "name": "user id"}],
        label={"positive_from": 4, "negative_to": 2},
        options=options,
    )
    return read_interactions(paths, data)


def files_1m(**changed: str | bytes) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "ratings.dat": RATINGS_1M,
        "users.dat": USERS_1M,
        "movies.dat": MOVIES_1M,
    }
    return files | {name.replace("_", "."): content for name, content in changed.items()}


def files_100k(**changed: str | bytes) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "u.data": RATINGS_100K,
        "u.user": USERS_100K,
        "u.item": ITEMS_100K,
    }
    return files | {name.replace("_", "."): content for name, content in changed.items()}


def nulls_as_none(table, column):
    return [
        None if missing else value
        for value, missing in zip(table[column], table[column].isna(), strict=True)
    ]


def test_1m_decodes_codes_and_latin1(tmp_path):
    result = read(tmp_path, "movielens_1m", files_1m())
    table = result.interactions
    assert list(table) == [
        "row",
        "user_id",
        "gender",
        "age",
        "occupation",
        "zip_code",
        "movie_id",
        "movie_title",
        "genre",
        "release_year",
        "rating",
        "timestamp",
    ]
    assert list(table["age"]) == ["under 18", "under 18", "56+", "25-34"]
    assert list(table["occupation"]) == [
        "K-12 student",
        "K-12 student",
        "self-employed",
        "other or not specified",
    ]
    assert nulls_as_none(table, "zip_code") == ["48067", "48067", "70072-1234", None]
    assert list(table["movie_title"]) == [
        "Toy Story",
        "Misérables, Les",
        "Misérables, Les",
        "Fantasia 2000",
    ]
    assert list(table["release_year"]) == ["1995", "1995", "1995", "1999"]
    assert result.report["rows_read"] == 4
    assert not any(result.report[kind] for kind in ("dropped", "repaired", "skipped"))


def test_all_codes_of_1m_have_words(tmp_path):
    ages = (1, 18, 25, 35, 45, 50, 56)
    users = "".join(f"{n + 1}::F::{ages[n % 7]}::{n}::00000\n" for n in range(21))
    ratings = "".join(f"{n + 1}::1::5::1\n" for n in range(21))
    table = read(
        tmp_path, "movielens_1m", files_1m(users_dat=users, ratings_dat=ratings)
    ).interactions
    assert table["age"].nunique() == 7
    assert table["occupation"].nunique() == 21
    assert not table["occupation"].str.fullmatch(r"\d+").any()


def test_an_unknown_code_stays_and_is_reported(tmp_path):
    users = USERS_1M.replace("::25::0::", "::26::21::")
    result = read(tmp_path, "movielens_1m", files_1m(users_dat=users))
    assert list(result.interactions["age"])[-1] == "26"
    assert result.report["repaired"] == {"unknown_age_code": 1, "unknown_occupation_code": 1}


def test_utf8_copy_of_a_latin1_file_is_noticed(tmp_path):
    copy = ("\ufeff" + MOVIES_1M).encode("utf-8")
    result = read(tmp_path, "movielens_1m", files_1m(movies_dat=copy))
    assert "Misérables, Les" in set(result.interactions["movie_title"])
    assert result.report["repaired"] == {"byte_order_mark": 1}
    result = read(tmp_path, "movielens_1m", files_1m(movies_dat=MOVIES_1M.encode("utf-8")))
    assert "Misérables, Les" in set(result.interactions["movie_title"])
    assert result.report["repaired"] == {"utf8_instead_of_latin1": 1}
    assert result.report["examples"][0]["line"] == 2


def test_100k_flags_unknown_movie_and_video_titles(tmp_path):
    result = read(tmp_path, "movielens_100k", files_100k())
    table = result.interactions
    assert nulls_as_none(table, "genre") == [
        "Animation|Children's|Comedy",
        None,
        "Drama",
        "Animation",
    ]
    assert list(table["movie_title"])[2:] == ["Misérables, Les", "Land Before Time III (V)"]
    assert nulls_as_none(table, "release_year") == ["1995", None, "1995", "1995"]
    assert list(table["age"]) == ["24", "24", "53", "53"]
    assert list(table["zip_code"]) == ["85711", "85711", "T8H1N", "T8H1N"]
    assert result.report["repaired"] == {"title_without_year": 1, "movie_without_genre": 1}


def test_invented_user_0_is_dropped_and_listed(tmp_path):
    result = read(tmp_path, "movielens_100k", files_100k(u_data=USER_0 + RATINGS_100K))
    plain = read(tmp_path, "movielens_100k", files_100k())
    assert result.interactions.equals(plain.interactions)
    assert result.report["rows_read"] == 7
    assert result.report["dropped"] == {"user_id_is_not_in_its_file": 3}
    listed = [e for e in result.report["examples"] if e["file"] == "u.data"]
    assert [e["line"] for e in listed] == [1, 2, 3]


BAD_RATINGS = {
    "1::1::5::978300760": "duplicate_row",
    "9::1::5::978300760": "user_id_is_not_in_its_file",
    "1::9::5::978300760": "movie_id_is_not_in_its_file",
    "::1::5::978300760": "empty_user_id",
    "1::::5::978300760": "empty_movie_id",
    "2::1::five::978300760": "rating_is_not_a_number",
    "2::1::nan::978300760": "rating_is_not_a_number",
    "2::1::6::978300760": "rating_is_not_on_the_scale",
    "2::1::5::2000-01-01": "timestamp_is_not_a_whole_number",
    "2::1::5": "wrong_number_of_columns",
    "2::1::5::9::9": "wrong_number_of_columns",
}


@pytest.mark.parametrize(("line", "reason"), BAD_RATINGS.items())
def test_a_bad_rating_is_dropped_with_line_reason_and_text(tmp_path, line, reason):
    lines = RATINGS_1M.splitlines()
    ratings = "\n".join([*lines[:3], line, *lines[3:]]) + "\n"
    result = read(tmp_path, "movielens_1m", files_1m(ratings_dat=ratings))
    report = result.report
    assert report["dropped"] == {reason: 1}
    assert report["examples"] == [
        {"file": "ratings.dat", "line": 4, "reason": reason, "text": line}
    ]
    assert (report["rows_read"], report["rows_kept"]) == (5, 4)
    good = read(tmp_path, "movielens_1m", files_1m()).interactions
    assert result.interactions.equals(good)


def test_a_second_rating_of_a_pair_is_no_duplicate(tmp_path):
    result = read(
        tmp_path, "movielens_1m", files_1m(ratings_dat=RATINGS_1M + "1::1::2::978300999\n")
    )
    assert len(result.interactions) == 5


def test_bad_lines_of_other_files_are_skipped_and_listed(tmp_path):
    movies = MOVIES_1M + "1::Another (2000)::Drama\nbroken line\n\n4::Last (2000)::Drama\n"
    result = read(tmp_path, "movielens_1m", files_1m(movies_dat=movies))
    assert result.report["dropped"] == {}
    assert result.report["skipped"] == {
        "blank_line": 1,
        "wrong_number_of_columns": 1,
        "repeated_movie_id": 1,
    }
    lines = {e["reason"]: e["line"] for e in result.report["examples"]}
    assert lines == {"blank_line": 6, "wrong_number_of_columns": 5, "repeated_movie_id": 4}
    assert result.interactions["movie_title"].iloc[0] == "Toy Story"


def test_rows_add_up_and_examples_are_limited(tmp_path):
    good = "".join(f"1::1::5::{n}\n" for n in range(1, 301))
    bad = "1::9::5::1\n" * 150 + "x" * 500 + "\n"
    report = read(tmp_path, "movielens_1m", files_1m(ratings_dat=good + bad)).report
    assert report["rows_read"] == 451
    assert report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())
    assert report["dropped"]["movie_id_is_not_in_its_file"] == 150
    reasons = [e["reason"] for e in report["examples"]]
    assert reasons.count("movie_id_is_not_in_its_file") == 100
    assert max(len(e["text"]) for e in report["examples"]) <= 201


def test_a_last_line_without_line_end_is_kept_and_reported(tmp_path):
    result = read(tmp_path, "movielens_1m", files_1m(ratings_dat=RATINGS_1M.rstrip("\n")))
    assert len(result.interactions) == 4
    assert result.report["repaired"] == {"no_final_line_end": 1}


def test_windows_line_ends_make_no_difference(tmp_path):
    plain = read(tmp_path, "movielens_1m", files_1m()).interactions
    changed = {name: text.replace("\n", "\r\n") for name, text in files_1m().items()}
    assert read(tmp_path, "movielens_1m", changed).interactions.equals(plain)
