"""Positions of ids against a dict."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.readers.formats.ids import IdIndex

IDS = st.one_of(
    st.integers(0, 30).map(str),
    st.sampled_from(["", "0", "00", "007", "7", "-1", "1.0", "٧", "9" * 18, "9" * 19, "0" * 20]),
    st.text(max_size=3),
)


def text(values: list[str | None]) -> pa.Array:
    return pa.array(values, pa.large_string())


@given(st.lists(IDS, unique=True, max_size=30), st.lists(st.one_of(IDS, st.none()), max_size=30))
def test_positions_are_those_of_a_dict(ids, asked):
    places = {name: at for at, name in enumerate(ids)}
    found = IdIndex(text(ids)).positions(text(asked))
    assert found.tolist() == [places.get(name, -1) for name in asked]


@pytest.mark.parametrize("ids", [[], ["a"], ["1"], ["a", "1"]])
def test_part_of_a_longer_array(ids):
    places = {name: at for at, name in enumerate(ids)}
    asked = ["a", "b", "1", "2", None, "a"]
    found = IdIndex(text(["x", *ids])[1:]).positions(text(asked)[1:])
    assert found.tolist() == [places.get(name, -1) for name in asked[1:]]
