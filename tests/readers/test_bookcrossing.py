"""BookCrossing: small files in the published layout, with every trap of it."""

from __future__ import annotations

import gzip
import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clickprompt.modality import label_and_split
from clickprompt.parameters import DataParameters, check_parameters
from clickprompt.readers import ReadResult, read_interactions
from clickprompt.readers.formats.text_table import LINES_PER_ROW, read_table
from clickprompt.readers.report import ReadReport
from tests.docs.test_readme import configuration
from tests.reference import bookcrossing_twin as twin

RATINGS, USERS, BOOKS = "BX-Book-Ratings.csv", "BX-Users.csv", "BX-Books.csv"
URLS = tuple(f"http://images.amazon.com/images/P/0195153448.01.{s}ZZZZZZZ.jpg" for s in "TML")


def line(*cells: str | None) -> str:
    """A published line: everything quoted but NULL, a quote inside as \\"."""
    quoted = (
        "NULL" if c is None else '"' + c.replace("\\", "\\\\").replace('"', '\\"') + '"'
        for c in cells
    )
    return ";".join(quoted) + "\r\n"


def book(isbn: str, title: str, author: str, year: str, publisher: str) -> str:
    return line(isbn, title, author, year, publisher, *URLS)


HEADERS = {
    RATINGS: line("User-ID", "ISBN", "Book-Rating"),
    USERS: line("User-ID", "Location", "Age"),
    BOOKS: line(
        "ISBN", "Book-Title", "Book-Author", "Year-Of-Publication", "Publisher",
        "Image-URL-S", "Image-URL-M", "Image-URL-L",
    ),
}  # fmt: skip
FILES = {
    RATINGS: HEADERS[RATINGS]
    + line("2", "0195153448", "0")
    + line("8", "0002005018", "5")
    + line("8", "074322678X", "8")
    + line("9", "0195153448", "10"),
    USERS: HEADERS[USERS]
    + line("2", "stockton, california, usa", "18")
    + line("8", "timmins, ontario, canada", None)
    + line("9", "germantown, tennessee, usa", "61"),
    BOOKS: HEADERS[BOOKS]
    + book("0195153448", "Classical Mythology", "Mark P. O. Morford", "2002", "Oxford Press")
    + book("0002005018", "Clara Callan", "Richard Bruce Wright", "2001", "HarperFlamingo Canada")
    + book("074322678X", "Where You'll Find Me", "Ann Beattie", "1999", "Scribner"),
}


def parameters(**options: bool) -> DataParameters:
    return DataParameters(
        reader="bookcrossing",
        item="isbn",
        time=None,
        fields=[{"column": "user_id", "name": "user id"}],
        label={"positive_from": 5, "negative_to": 4},
        options=options,
    )


def read(
    folder: Path, changed: dict[str, str | bytes] | None = None, **options: bool
) -> ReadResult:
    paths = {}
    for name, content in (FILES | (changed or {})).items():
        paths[name] = folder / name
        paths[name].write_bytes(content.encode("cp1252") if isinstance(content, str) else content)
    return read_interactions(paths, parameters(**options))


def values(result: ReadResult, column: str) -> list:
    array = result.interactions[column]
    return [None if absent else v for v, absent in zip(array, array.isna(), strict=True)]


def first(result: ReadResult) -> dict:
    """The first rating's row, None where null."""
    return {column: values(result, column)[0] for column in result.interactions}


def add_up(report: dict) -> bool:
    return report["rows_read"] == report["rows_kept"] + sum(report["dropped"].values())


def lines_of(result: ReadResult, reason: str) -> list[tuple[str, int]]:
    return [(e["file"], e["line"]) for e in result.report["examples"] if e["reason"] == reason]


def with_book(*cells: str) -> dict[str, str | bytes]:
    """Files whose first rating is of this one book."""
    return {
        BOOKS: HEADERS[BOOKS] + book(*cells),
        RATINGS: HEADERS[RATINGS] + line("2", cells[0], "7"),
    }


def with_user(location: str, age: str | None) -> dict[str, str | bytes]:
    return {USERS: HEADERS[USERS] + line("2", location, age) + FILES[USERS].split("\r\n", 2)[2]}


# --- the published layout ---------------------------------------------------------------------


