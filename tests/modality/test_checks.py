"""The checks at the borders: what is right passes, each broken rule is named with its value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.modality import label_and_split
from clickprompt.modality.checks import InteractionsCheck, ModelInputCheck, check_samples
from clickprompt.parameters import DataParameters
from clickprompt.readers import stream_interactions
from tests.modality.conftest import make_data, make_interactions

FOLDER = Path(__file__).parents[2] / "data/01_raw/movielens_small"
ROWS = 40


@pytest.fixture
def table() -> dict[str, pa.Array]:
    """Column name -> values, as a reader makes them."""
    whole = pa.Table.from_pandas(make_interactions(ROWS), preserve_index=False)
    return {name: whole[name].combine_chunks() for name in whole.column_names}


def check(table: dict[str, pa.Array], data: DataParameters, size: int = 15) -> dict:
    checker = InteractionsCheck(data)
    for batch in pa.table(table).to_batches(max_chunksize=size):
        checker.check(batch)
    return checker.finish()


def changed(column: pa.Array, row: int, value: object) -> pa.Array:
    values = column.to_pylist()
    values[row] = value
    return pa.array(values, column.type)


# --- interactions ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 15, ROWS])
def test_a_good_table_passes_in_any_batches(table, size):
    facts = check(table, make_data(), size)
    key = ["user_id", "movie_id", "timestamp"]
    repeated = make_interactions(ROWS).duplicated(key).sum()
    assert (facts["rows"], facts["key"], facts["repeated"]) == (ROWS, key, repeated)
    assert facts["distinct"] == {}


def test_the_embedded_data_passes_and_has_its_published_numbers():
    files = {name: FOLDER / name for name in ("ratings.csv", "movies.csv")}
    expected = {"reader": "movielens_small", "users": 610, "items": 9724}
    data = make_data(
        fields=[{"column": "user_id", "name": "user id"}], time="timestamp", expected=expected
    )
    checker = InteractionsCheck(data)
    for batch in stream_interactions(files, data):
        checker.check(batch)
    assert checker.finish() == {
        "rows": 100_836,
        "distinct": {"user_id": 610, "movie_id": 9724},
        "key": ["user_id", "movie_id", "timestamp"],
        "repeated": 0,
        "repeated_rows": [],
    }


BROKEN = [
    ("row", 20, 21, r"column row must count 0, 1, 2, \.\.\. without gaps, got 21 in row 20"),
    ("row", 15, None, r"column row must have a value, got null in row 15"),
    ("user_id", 31, None, r"column user_id must have a value, got null in row 31"),
    ("movie_id", 0, None, r"column movie_id must have a value, got null in row 0"),
    ("rating", 17, float("inf"), r"column rating must be a finite number, got inf in row 17"),
    ("rating", 17, float("nan"), r"column rating must be a finite number, got nan in row 17"),
    ("rating", 39, None, r"column rating must have a value, got null in row 39"),
    ("pages", 16, float("-inf"), r"column pages must be a finite number, got -inf in row 16"),
    ("timestamp", 30, -1, r"column timestamp must lie between 0 and 2\^53 .*got -1 in row 30"),
    ("timestamp", 3, 2**53 + 1, r"column timestamp must lie .*got 9007199254740993 in row 3"),
]


@pytest.mark.parametrize(("column", "row", "value", "message"), BROKEN)
def test_a_broken_value_is_named_with_its_rule_and_row(table, column, row, value, message):
    table[column] = changed(table[column], row, value)
    with pytest.raises(ValueError, match=message):
        check(table, make_data())


@pytest.mark.parametrize("value", [None, 2**53])
def test_a_time_may_be_missing_or_late_where_the_split_does_not_need_it(table, value):
    table["timestamp"] = changed(table["timestamp"], 18, value)
    check(table, make_data())
    if value is None:
        with pytest.raises(ValueError, match="column timestamp must have a value, got null in row"):
            check(table, make_data(split={"by": "time"}))


def test_the_first_broken_row_is_named(table):
    rows = table["timestamp"].to_pylist()
    rows[22], rows[25] = -5, -4
    table["timestamp"] = pa.array(rows)
    with pytest.raises(ValueError, match="got -5 in row 22"):
        check(table, make_data())


WRONG_TYPES = [
    ("row", pa.int32(), "column row must hold int64, got int32"),
    ("timestamp", pa.float64(), "column timestamp must hold int64, got double"),
    ("rating", pa.string(), "column rating must hold numbers, got string"),
    ("user_id", pa.float64(), "column user_id must hold text or whole numbers, got double"),
    ("title", pa.binary(), "column title must hold text, numbers or truth values, got binary"),
]


@pytest.mark.parametrize(("column", "of", "message"), WRONG_TYPES)
def test_a_wrong_type_is_named(table, column, of, message):
    table[column] = table[column].cast(of)
    with pytest.raises(ValueError, match=message):
        check(table, make_data())


@pytest.mark.parametrize(
    "of", [pa.large_string(), pa.string_view(), pa.int64(), pa.dictionary(pa.int32(), pa.string())]
)
def test_ids_may_be_of_many_types(table, of):
    table["user_id"] = table["user_id"].cast(of)
    plain = make_interactions(ROWS).duplicated(["user_id", "movie_id", "timestamp"]).sum()
    assert check(table, make_data())["repeated"] == plain


def test_a_missing_column_comes_with_the_nearest_one(table):
    table["tittle"] = table.pop("title")
    with pytest.raises(ValueError, match=r"got 'title'; did you mean 'tittle'"):
        check(table, make_data())
    del table["row"]
    with pytest.raises(ValueError, match="must have a column 'row'"):
        check(table, make_data())


def test_the_column_of_a_given_split_must_be_there(table):
    data = make_data(split={"by": "column", "column": "part"})
    with pytest.raises(ValueError, match="got 'part'"):
        check(table, data)
    table["part"] = pa.array(["train"] * ROWS)
    check(table, data)


def test_a_column_twice_is_an_error(table):
    batch = pa.RecordBatch.from_arrays(
        [*table.values(), table["title"]], names=[*table.keys(), "title"]
    )
    with pytest.raises(ValueError, match="must have each column once, got title more than once"):
        InteractionsCheck(make_data()).check(batch)


def test_batches_with_other_columns_are_an_error(table):
    first, second = pa.table(table).to_batches(max_chunksize=20)
    checker = InteractionsCheck(make_data())
    checker.check(first)
    with pytest.raises(ValueError, match=r"must have the columns .* from row 20 on"):
        checker.check(second.drop_columns(["pages"]))


@pytest.mark.parametrize("row", [0, 7, 19, 39])
def test_text_that_is_no_utf8_is_named_with_its_row(table, row):
    texts = [b"caf\xc3\xa9", b""] * (ROWS // 2)
    texts[row] = b"caf\xe9"
    table["title"] = pa.array(texts).view(pa.string())
    with pytest.raises(
        ValueError, match=rf"column title must hold valid UTF-8 text, .* row {row}$"
    ):
        check(table, make_data())


def test_a_damaged_dictionary_is_an_error(table):
    codes = pa.array([0, 1, 2, 3] * (ROWS // 4), pa.int32())
    words = pa.array(["a", "b", None, "d"])
    table["title"] = pa.DictionaryArray.from_arrays(codes, words)
    with pytest.raises(ValueError, match="column title must hold a dictionary without null"):
        check(table, make_data())
    table["title"] = pa.DictionaryArray.from_arrays(codes, words[:2], safe=False)
    with pytest.raises(ValueError, match="column title must hold a valid dictionary, got"):
        check(table, make_data())


def test_an_empty_table_is_an_error():
    with pytest.raises(ValueError, match="interactions must have at least one row, got none"):
        InteractionsCheck(make_data()).finish()


@pytest.mark.parametrize(
    ("names", "key"),
    [
        ({"time": None}, ["user_id", "movie_id"]),
        ({"user": None}, []),
        ({"item": None}, []),
        ({"user": None, "item": None, "time": None}, []),
    ],
)
def test_rows_are_told_apart_by_the_columns_that_there_are(table, names, key):
    facts = check(table, make_data(**names))
    assert facts["key"] == key
    expected = make_interactions(ROWS).duplicated(key).sum() if key else None
    assert facts["repeated"] == expected


def test_repeated_rows_are_listed_over_batches(table):
    for name in ("user_id", "movie_id", "timestamp"):
        table[name] = changed(table[name], 39, table[name][2].as_py())
    facts = check(table, make_data())
    assert [2, 39] in facts["repeated_rows"]


def test_ids_are_counted_only_where_the_filter_does_not_count_them(table):
    expected = {"reader": "movielens_small", "users": 1}
    frame = make_interactions(ROWS)
    facts = check(table, make_data(expected=expected))
    assert facts["distinct"] == {"user_id": frame["user_id"].nunique()}
    assert not check(table, make_data(expected=expected | {"reader": "other"}))["distinct"]
    filters = {"min_user_rows": 2}
    assert not check(table, make_data(expected=expected, filters=filters))["distinct"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, ROWS - 1), st.sampled_from(BROKEN), st.integers(1, ROWS))
def test_any_row_of_any_batch_is_looked_at(row, broken, size):
    column, _, value, message = broken
    table = pa.Table.from_pandas(make_interactions(ROWS), preserve_index=False)
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    if column == "row" and row == value:
        row -= 1
    columns[column] = changed(columns[column], row, value)
    with pytest.raises(ValueError, match=message.rpartition("in row")[0] + rf"in row {row}$"):
        check(columns, make_data(), size)


# --- samples ---------------------------------------------------------------------------


@pytest.fixture
def samples() -> pd.DataFrame:
    made = label_and_split(make_interactions(300), make_data())[["row", "label", "split"]]
    return made.astype({"row": "int64", "label": "int8", "split": "int8"})


def test_samples_of_the_library_pass_whatever_their_index(samples):
    check_samples(samples, make_data())
    check_samples(samples.set_axis(range(len(samples), 0, -1)), make_data())
    check_samples(samples.set_axis([0] * len(samples)), make_data())


def edit(samples: pd.DataFrame, column: str, row: int, value: int) -> pd.DataFrame:
    edited = samples.copy()
    edited.loc[row, column] = value
    return edited


def test_each_rule_of_samples(samples):
    starts = samples["split"].searchsorted([0, 1, 2]).tolist()
    shared = edit(samples, "row", starts[1], int(samples["row"][0]))
    for broken, message in (
        (edit(samples, "label", 5, 2), "column label must be 0 or 1, got 2 in row 5"),
        (edit(samples, "label", 5, -1), "column label must be 0 or 1, got -1 in row 5"),
        (edit(samples, "split", 5, 3), "column split must be 0, 1 or 2, got 3 in row 5"),
        (edit(samples, "split", 5, 1), "column split must be sorted, got 0 in row 6"),
        (edit(samples, "row", 5, int(samples["row"][4])), "row must rise within each split, .* 5$"),
        (edit(samples, "row", 0, -1), "column row must be at least 0, got -1 in row 0"),
        (shared, "row must hold each row once, got .* in both train and valid"),
        (samples[samples["split"] != 1], "split valid must have at least one row, got none"),
        (samples[samples["split"] != 0], "split train must have at least one row, got none"),
        (samples.astype({"label": "int64"}), "column label must be int8, got int64"),
        (samples.drop(columns="row"), "the table must have a column row, got label, split"),
    ):
        with pytest.raises(ValueError, match=message):
            check_samples(broken, make_data())
    one_class = samples.assign(label=(samples["split"] > 0).astype("int8"))
    with pytest.raises(ValueError, match=r"both classes in train, got only 0 .*rating from 4"):
        check_samples(one_class, make_data())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True), min_size=3, max_size=3))
def test_rows_of_two_splits_are_found_as_by_sets(parts):
    rows = [row for part in parts for row in sorted(part)]
    split = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts])
    label = np.zeros(len(rows), dtype=np.int8)
    frame = pd.DataFrame({"row": rows, "label": label, "split": split})
    shared = len(set(rows)) < len(rows)
    message = "each row once" if shared else "both classes in train"
    with pytest.raises(ValueError, match=message):
        check_samples(frame, make_data())


# --- model input -----------------------------------------------------------------------

SIZES, PIECES = (4, 9, 2), 12


@pytest.fixture
def chunk() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "ids": draw.integers(0, SIZES, (50, 3)).astype(np.int32),
        "pieces": draw.integers(0, PIECES, (50, 3)).astype(np.int32),
        "labels": draw.integers(0, 2, 50).astype(np.int8),
        "row_numbers": np.arange(50),
    }


def test_a_good_model_input_passes(chunk):
    checker = ModelInputCheck(SIZES, PIECES)
    checker.check(**chunk)
    checker.check(**{name: array[:0] for name, array in chunk.items()})
    checker.check(chunk["ids"][::-1], np.asfortranarray(chunk["pieces"]), chunk["labels"][::-1])
    checker.finish(100)
    with pytest.raises(ValueError, match="the model input must have 99 rows, got 100"):
        checker.finish(99)


def test_what_the_library_writes_passes(model_input):
    sizes = list(model_input.field_sizes)
    for field, members in model_input.bags.items():
        sizes[field] = len(members)
    checker = ModelInputCheck(sizes, model_input.metadata["pieces"])
    arrays = (model_input.ids, model_input.pieces, model_input.labels, model_input.row_numbers)
    checker.check(*arrays)
    checker.finish(len(model_input.labels))
    sizes[1] -= 1
    with pytest.raises(ValueError, match="id of field 1 must lie in"):
        ModelInputCheck(sizes, model_input.metadata["pieces"]).check(*arrays)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("ids", (7, 1), 9, r"id of movie id must lie in 0\.\.8, got 9 in row 57"),
        ("ids", (7, 2), -1, r"id of genre must lie in 0\.\.1, got -1 in row 57"),
        ("pieces", (49, 0), 12, r"piece of user id must lie in 0\.\.11, got 12 in row 99"),
        ("pieces", (0, 2), -(2**31), r"piece of genre must .*, got -2147483648 in row 50"),
        ("labels", 3, 2, r"label must lie in 0\.\.1, got 2 in row 53"),
        ("labels", 3, -1, r"label must lie in 0\.\.1, got -1 in row 53"),
        ("row_numbers", 3, -1, r"row number must .*, got -1 in row 53"),
    ],
)
def test_a_value_outside_of_its_range_is_named(chunk, name, at, value, message):
    checker = ModelInputCheck(SIZES, PIECES, fields=("user id", "movie id", "genre"))
    checker.check(**chunk)
    chunk[name][at] = value
    with pytest.raises(ValueError, match=message):
        checker.check(**chunk)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ids", lambda a: a[:, :2], r"ids must be int32 \(50, 3\), got int32 \(50, 2\)"),
        ("pieces", lambda a: a.astype(np.int64), r"pieces must be int32 .*, got int64"),
        ("labels", lambda a: a.astype(float), r"labels must be int8 \(50,\), got float64"),
        ("row_numbers", lambda a: a[1:], r"row_numbers must be int64 \(50,\), got int64 \(49,\)"),
    ],
)
def test_a_wrong_shape_or_type_is_named(chunk, name, change, message):
    chunk[name] = change(chunk[name])
    with pytest.raises(ValueError, match=message):
        ModelInputCheck(SIZES, PIECES).check(**chunk)


def test_pandera_is_imported_only_when_a_table_is_checked():
    code = "import sys, clickprompt.modality.checks; print('pandera' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
