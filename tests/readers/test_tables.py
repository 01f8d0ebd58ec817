"""The printed report: every count is there, and no example can harm a terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from clickprompt.pipelines.ingestion.nodes import show_ingestion_report
from clickprompt.readers.report import ReadReport
from clickprompt.readers.report_table import printable, report_table


def a_report(text: str = "1::9::5::1") -> dict:
    report = ReadReport()
    report.rows_read, report.rows_kept = 1_000_209, 1_000_000
    report.add("dropped", "empty_user_id", "ratings.dat", 9, [(77, "::1::5::3")])
    report.add("dropped", "movie_id_is_not_in_its_file", "ratings.dat", 200, [(4, text)])
    report.add("repaired", "title_without_year", "movies.dat", 12, [(8, "8::[unused1] (x)::Drama")])
    report.add("skipped", "blank_line", "movies.dat", 1, [(5, "")])
    return report.as_dict()


def rendered(report: dict, width: int = 120, **options) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, **options).print(report_table(report))
    return stream.getvalue()


def cells(text: str, first: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.split()[:1] == [first]]


def test_every_reason_has_count_share_and_first_example():
    text = rendered(a_report())
    assert "1,000,209 rows read, 1,000,000 kept" in text
    assert cells(text, "read") == [["read", "1,000,209", "100.00%"]]
    assert cells(text, "kept") == [["kept", "1,000,000", "99.98%"]]
    # the most frequent reason of a kind comes first
    assert [" ".join(line) for line in cells(text, "dropped")] == [
        "dropped movie id is not in its file 200 0.02% ratings.dat:4: 1::9::5::1",
        "dropped empty user id 9 <0.01% ratings.dat:77: ::1::5::3",
    ]
    assert [" ".join(line) for line in cells(text, "skipped")] == [
        "skipped blank line 1 – movies.dat:5:"
    ]
    # brackets are text, not markup
    assert "movies.dat:8: 8::[unused1] (x)::Drama" in text


def test_a_clean_report_has_no_columns_for_reasons():
    report = ReadReport()
    report.rows_read = report.rows_kept = 100_836
    text = rendered(report.as_dict())
    assert "Reason" not in text
    assert cells(text, "kept") == [["kept", "100,836", "100.00%"]]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_digit_is_lost_in_a_narrow_terminal(width):
    text = rendered(a_report(), width)
    assert max(map(len, text.splitlines())) <= width
    for number in ("1,000,209", "1,000,000", "200", "9", "12", "99.98%"):
        assert number in text.split()
    assert "…" not in text


def test_the_same_reason_in_two_files_keeps_its_own_example():
    report = ReadReport()
    report.rows_read, report.rows_kept = 5, 3
    report.add("skipped", "wrong_number_of_columns", "movies.dat", 1, [(6, "movie")])
    report.add("dropped", "wrong_number_of_columns", "ratings.dat", 2, [(3, "rating")])
    text = rendered(report.as_dict())
    assert "movie" not in text  # nothing says which file holds the ratings
    report.add("dropped", "empty_user_id", "ratings.dat", 1, [(1, "x")])
    report.rows_kept = 2
    text = rendered(report.as_dict())
    assert cells(text, "dropped")[0][-2:] == ["ratings.dat:3:", "rating"]
    assert cells(text, "skipped")[0][-2:] == ["movies.dat:6:", "movie"]


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=60), st.integers(30, 150))
def test_any_text_is_shown_without_control_characters(text, width):
    shown = rendered(a_report(text), width)
    assert all(c.isprintable() for c in shown.replace("\n", ""))
    shown.encode("utf-8")  # no half of a surrogate pair


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mred", r"a\x1b[31mred"),
        ("tab\tnul\0", r"tab\tnul\x00"),
        ("half \ud83d", r"half \ud83d"),
        ("right to left \u202e", r"right to left \u202e"),
        ("Misérables 東京 😀", "Misérables 東京 😀"),
    ],
)
def test_characters_that_steer_a_terminal_are_escaped(text, shown):
    assert printable(text) == shown
    assert shown in rendered(a_report(text), 200)


def test_a_long_example_is_cut():
    text = rendered(a_report("x" * 190), 300)
    assert "x" * 79 + "…" in text
    assert "x" * 80 not in text


def test_the_node_prints_the_table(capsys):
    show_ingestion_report(a_report())
    assert "1,000,209" in capsys.readouterr().out


def test_nothing_read_has_no_share():
    report = ReadReport()
    assert cells(rendered(report.as_dict()), "kept") == [["kept", "0", "–"]]