def test_the_files_as_they_are_published(tmp_path):
    result = read(tmp_path)
    assert list(result.interactions) == [
        "row", "user_id", "country", "state", "city", "age", "isbn", "book_title", "author",
        "publication_year", "publisher", "rating",
    ]  # fmt: skip
    assert first(result) == {
        "row": 0, "user_id": "2", "country": "usa", "state": "california", "city": "stockton",
        "age": "18", "isbn": "0195153448", "book_title": "Classical Mythology",
        "author": "Mark P. O. Morford", "publication_year": "2002", "publisher": "Oxford Press",
        "rating": 0.0,
    }  # fmt: skip
    assert values(result, "rating") == [0.0, 5.0, 8.0, 10.0]
    assert (result.report["rows_read"], result.report["rows_kept"]) == (4, 4)
    assert not any(result.report[kind] for kind in ("dropped", "repaired", "skipped"))


def test_unquoted_null_age_is_missing_and_no_repair(tmp_path):
    result = read(tmp_path)
    assert values(result, "age") == ["18", None, None, "61"]
    assert result.report["repaired"] == {}


def test_latin1_and_cp1252_letters(tmp_path):
    result = read(tmp_path, with_book("0195153448", "Señor “Ü”", "André", "2002", "Verlag – ß"))
    assert first(result)["book_title"] == "Señor “Ü”"
    assert first(result)["author"] == "André"
    assert first(result)["publisher"] == "Verlag – ß"
    assert result.report["repaired"] == {}


def test_a_byte_that_cp1252_does_not_define(tmp_path):
    raw = FILES[BOOKS].encode("cp1252").replace(b"Classical", b"\x93Classical\x94\x81")
    assert first(read(tmp_path, {BOOKS: raw}))["book_title"] == "“Classical”\x81 Mythology"


def test_escaped_quotes_inside_a_field(tmp_path):
    title = 'Real "J. Peterman" Through "Life"'
    result = read(tmp_path, with_book("0195153448", title, "A", "2002", "P"))
    assert first(result)["book_title"] == title
    assert result.report["repaired"] == {}


def test_an_escaped_quote_before_the_closing_one(tmp_path):
    changed = with_book("0195153448", '(Level 4: "Readers")"', "Michael Teitelbaum", "2000", "DK")
    assert '\\"";"Michael' in str(changed[BOOKS])
    result = read(tmp_path, changed)
    assert first(result)["book_title"] == '(Level 4: "Readers")"'
    assert first(result)["author"] == "Michael Teitelbaum"
    assert result.report["repaired"] == {}


def test_semicolons_and_separators_inside_titles(tmp_path):
    for title in ("Life; a story", "a;b;c;d;e;f;g", '";"', ';"', ";", "Life, a story"):
        result = read(tmp_path, with_book("0195153448", title, "A", "2002", "P"))
        assert first(result)["book_title"] == title
        assert first(result)["publisher"] == "P"
        assert result.report["repaired"] == {}


def test_backslashes_are_escapes(tmp_path):
    result = read(tmp_path, with_book("0195153448", "AC\\DC \\", "A", "2002", "P"))
    assert first(result)["book_title"] == "AC\\DC \\"


def test_html_entities_are_decoded_and_counted(tmp_path):
    result = read(
        tmp_path, with_book("0195153448", "Life &amp; Death", "O&#39;Neill", "2002", "A&amp;W")
    )
    assert first(result)["book_title"] == "Life & Death"
    assert first(result)["author"] == "O'Neill"
    assert first(result)["publisher"] == "A&W"
    repaired = result.report["repaired"]
    assert [repaired[f"html_entity_in_{c}"] for c in ("book_title", "author", "publisher")] == [
        1
    ] * 3
    assert lines_of(result, "html_entity_in_book_title") == [(BOOKS, 2)]


def test_an_ampersand_that_is_no_entity_stays(tmp_path):
    for title in ("AT&T", "Cats &notes", "R&nosuchentity; B", "&; &#; &#x;"):
        result = read(tmp_path, with_book("0195153448", title, "A", "2002", "P"))
        assert first(result)["book_title"] == title


def test_quoted_empty_and_spaced_fields(tmp_path):
    result = read(tmp_path, with_book("0195153448", "", " A ", "2002", ""))
    assert (first(result)["book_title"], first(result)["publisher"]) == (None, None)
    assert first(result)["author"] == "A"
    assert result.report["repaired"] == {"outer_spaces_in_author": 1}


