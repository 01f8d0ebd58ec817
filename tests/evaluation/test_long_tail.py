"""The tail is what sorting the users says; the quadrants part the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clickprompt.evaluation.long_tail import (
    TrainFacts,
    long_tail_quadrants,
    tail_limit,
    train_facts,
)
from tests.reference import metrics_twins


@given(st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=80), st.floats(0.01, 0.99))
def test_limit_is_that_of_the_sorted_users(train_users, share):
    rows = Counter(train_users)
    limit, tail_share = tail_limit([rows[user] for user in train_users], share)
    tail = metrics_twins.tail_users(train_users, share)
    assert {user for user in rows if rows[user] <= limit} == tail
    assert tail_share == pytest.approx(len(tail) / len(rows))


@pytest.mark.parametrize(("users", "share", "tail"), [(30, 0.1, 3), (31, 0.1, 4), (100, 0.07, 7)])
def test_share_of_users_with_different_counts(users, share, tail):
    rows = np.repeat(np.arange(1, users + 1), np.arange(1, users + 1))
    assert tail_limit(rows, share) == (tail, pytest.approx(tail / users))


def test_facts_of_the_train_split():
    users, items = [1, 2, 2, 3, 3, 3], [3, 3, 3, 2, 2, 1]
    facts = train_facts([1, 0, 1, 1, 0, 1], users, items, 0.5)
    assert facts == TrainFacts(
        label_rate=pytest.approx(2 / 3),
        user_tail_limit=2,
        item_tail_limit=2,
        user_tail_share=pytest.approx(2 / 3),
        item_tail_share=pytest.approx(2 / 3),
    )


def test_quadrants_part_the_rows_and_unseen_users_are_tail():
    predictions = pd.DataFrame(
        {
            "label": [0, 1, 1, 1, 0, 1, 0],
            "probability": [0.2, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1],
            "user_train_rows": [0, 2, 2, 9, 9, 9, 3],
            "item_train_rows": [5, 1, 0, 1, 5, 5, 5],
        }
    )
    facts = TrainFacts(0.5, user_tail_limit=2, item_tail_limit=1, user_tail_share=0.1,
                       item_tail_share=0.1)  # fmt: skip
    rows = {(q["user"], q["item"]): q for q in long_tail_quadrants(predictions, facts)}
    assert {key: q["rows"] for key, q in rows.items()} == {
        ("tail", "tail"): 2,
        ("tail", "non-tail"): 1,
        ("non-tail", "tail"): 1,
        ("non-tail", "non-tail"): 3,
    }
    assert rows["non-tail", "non-tail"]["auc"] == metrics_twins.auc([0, 1, 0], [0.4, 0.3, 0.1])
    assert rows["tail", "tail"]["auc"] is None
    assert rows["tail", "tail"]["log_loss"] == pytest.approx(-np.log([0.7, 0.6]).mean())


def test_data_without_users_part_by_item_only():
    facts = train_facts([1, 0, 1, 1], [-1, -1, -1, -1], [3, 3, 3, 1], 0.5)
    assert facts == TrainFacts(0.75, None, 1, None, 0.5)
    predictions = pd.DataFrame(
        {
            "label": [0, 1, 1],
            "probability": [0.2, 0.7, 0.6],
            "user_train_rows": [-1, -1, -1],
            "item_train_rows": [3, 1, 0],
        }
    )
    found = [(q["user"], q["item"], q["rows"]) for q in long_tail_quadrants(predictions, facts)]
    assert found == [(None, "tail", 2), (None, "non-tail", 1)]


def test_data_without_users_and_items_have_no_tail():
    facts = train_facts([1, 0], [-1, -1], [-1, -1], 0.1)
    assert facts == TrainFacts(0.5, None, None, None, None)
    predictions = pd.DataFrame(
        {"label": [1], "probability": [0.5], "user_train_rows": [-1], "item_train_rows": [-1]}
    )
    assert long_tail_quadrants(predictions, facts) == []


def test_users_named_in_some_rows_only_are_an_error():
    with pytest.raises(ValueError, match=r"train_rows must hold .*got \{-1: 1, 1: 1\}"):
        train_facts([1, 0], [-1, 1], [1, 1], 0.1)


def test_an_empty_quadrant_is_undefined():
    predictions = pd.DataFrame(
        {"label": [1], "probability": [0.5], "user_train_rows": [9], "item_train_rows": [9]}
    )
    quadrants = long_tail_quadrants(predictions, TrainFacts(0.5, 1, 1, 0.1, 0.1))
    assert quadrants[0] == {
        "user": "tail",
        "item": "tail",
        "rows": 0,
        "positives": 0,
        "auc": None,
        "log_loss": None,
    }


@pytest.mark.parametrize(
    ("train_rows", "share", "message"),
    [
        ([1], 0.0, r"tail_share must be between 0 and 1, got 0\.0"),
        ([1], 1.0, r"tail_share must be between 0 and 1, got 1\.0"),
        ([0, 1], 0.1, r"got \{0: 1, 1: 1\}"),
        ([2, 2, 2], 0.1, r"once for each of them, got \{2: 3\}"),
        ([], 0.1, "train_rows must hold each user's number of train rows"),
    ],
)
def test_counts_of_no_train_split_are_named(train_rows, share, message):
    with pytest.raises(ValueError, match=message):
        tail_limit(train_rows, share)


def test_no_train_rows_are_named():
    with pytest.raises(ValueError, match="labels must have at least one train row, got none"):
        train_facts([], [], [], 0.1)
