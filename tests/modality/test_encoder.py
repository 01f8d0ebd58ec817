"""Values as codes: any type, any batches, and only the wanted rows of each."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clickprompt.modality.columns import _Positions as Positions
from clickprompt.modality.encoder import ColumnEncoder, as_text
from clickprompt.modality.engines import record_batches
from clickprompt.modality.samples import label_and_split
from clickprompt.modality.views import Lookup
from tests.modality.conftest import make_data, make_interactions

TYPES = {
    "string": pa.string(),
    "large string": pa.large_string(),
    "view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "mixed": None,
    "number": pa.int64(),
}
texts = st.one_of(st.none(), st.sampled_from(["", "a", "b", "1"]), st.text(max_size=20))


@given(
    kind=st.sampled_from(list(TYPES)),
    batches=st.lists(
        st.lists(st.tuples(texts, st.booleans()), max_size=12), min_size=1, max_size=4
    ),
    reverse=st.booleans(),
)
@example(kind="view", batches=[[(None, False), ("a", True)], [(None, True)]], reverse=False)
@example(kind="string", batches=[[("a", False), ("b", False)], [("b", True)]], reverse=False)
@settings(max_examples=300, deadline=None)
def test_codes_are_those_of_the_wanted_rows(kind, batches, reverse):
    """Codes lead back to the values, each value has one, and others than the wanted have none."""
    encoder = ColumnEncoder()
    found: list[int] = []
    expected: list[Any] = []
    for number, batch in enumerate(batches):
        of = TYPES[kind] or list(TYPES.values())[number % 3]
        values: list[Any] = [value for value, _ in batch]
        if kind == "number":
            values = [None if value is None else len(value) for value in values]
        rows = np.flatnonzero([wanted for _, wanted in batch])
        rows = rows[::-1] if reverse else rows
        # an engine hands over slices, too
        column = pa.array([*values, *values], pa.string() if "dict" in kind else of).cast(of)
        codes = encoder.encode(column[len(values) :], rows)
        assert codes.dtype == np.int32
        found += codes.tolist()
        expected += [values[row] for row in rows]
    assert [encoder.values[code] for code in found] == expected
    assert [encoder.texts[code] for code in found] == [as_text(value) for value in expected]
    assert set(found) == set(range(len(encoder)))
    assert len(encoder) == len(set(expected))


def test_all_rows_as_they_stand():
    encoder = ColumnEncoder()
    assert encoder.encode(pa.array(["b", None, "a", "b"])).tolist() == [0, 2, 1, 0]
    assert encoder.encode(pa.array(["c", "a", None])).tolist() == [3, 1, 2]
    assert encoder.texts == ["b", "a", None, "c"]
    assert encoder.missing == 2


@pytest.mark.parametrize("kind", ["Categorical", "Enum", "String"])
def test_a_column_of_polars(kind):
    pl = pytest.importorskip("polars")
    texts = ["a longer text than twelve bytes", "b", None, "b"]
    of = pl.Enum(texts[:2]) if kind == "Enum" else getattr(pl, kind)
    frame = pl.LazyFrame({"row": [0, 1, 2, 3], "x": pl.Series(texts, dtype=of)})
    encoder = ColumnEncoder()
    (batch,) = record_batches(nw.from_native(frame), ["row", "x"])
    codes = encoder.encode(batch["x"], np.array([3, 2, 0]))
    assert [encoder.texts[code] for code in codes] == [texts[3], texts[2], texts[0]]


@pytest.mark.parametrize("rows", ["all", "middle", "gaps", "shuffled", "none"])
def test_rows_of_a_batch_among_the_samples(rows):
    samples = label_and_split(make_interactions(120), make_data())
    batch = np.arange(200)  # beyond the last one, too
    if rows == "middle":
        batch = np.arange(31, 77)
    elif rows == "gaps":
        batch = np.arange(10, 110, 3)
    elif rows == "shuffled":
        batch = np.random.default_rng(0).permutation(200)
    elif rows == "none":
        batch = np.arange(0)
    known = {row: position for position, row in enumerate(samples["row"])}
    order, at = Positions(samples).find(batch)
    assert at.tolist() == sorted(known[row] for row in batch if row in known)
    assert [known[row] for row in batch[order]] == at.tolist()


def test_one_gather_for_all_tables():
    tables = [np.array([7, 8], np.int32), np.array([5, 6, 4], np.int32)]
    codes = np.array([[1, 2, 9], [0, 0, 9]], np.int32)  # a column more than tables
    found = Lookup(tables)(codes)
    assert found.tolist() == [[8, 4], [7, 5]]
    assert found.dtype == np.int32
    assert Lookup([])(codes).shape == (2, 0)