@pytest.mark.parametrize(
    ("location", "country", "state", "city"),
    [
        ("nyc, new york, usa", "usa", "new york", "nyc"),
        ("barcelona, n/a, spain", "spain", None, "barcelona"),
        ("quezon city, , philippines", "philippines", None, "quezon city"),
        ("n/a, n/a, italy", "italy", None, None),
        ("st. james, lot 3, ontario, canada", "canada", "ontario", "st. james, lot 3"),
        ('milano, "n/a", italy', "italy", None, "milano"),
        ("usa", "usa", None, None),
    ],
)
def test_location_keeps_the_country(tmp_path, location, country, state, city):
    result = read(tmp_path, with_user(location, "18"))
    row = first(result)
    assert (row["country"], row["state"], row["city"]) == (country, state, city)
    assert result.report["repaired"] == {}


@pytest.mark.parametrize(
    ("location", "country"),
    [("lisbon, lisboa, ", "lisboa"), ("bern, n/a, n/a", "bern"), ("n/a, , N/A", None), ("", None)],
)
def test_location_without_country_is_counted(tmp_path, location, country):
    result = read(tmp_path, with_user(location, "18"))
    assert first(result)["country"] == country
    assert result.report["repaired"] == {"location_without_country": 1}
    assert lines_of(result, "location_without_country") == [(USERS, 2)]


@pytest.mark.parametrize("age", ["0", "4", "111", "239", "-5", "abc", "18.5", "1e1"])
def test_an_implausible_age_is_missing_and_counted(tmp_path, age):
    result = read(tmp_path, with_user("a, b, c", age))
    assert first(result)["age"] is None
    assert result.report["repaired"] == {"age_is_not_plausible": 1}
    assert lines_of(result, "age_is_not_plausible") == [(USERS, 2)]


def test_plausible_ages_at_the_limits(tmp_path):
    for age in ("5", "110"):
        assert first(read(tmp_path, with_user("a, b, c", age)))["age"] == age


def test_year_0_is_missing_and_counted(tmp_path):
    result = read(tmp_path, with_book("0195153448", "T", "A", "0", "P"))
    assert first(result)["publication_year"] is None
    assert result.report["repaired"] == {"publication_year_is_0": 1}


def test_a_year_that_is_none(tmp_path):
    result = read(tmp_path, with_book("0195153448", "T", "A", "DK Publishing", "P"))
    assert first(result)["publication_year"] is None
    assert result.report["repaired"] == {"publication_year_is_no_year": 1}


# --- ISBNs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rated", "reason"),
    [
        ("074322678x", "isbn_in_lower_case"),
        ("0-7432-2678-X", "isbn_with_other_characters"),
        (" 074322678X", "isbn_with_other_characters"),
        ("74322678X", "isbn_without_leading_zeros"),
        ("74322678x", "isbn_without_leading_zeros"),
    ],
)
def test_another_form_of_an_isbn_finds_its_book(tmp_path, rated, reason):
    result = read(tmp_path, {RATINGS: HEADERS[RATINGS] + line("2", rated, "7")})
    assert first(result)["isbn"] == "074322678X"
    assert first(result)["author"] == "Ann Beattie"
    assert result.report["repaired"] == {reason: 1}
    assert lines_of(result, reason) == [(RATINGS, 2)]
    assert rated in result.report["examples"][0]["text"]


@pytest.mark.parametrize("isbn", ["B00009EF82", "#6612432", "9788845205118(X)", "1234567"])
def test_an_isbn_that_is_no_isbn10_stays_and_is_counted(tmp_path, isbn):
    result = read(tmp_path, with_book(isbn, "T", "A", "2002", "P"))
    assert (first(result)["isbn"], first(result)["book_title"]) == (isbn, "T")
    assert result.report["repaired"] == {"isbn_is_no_isbn10": 2}
    assert lines_of(result, "isbn_is_no_isbn10") == [(BOOKS, 2), (RATINGS, 2)]


def test_a_wrong_check_digit_is_left_alone(tmp_path):
    result = read(tmp_path, with_book("0195153449", "T", "A", "2002", "P"))
    assert first(result)["isbn"] == "0195153449"
    assert result.report["repaired"] == {}


