"""Published counts: compared where they belong, told where they differ, counted independently."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest
import yaml
from rich.console import Console

from clickprompt.modality import filter_interactions, label_and_split
from clickprompt.modality.checks import InteractionsCheck
from clickprompt.modality.expected import (
    Comparison,
    compare_counts,
    counts_table,
    differences,
)
from clickprompt.parameters import DataParameters, ExpectedCounts, check_parameters
from clickprompt.pipelines.modality_conversion.nodes import compare_counts as compare_node
from clickprompt.readers import stream_interactions
from tests.docs.test_readme import configuration
from tests.end_to_end.project import REPOSITORY
from tests.modality.conftest import make_data

FOLDER = REPOSITORY / "data/01_raw/movielens_small"
ENVIRONMENTS = sorted(p.parent.name for p in (REPOSITORY / "conf").glob("*/parameters.yml"))
REPORT = {"rows": {"read": 20, "kept": 18, "filtered_out": 3, "labelled": 11, "between_labels": 4}}
FACTS = {"repeated": 2, "distinct": {"user_id": 7, "movie_id": 9}}


def data_with(**expected) -> DataParameters:
    return make_data(expected={"reader": "movielens_small"} | expected)


def test_every_count_is_found_where_it_is_reported():
    data = data_with(read=20, filtered=15, users=7, items=9, labelled=11, repeated=2)
    counts = compare_counts(data, REPORT, {"users": None, "items": None}, FACTS)
    assert [c.found for c in counts] == [20, 15, 7, 9, 11, 2]
    assert differences(counts) is None
    # after a filter its own counts are those that are left
    counts = compare_counts(data, REPORT, {"users": 5, "items": 6}, FACTS | {"distinct": {}})
    assert [c.found for c in counts] == [20, 15, 5, 6, 11, 2]


def test_what_was_not_counted_does_not_differ():
    counts = compare_counts(data_with(users=7, repeated=0), REPORT)
    assert [(c.published, c.found, c.differs) for c in counts] == [
        (7, None, False),
        (0, None, False),
    ]
    assert differences(counts) is None


def test_nothing_is_compared_without_counts_or_with_those_of_another_reader():
    assert compare_counts(make_data(), REPORT) == []
    assert compare_counts(make_data(expected=None), REPORT) == []
    assert compare_counts(data_with(read=None), REPORT) == []
    other = make_data(expected={"reader": "movielens_1m", "read": 1})
    assert compare_counts(other, REPORT) == []


def test_differences_are_told_in_one_sentence():
    counts = compare_counts(data_with(read=1_000_209, labelled=739_012, filtered=15), REPORT)
    message = differences(counts)
    assert message is not None
    assert message.startswith(
        "rows read must be 1,000,209, got 20, rows with a label must be 739,012, got 11: "
    )
    assert "`data.expected: null` switches this comparison off" in message


@pytest.mark.parametrize("width", [40, 80])
def test_the_table_shows_every_number(width):
    counts = [
        Comparison("rows read", 1_000_209, 1_000_209),
        Comparison("rows with a label", 739_012, 739_013),
        Comparison("users after the filter", 6_040, None),
    ]
    stream = io.StringIO()
    Console(file=stream, width=width).print(counts_table(counts, "movielens_1m"))
    text = stream.getvalue()
    assert "movielens_1m" in text
    for number in ("739,012", "739,013", "6,040", "–", "agrees", "differs", "counted"):
        assert number in text.split()
    assert text.split().count("1,000,209") == 2
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_inherits_no_count_of_another_data_set(environment):
    """Kedro merges key by key, so an environment that names counts names all of them."""
    own = yaml.safe_load((REPOSITORY / "conf" / environment / "parameters.yml").read_text())
    data = check_parameters(configuration(environment)["parameters"]).data
    written = own.get("data", {}).get("expected")
    if written is not None:
        assert set(written) == set(ExpectedCounts.model_fields)
        assert written["reader"] == data.reader
    elif "reader" in own.get("data", {}):
        assert data.expected_counts is None


def test_the_published_counts_stand_in_conf():
    def expected(environment: str, *names: str) -> list[int]:
        counts = check_parameters(configuration(environment)["parameters"]).data.expected_counts
        assert counts is not None
        return [getattr(counts, name) for name in names]

    assert expected("movielens_1m", "read", "labelled") == [1_000_209, 739_012]
    assert expected("movielens_100k", "read", "labelled") == [100_000, 72_855]
    toys = expected("amazon_toys", "users", "items", "filtered")
    assert toys == [19_412, 11_924, 167_597]
    assert expected("bookcrossing", "read") == [1_149_780]


def test_the_counts_of_the_embedded_data_are_those_of_its_files():
    with (FOLDER / "ratings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    triples = {(row["userId"], row["movieId"], row["timestamp"]) for row in rows}
    expected = check_parameters(configuration("base")["parameters"]).data.expected_counts
    assert expected == ExpectedCounts(
        reader="movielens_small",
        read=len(rows),
        users=len({row["userId"] for row in rows}),
        items=len({row["movieId"] for row in rows}),
        labelled=sum(not 2.5 < float(row["rating"]) < 4 for row in rows),
        repeated=len(rows) - len(triples),
    )


def test_the_embedded_data_agrees_with_its_counts():
    data = check_parameters(configuration("base")["parameters"]).data
    files = {name: FOLDER / name for name in ("ratings.csv", "movies.csv")}
    check, stream = InteractionsCheck(data), stream_interactions(files, data)
    batches = list(stream)
    for batch in batches:
        check.check(batch)
    interactions = pa.Table.from_batches(batches).to_pandas()
    filtered, filter_report = filter_interactions(interactions, data)
    rows = {
        "read": stream.report["rows_read"],
        "kept": stream.report["rows_kept"],
        "filtered_out": filter_report["rows_removed"],
        "labelled": len(label_and_split(filtered, data)),
    }
    counts = compare_counts(data, {"rows": rows}, filter_report, check.finish())
    assert len(counts) == 5
    assert all(c.found == c.published for c in counts)


def test_the_node_prints_and_warns(capsys, caplog):
    report = {"table": FACTS}
    compare_node(REPORT, {}, report, data_with(read=20, users=7))
    assert capsys.readouterr().out.split().count("agrees") == 2
    compare_node(REPORT, {}, report, make_data())
    assert capsys.readouterr().out == ""
    assert not caplog.records
    compare_node(REPORT, {}, report, data_with(read=21))
    assert "rows read must be 21, got 20" in caplog.text


def test_a_count_below_zero_is_an_error():
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ExpectedCounts(reader="movielens_1m", read=-1)
