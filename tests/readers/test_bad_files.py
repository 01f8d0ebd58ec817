"""Files that cannot be used as a whole: each error names the file and what was found."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from clickprompt.parameters import DataParameters
from clickprompt.readers import READERS, read_interactions

RATINGS = b"userId,movieId,rating,timestamp\r\n1,1,4.0,964982703\r\n1,2,2.0,964981247\r\n"
MOVIES = (
    'movieId,title,genres\r\n1,Toy Story (1995),Comedy\r\n2,"Misérables, Les (1995)",Drama\r\n'
).encode()


def parameters(reader: str = "movielens_small", **options: object) -> DataParameters:
    return DataParameters(
        reader=reader,
        item="movie_id",
        fields=[{"column": "user_id", "name": "user id"}],
        label={"positive_from": 4, "negative_to": 2},
        options=options,
    )


def read(folder: Path, **changed: bytes):
    files = {}
    for name, raw in ({"ratings": RATINGS, "movies": MOVIES} | changed).items():
        files[f"{name}.csv"] = folder / f"{name}.csv"
        files[f"{name}.csv"].write_bytes(raw)
    return read_interactions(files, parameters())


def test_the_files_as_they_should_be(tmp_path):
    assert len(read(tmp_path).interactions) == 2


@pytest.mark.parametrize("raw", [b"", b"\r\n", b"  \n\n"])
def test_empty_file(tmp_path, raw):
    with pytest.raises(ValueError, match=r"ratings\.csv must hold rows, got an empty file"):
        read(tmp_path, ratings=raw)


def test_header_only(tmp_path):
    with pytest.raises(ValueError, match=r"ratings\.csv must hold at least one row, got none"):
        read(tmp_path, ratings=RATINGS.split(b"1,1")[0])


def test_wrong_separator_under_a_header(tmp_path):
    message = (
        r"ratings\.csv must start with the header 'userId,movieId,rating,timestamp', "
        r"got 'userId;movieId;rating;timestamp'; its separator seems to be ';'"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, ratings=RATINGS.replace(b",", b";"))


def test_missing_column(tmp_path):
    raw = b"userId,movieId,timestamp\n1,1,9\n"
    with pytest.raises(ValueError, match=r"ratings\.csv must start .* missing column: rating"):
        read(tmp_path, ratings=raw)


def test_columns_are_found_by_name(tmp_path):
    raw = b"timestamp,extra,userId,rating,movieId\n964982703,x,1,4.0,1\n964981247,x,1,2.0,2\n"
    assert read(tmp_path, ratings=raw).interactions.equals(read(tmp_path).interactions)


def test_quoted_and_plain_files_give_the_same(tmp_path):
    quoted = b"\r\n".join(
        b",".join(b'"' + cell + b'"' for cell in line.split(b",")) for line in RATINGS.split()
    )
    result = read(tmp_path, ratings=quoted + b"\r\n")
    assert result.interactions.equals(read(tmp_path).interactions)


def test_line_numbers_of_quoted_files_count_lines_inside_quotes(tmp_path):
    movies = MOVIES + b'3,"Two\r\nlines (2000)",Drama\r\n4,too,many,columns\r\n'
    report = read(tmp_path, movies=movies).report
    assert report["skipped"] == {"wrong_number_of_columns": 1}
    assert [e["line"] for e in report["examples"]] == [6]


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        (
            "ratings",
            RATINGS[:-12],
            r"ratings\.csv must end with a whole line, got a truncated file",
        ),
        ("movies", MOVIES[:-14], r"movies\.csv must end with a whole line, got a truncated file"),
        ("movies", MOVIES[:-9], r"movies\.csv must end with a whole line, got a truncated file"),
    ],
)
def test_truncated_file(tmp_path, name, raw, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **{name: raw})


@pytest.mark.parametrize("cut", [5, 20, -4])
def test_truncated_gzip(tmp_path, cut):
    with pytest.raises(ValueError, match=r"ratings\.csv must be a whole gzip file, got a damaged"):
        read(tmp_path, ratings=gzip.compress(RATINGS)[:cut])


def test_wrong_encoding(tmp_path):
    raw = MOVIES.decode().encode("latin-1")
    message = r"movies\.csv must be utf-8 text, got byte 0xe9 in line 3: .*Mis.*another encoding"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, movies=raw)


def test_a_cut_between_carriage_return_and_line_feed_is_reported(tmp_path):
    result = read(tmp_path, ratings=RATINGS[:-1])
    assert len(result.interactions) == 2
    assert result.report["repaired"] == {"no_final_line_end": 1}


def test_utf16_and_binary(tmp_path):
    with pytest.raises(ValueError, match=r"movies\.csv must be utf-8 text, got UTF-16 or binary"):
        read(tmp_path, movies=MOVIES.decode().encode("utf-16"))


@pytest.mark.parametrize("reader", [name for name in READERS if READERS[name].files])
def test_every_reader_names_the_file_that_it_cannot_read(tmp_path, reader):
    with pytest.raises(ValueError, match=r"files must hold .+, got none"):
        read_interactions({}, parameters(reader))
    files = {name: tmp_path / name for name in READERS[reader].files}
    for raw, message in (
        (b"", r"must hold rows, got an empty file"),
        ("Müller".encode("utf-16"), r"must be \S+ text, got UTF-16 or binary data"),
        (b"\x1f\x8b\x08", r"must be a whole gzip file, got a damaged one"),
        (b"no such format\n", r"no such format"),
    ):
        for path in files.values():
            path.write_bytes(raw)
        with pytest.raises(ValueError, match=message) as error:
            read_interactions(files, parameters(reader))
        assert any(name in str(error.value) for name in files)


def test_file_not_given(tmp_path):
    with pytest.raises(ValueError, match=r"files must hold movies\.csv, got ratings\.csv"):
        read_interactions({"ratings.csv": tmp_path / "ratings.csv"}, parameters())


def test_most_rows_unusable_means_another_format(tmp_path):
    raw = RATINGS.replace(b",4.0,", b",good,").replace(b",2.0,", b",bad,")
    message = (
        r"ratings\.csv must be in its published format, got 2 of 2 rows .*not_a_number.*line 2"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, ratings=raw)


def test_wrong_separator_without_header(tmp_path):
    files = {}
    for name, text in {
        "ratings.dat": "1,1,5,978300760\n1,2,3,978302109\n",
        "users.dat": "1::F::1::10::48067\n",
        "movies.dat": "1::Toy Story (1995)::Comedy\n",
    }.items():
        files[name] = tmp_path / name
        files[name].write_text(text)
    message = (
        r"ratings\.dat must have 4 columns separated by '::' "
        r"\(user_id, movie_id, rating, timestamp\), got 1 in line 1: "
        r"'1,1,5,978300760'; its separator seems to be ','"
    )
    with pytest.raises(ValueError, match=message):
        read_interactions(files, parameters("movielens_1m"))


def test_unknown_reader_and_options():
    with pytest.raises(
        ValueError, match=r"data\.reader must be one of .*did you mean 'movielens_1m'"
    ):
        read_interactions({}, parameters("movielens1m"))
    with pytest.raises(ValueError, match=r"data\.options must be .*did you mean 'year_in_title'"):
        read_interactions({}, parameters(year_title=True))
    with pytest.raises(ValueError, match=r"data\.options\.year_in_title must be a bool, got 'yes'"):
        read_interactions({}, parameters(year_in_title="yes"))