def test_case_variants_of_a_book_are_one_book(tmp_path):
    again = book("074322678x", "Another", "A", "2002", "P")
    result = read(tmp_path, {BOOKS: FILES[BOOKS] + again})
    assert result.report["skipped"] == {"repeated_isbn": 1}
    assert lines_of(result, "repeated_isbn") == [(BOOKS, 5)]
    assert values(result, "author")[2] == "Ann Beattie"


# --- ratings ----------------------------------------------------------------------------------


def test_ratings_without_book_or_user_are_kept_and_counted(tmp_path):
    ratings = FILES[RATINGS] + line("2", "0380715899", "6") + line("77", "0195153448", "3")
    result = read(tmp_path, {RATINGS: ratings})
    assert values(result, "book_title")[4:] == [None, "Classical Mythology"]
    assert values(result, "country")[4:] == ["usa", None]
    assert values(result, "isbn")[4] == "0380715899"
    assert values(result, "user_id")[5] == "77"
    assert result.report["repaired"] == {
        "isbn_is_not_in_its_file": 1,
        "user_id_is_not_in_its_file": 1,
    }
    assert lines_of(result, "isbn_is_not_in_its_file") == [(RATINGS, 6)]


def test_ratings_without_book_may_be_dropped(tmp_path):
    ratings = FILES[RATINGS] + line("2", "0380715899", "6")
    result = read(tmp_path, {RATINGS: ratings}, ratings_without_book=False)
    assert len(result.interactions) == 4
    assert result.report["dropped"] == {"isbn_is_not_in_its_file": 1}
    assert add_up(result.report)


def test_implicit_ratings_may_be_dropped(tmp_path):
    many = "".join(line(user, isbn, "0") for user in "28" for isbn in ("1", "2", "3"))
    result = read(tmp_path, {RATINGS: FILES[RATINGS] + many}, implicit_ratings=False)
    assert values(result, "rating") == [5.0, 8.0, 10.0]
    assert result.report["dropped"] == {"implicit_rating": 7}
    assert add_up(result.report)


def test_a_repeated_rating_is_dropped_whatever_the_form_of_its_isbn(tmp_path):
    ratings = FILES[RATINGS] + line("8", "074322678x", "8") + line("9", "0195153448", "10")
    result = read(tmp_path, {RATINGS: ratings})
    assert len(result.interactions) == 4
    assert result.report["dropped"] == {"duplicate_row": 2}
    assert lines_of(result, "duplicate_row") == [(RATINGS, 6), (RATINGS, 7)]


def test_another_rating_of_the_same_book_is_kept_and_reported(tmp_path):
    result = read(tmp_path, {RATINGS: FILES[RATINGS] + line("8", "074322678X", "3")})
    assert values(result, "rating") == [0.0, 5.0, 8.0, 10.0, 3.0]
    assert result.report["repaired"] == {"second_rating_of_a_pair": 1}
    assert lines_of(result, "second_rating_of_a_pair") == [(RATINGS, 6)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (line("", "0195153448", "5"), "empty_user_id"),
        (line("2", " ", "5"), "empty_isbn"),
        (line("2", "0195153448", "five"), "rating_is_not_a_number"),
        (line("2", "0195153448", ""), "rating_is_not_a_number"),
        (line("2", "0195153448", "11"), "rating_is_not_on_the_scale"),
        (line("2", "0195153448"), "wrong_number_of_columns"),
        (line("2", "0195153448", "5", "5"), "wrong_number_of_columns"),
        ('"2";"01951"53448";"5"\r\n', "misplaced_quote"),
        ('"2";"0195153448;"5"\r\n', "misplaced_quote"),
        ('"2";"0195153448";"5\r\n', "misplaced_quote"),
    ],
)
def test_a_bad_rating_is_dropped_with_line_and_reason(tmp_path, bad, reason):
    lines = FILES[RATINGS].splitlines(keepends=True)
    result = read(tmp_path, {RATINGS: "".join([*lines[:3], bad, *lines[3:]])})
    assert result.report["dropped"] == {reason: 1}
    assert lines_of(result, reason) == [(RATINGS, 4)]
    assert (result.report["rows_read"], result.report["rows_kept"]) == (5, 4)
    assert result.interactions.equals(read(tmp_path).interactions)


# --- whole files ------------------------------------------------------------------------------


