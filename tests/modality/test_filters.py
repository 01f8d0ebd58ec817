"""The k-core: against a slow twin, as a fixed point, as the largest one."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.modality import filter_interactions
from clickprompt.parameters import DataParameters
from tests.modality.conftest import make_data, make_interactions
from tests.reference.modality_twins import core

Rows = list[tuple[str | None, str | None]]


def filters(user: int, item: int) -> DataParameters:
    return make_data(filters={"min_user_rows": user, "min_item_rows": item})


def table(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row": np.arange(len(rows)) + 5,
            "user_id": pd.Series([user for user, _ in rows], dtype="str"),
            "movie_id": pd.Series([item for _, item in rows], dtype="str"),
        }
    )


def kept_rows(rows: Rows, user: int, item: int) -> list[int]:
    """Positions that stay; none left is an error of the function."""
    try:
        found, report = filter_interactions(table(rows), filters(user, item))
    except ValueError as error:
        if not str(error).startswith("data.filters must leave some rows, got none of"):
            raise
        return []
    assert report["rows_removed"] == len(rows) - len(found)
    return [int(row) - 5 for row in found["row"]]


IDS = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]))
ROWS = st.lists(st.tuples(IDS, IDS), min_size=1, max_size=40)
LIMIT = st.integers(1, 4)


@settings(deadline=None, max_examples=200)
@given(rows=ROWS, user=LIMIT, item=LIMIT)
def test_against_the_slow_twin(rows, user, item):
    assert kept_rows(rows, user, item) == core(rows, user, item)


@settings(deadline=None, max_examples=200)
@given(rows=ROWS, user=LIMIT, item=LIMIT)
def test_it_is_a_fixed_point(rows, user, item):
    kept = [rows[position] for position in kept_rows(rows, user, item)]
    for part, minimum in ((0, user), (1, item)):
        if minimum > 1:
            values = [row[part] for row in kept]
            assert all(v is not None and values.count(v) >= minimum for v in values)
    if kept:
        assert kept_rows(kept, user, item) == list(range(len(kept)))


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.sampled_from(["a", "b", "c"])] * 2), min_size=1, max_size=8),
    user=LIMIT,
    item=LIMIT,
)
def test_it_is_the_largest_one(rows, user, item):
    """Every subset in which all have enough rows lies inside it."""
    kept = set(kept_rows(rows, user, item))
    for size in range(1, len(rows) + 1):
        for subset in itertools.combinations(range(len(rows)), size):
            users = [rows[position][0] for position in subset]
            items = [rows[position][1] for position in subset]
            if all(users.count(u) >= user for u in users) and all(
                items.count(i) >= item for i in items
            ):
                assert kept >= set(subset)


def test_one_round_is_not_enough():
    """Each round takes the end off a chain; only the square with all pairs stays."""
    chain = [("u1", "i1"), ("u2", "i1"), ("u2", "i2"), ("u3", "i2"), ("u3", "i3")]
    square = [(user, item) for user in ("x", "y") for item in ("p", "q")]
    found, report = filter_interactions(table(chain + square), filters(2, 2))
    assert found["user_id"].tolist() == ["x", "x", "y", "y"]
    assert found.index.tolist() == [0, 1, 2, 3]
    assert report == {"rows_removed": 5, "users": 2, "items": 2}


def test_the_default_hands_the_table_on_untouched(interactions):
    found, report = filter_interactions(interactions, make_data())
    assert found is interactions
    assert report == {"rows_removed": 0, "users": None, "items": None}


def test_all_ratings_count_not_only_labelled_ones():
    """A user with four rows, two of them between the labels, is in the 4-core."""
    interactions = make_interactions(8).assign(
        user_id=["a"] * 4 + ["b"] * 4,
        movie_id=["p"] * 8,
        rating=[3.0, 3.0, 5.0, 1.0, 5.0, 1.0, 5.0, 1.0],
    )
    assert len(filter_interactions(interactions, filters(4, 1))[0]) == 8


def test_the_input_is_unchanged(interactions):
    before = interactions.copy(deep=True)
    filter_interactions(interactions, filters(10, 5))
    pd.testing.assert_frame_equal(interactions, before)


def test_nothing_left_is_an_error(interactions):
    message = (
        r"data\.filters must leave some rows, got none of 400 with min_user_rows 400 and "
        r"min_item_rows 1"
    )
    with pytest.raises(ValueError, match=message):
        filter_interactions(interactions, filters(400, 1))


def test_an_unknown_column_comes_with_the_nearest(interactions):
    data = make_data(user="user", filters={"min_user_rows": 2})
    with pytest.raises(ValueError, match="got 'user'; did you mean 'user_id'"):
        filter_interactions(interactions, data)
    with pytest.raises(ValueError, match="must have a column 'row'"):
        filter_interactions(interactions.drop(columns="row"), filters(2, 2))


def test_limits_are_at_least_one():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        filters(0, 1)