def test_a_last_line_without_line_end_is_kept_and_reported(tmp_path):
    result = read(tmp_path, {RATINGS: FILES[RATINGS].removesuffix("\r\n")})
    assert result.interactions.equals(read(tmp_path).interactions)
    assert result.report["repaired"] == {"no_final_line_end": 1}


@pytest.mark.parametrize(
    ("name", "cut", "what"),
    [
        (RATINGS, 4, "an open quote"),
        (RATINGS, 7, "2 of 3 columns"),
        (USERS, 4, "an open quote"),
        (BOOKS, len(URLS[2]) + 5, "7 of 8 columns"),
    ],
)
def test_truncated_file(tmp_path, name, cut, what):
    message = rf"{name} must end with a whole line, got a truncated file: line \d has {what}: "
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {name: FILES[name][:-cut]})


@pytest.mark.parametrize("name", FILES)
def test_missing_file(tmp_path, name):
    paths = {other: tmp_path / other for other in FILES if other != name}
    for other, path in paths.items():
        path.write_bytes(FILES[other].encode())
    with pytest.raises(ValueError, match=rf"files must hold {name}, got BX-"):
        read_interactions(paths, parameters())


def test_gzipped_files_give_the_same(tmp_path):
    paths = {}
    for name, content in FILES.items():
        paths[name] = tmp_path / f"{name}.gz"
        paths[name].write_bytes(gzip.compress(content.encode("cp1252")))
    result = read_interactions(paths, parameters())
    assert result.interactions.equals(read(tmp_path).interactions)
    assert result.report == read(tmp_path).report


def saved_again(content: str, separator: str, *, quote_all: bool) -> str:
    """A published file as other programs save it: doubled quotes, LF, NULL as nothing."""

    def cell(text: str) -> str:
        text = "" if text == "NULL" else text
        needed = quote_all or any(c in text for c in (separator, '"', "\n"))
        return '"' + text.replace('"', '""') + '"' if needed else text

    rows = [
        content.split("\r\n")[0].replace('"', "").split(";"),
        *twin.rows(content.encode("cp1252")),
    ]
    return "".join(separator.join(map(cell, row)) + "\n" for row in rows)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
@pytest.mark.parametrize("quote_all", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
def test_copies_with_other_separators_quotes_and_encodings(
    tmp_path, separator, quote_all, encoding
):
    title = 'A "quoted" title; with, all'
    files = FILES | {BOOKS: FILES[BOOKS] + book("0002005019", title, "Zoé", "1999", "O&amp;P")}
    files[RATINGS] += line("2", "0002005019", "7")
    copies = {
        name: saved_again(content, separator, quote_all=quote_all).encode(encoding)
        for name, content in files.items()
    }
    result = read(tmp_path, copies)
    assert result.interactions.equals(read(tmp_path, files).interactions)
    repaired = result.report["repaired"]
    assert repaired.get("other_separator", 0) == (0 if separator == ";" else 3)
    assert repaired.get("byte_order_mark", 0) == (3 if encoding == "utf-8-sig" else 0)
    assert repaired.get("utf8_instead_of_cp1252", 0) == (encoding == "utf-8")


def test_backslashes_in_a_copy_with_commas(tmp_path):
    """Copies that changed the separator only keep the published escapes."""
    row = r'"0195153448","The \"Big\" Book, etc","A","2002","P","","",""'
    header = FILES[BOOKS].split("\r\n")[0].replace(";", ",")
    result = read(tmp_path, {BOOKS: f"{header}\n{row}\n"})
    assert first(result)["book_title"] == 'The "Big" Book, etc'
    assert result.report["repaired"]["quotes_escaped_otherwise"] == 1


def test_title_and_author_in_one_field_of_copies(tmp_path):
    """Three books of a widespread copy; its later columns moved up by one."""
    header = "ISBN,Book-Title,Book-Author,Year-Of-Publication,Publisher,S,M,L"
    row = (
        r'078946697X,"DK Readers: Creating the X-Men (Level 4: Proficient Readers)\"";Michael'
        r' Teitelbaum""",2000,DK Publishing Inc,http://a,http://b,http://c,'
    )
    ratings = HEADERS[RATINGS] + line("2", "078946697X", "7")
    result = read(tmp_path, {BOOKS: f"{header}\n{row}\n", RATINGS: ratings})
    row = first(result)
    assert row["book_title"] == 'DK Readers: Creating the X-Men (Level 4: Proficient Readers)"'
    assert row["author"] == "Michael Teitelbaum"
    assert (row["publication_year"], row["publisher"]) == ("2000", "DK Publishing Inc")
    assert result.report["repaired"]["title_and_author_in_one_field"] == 1


def test_ages_and_years_with_a_decimal_point(tmp_path):
    users = 'User-ID,Location,Age\n2,"stockton, california, usa",18.0\n8,"a, b, c",\n'
    result = read(tmp_path, {USERS: users})
    assert values(result, "age")[:2] == ["18", None]
    assert result.report["repaired"]["decimal_point_in_age"] == 1


def test_a_row_may_go_over_several_lines(tmp_path):
    books = FILES[BOOKS].replace("Classical ", "Classical\r\n") + "x\r\n"
    result = read(tmp_path, {BOOKS: books})
    assert first(result)["book_title"] == "Classical\nMythology"
    assert result.report["skipped"] == {"wrong_number_of_columns": 1}
    assert lines_of(result, "wrong_number_of_columns") == [(BOOKS, 6)]


def test_a_lost_quote_costs_one_row(tmp_path):
    lines = [line("2", f"{n:010d}", "7") for n in range(50)]
    lines[10] = lines[10].replace('";"7"', ';"7"')
    lines[20] = '"unclosed\r\n'
    result = read(tmp_path, {RATINGS: HEADERS[RATINGS] + "".join(lines)})
    assert result.report["dropped"] == {"misplaced_quote": 2}
    assert lines_of(result, "misplaced_quote") == [(RATINGS, 12), (RATINGS, 22)]
    assert result.report["rows_kept"] == 48


def test_an_open_quote_is_not_joined_without_end(tmp_path):
    text = '"2";"open\r\n' + "more\r\n" * LINES_PER_ROW + 'end";"7"\r\n'
    good = "".join(line("2", f"{n:010d}", "7") for n in range(50))
    result = read(tmp_path, {RATINGS: HEADERS[RATINGS] + good + text})
    assert result.report["rows_kept"] == 50
    assert sum(result.report["dropped"].values()) == LINES_PER_ROW + 2
    assert add_up(result.report)


def test_another_format_is_an_error(tmp_path):
    message = rf"{USERS} must start with the header 'User-ID;Location;Age', got 'user\|place\|age'"
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {USERS: "user|place|age\n1|x|2\n"})
    message = (
        rf"{RATINGS} must be in its published format, got 4 of 4 rows .*not_a_number 4.*line 2"
    )
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {RATINGS: HEADERS[RATINGS] + "".join(
            line("2", f"{n:010d}", "good") for n in range(4)
        )})  # fmt: skip


# --- properties -------------------------------------------------------------------------------


def generated(rows: int, seed: int) -> dict[str, bytes]:
    draw = random.Random(seed)
    pieces = ("Life", "&amp;", 'the "end"', "; or", "Über", "a, b", "“x”", "C:\\", "&#39;s", "")
    places = ("usa", "", "n/a", "köln", "new york", "x &amp; y")
    isbns = [f"{draw.randrange(10**9):09d}{draw.choice('0123456789X')}" for _ in range(rows // 3)]

    def words() -> str:
        return " ".join(draw.choices(pieces, k=draw.randint(0, 5)))

    def spelt(isbn: str) -> str:
        forms = (
            isbn,
            isbn,
            isbn,
            isbn.lower(),
            isbn.lstrip("0"),
            f" {isbn}",
            f"{isbn[0]}-{isbn[1:]}",
        )
        return draw.choice(forms)

    users, books, ratings = ([HEADERS[name]] for name in (USERS, BOOKS, RATINGS))
    for number in range(rows // 4):
        age = draw.choice((None, "3", "5", "40", "110", "111", "300"))
        users.append(line(str(number), ", ".join(draw.choices(places, k=draw.randint(1, 4))), age))
    for isbn in isbns[: rows // 4]:
        year = draw.choice(("0", "1999", "2004"))
        books.append(book(spelt(isbn), words(), words(), year, words()))
    for _ in range(rows):
        user, isbn = str(draw.randrange(rows // 3)), spelt(draw.choice(isbns))
        ratings.append(line(user, isbn, str(draw.randint(0, 10))))
    named = {USERS: users, BOOKS: books, RATINGS: ratings}
    return {name: "".join(content).encode("cp1252") for name, content in named.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equals_a_plain_python_reader(tmp_path, seed):
    files = generated(600, seed)
    result = read(tmp_path, files)
    columns = (
        "user_id", "country", "age", "isbn", "book_title", "author", "publication_year",
        "publisher", "rating",
    )  # fmt: skip
    found = list(zip(*(values(result, column) for column in columns), strict=True))
    assert found == twin.interactions(files[RATINGS], files[USERS], files[BOOKS])
    assert add_up(result.report)


SMALL = generated(40, seed=0)
PIECES = (
    b'"',
    b"\\",
    b";",
    b",",
    b"\r\n",
    b"\n",
    b"\r",
    b"\x00",
    b"\xe9",
    b"\x81",
    b"NULL",
    b'";"',
    b"",
)


EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 30),
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)),
    ),
    min_size=1,
    max_size=6,
)


def changed(raw: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """At a share of the length, take out some bytes and put in others."""
    for place, removed, put in edits:
        at = int(place * len(raw))
        raw = raw[:at] + put + raw[at + removed :]
    return raw


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(sorted(SMALL)), edits=EDITS)
def test_any_change_of_bytes_is_read_or_refused_and_loses_nothing(name, edits):
    raw = changed(SMALL[name], edits)
    message = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = read(Path(folder), {name: raw})
        except ValueError as error:
            message = str(error)
    if message:
        assert name in message
        return
    assert add_up(result.report)
    assert result.report["rows_kept"] == len(result.interactions)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(edits=EDITS)
def test_every_line_is_part_of_a_row_or_listed(edits):
    """A row holds its lines, so line ends inside its fields are counted too."""
    header, body = SMALL[RATINGS].split(b"\r\n", 1)
    raw = header + b"\r\n" + changed(body, edits)
    report = ReadReport()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RATINGS
        path.write_bytes(raw)
        try:
            table = read_table(
                {RATINGS: path},
                RATINGS,
                ("User-ID", "ISBN", "Book-Rating"),
                separator=";",
                encoding="cp1252",
                header=True,
                kind="dropped",
                report=report,
                backslash=True,
            )
        except ValueError:
            return
    inside = sum(
        cell.count("\n") for column in table.columns.values() for cell in column.to_pylist()
    )
    dropped = sum(report.reasons("dropped").values())
    lines = raw.replace(b"\r\n", b"\n").removesuffix(b"\r").split(b"\n")[1:]
    assert len(table) + inside + dropped == sum(line != b"" for line in lines)
    assert report.rows_read == len(table) + dropped
    assert (np.diff(table.lines) > 0).all()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.randoms(use_true_random=False), bad=st.integers(0, 10))
def test_mutated_lines_are_counted_one_by_one(order, bad):
    """Lines without a quote, as many as wanted: kept, or dropped each by itself."""
    good = [line(str(n), f"{n:010d}", "7") for n in range(20)]
    lines = [*good, *("x\r\n" for _ in range(bad))]
    order.shuffle(lines)
    with tempfile.TemporaryDirectory() as folder:
        report = read(Path(folder), {RATINGS: HEADERS[RATINGS] + "".join(lines)}).report
    assert report["rows_kept"] == 20
    assert report["dropped"] == ({"wrong_number_of_columns": bad} if bad else {})


# --- the environment --------------------------------------------------------------------------


def test_environment_reads_labels_and_splits(tmp_path):
    data = check_parameters(configuration("bookcrossing")["parameters"]).data
    paths = {}
    for name, raw in generated(400, seed=7).items():
        paths[name] = tmp_path / name
        paths[name].write_bytes(raw)
    interactions = read_interactions(paths, data).interactions
    samples = label_and_split(interactions, data)
    samples = samples.merge(interactions, on="row", validate="one_to_one")
    assert len(samples) == len(interactions)
    implicit = samples[samples["rating"] == 0]
    assert len(implicit)
    assert (implicit["label"] == 0).all()
    assert ((samples["rating"] >= 5) == (samples["label"] == 1)).all()
    assert [field.name for field in data.fields] == [
        "user id", "location", "age", "isbn", "book title", "author", "publication year",
        "publisher",
    ]  # fmt: skip
