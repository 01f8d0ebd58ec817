"""Labels and splits, against a slow twin; tests/contracts/test_engines.py has the engines."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from clickprompt.modality import label_and_split
from tests.modality.conftest import make_data, make_interactions
from tests.reference.modality_twins import split_by_time

BY_TIME = {"by": "time", "shares": (8, 1, 1)}


def test_labels_and_dropped_rows(interactions, data):
    samples = label_and_split(interactions, data)
    ratings = interactions.set_index("row")["rating"]
    assert set(samples["row"]) == set(ratings.index[ratings != 3])
    assert samples["label"].dtype == samples["split"].dtype == "int8"
    assert (samples["label"] == (ratings[samples["row"]].to_numpy() >= 4)).all()


def test_thresholds_are_inclusive():
    interactions = make_interactions(40)
    interactions["rating"] = np.tile([2.5, 2.6, 3.9, 4.0], 10)
    data = make_data(label={"positive_from": 4, "negative_to": 2.5})
    samples = label_and_split(interactions, data)
    assert len(samples) == 20
    assert samples["label"].sum() == 10


@pytest.mark.parametrize("engine", ["pandas", "polars"])
@pytest.mark.parametrize("missing", [np.nan, None, np.inf])
def test_a_missing_rating_is_no_label(engine, missing):
    interactions = make_interactions(100)
    if engine == "pandas":
        interactions.loc[:9, "rating"] = missing
        assert label_and_split(interactions, make_data())["row"].min() >= 10
    else:
        polars = pytest.importorskip("polars")
        ratings = [missing] * 10 + interactions["rating"].tolist()[10:]
        frame = polars.from_pandas(interactions).with_columns(rating=polars.Series(ratings))
        assert label_and_split(frame, make_data())["row"].min() >= 10


@pytest.mark.parametrize("split", [{"by": "random"}, BY_TIME])
def test_splits_are_contiguous_in_original_order_and_sized_by_the_shares(interactions, split):
    samples = label_and_split(interactions, make_data(split=split))
    total = len(samples)
    assert samples.index.tolist() == list(range(total))
    assert (np.diff(samples["split"]) >= 0).all()
    for number in range(3):
        assert (np.diff(samples["row"][samples["split"] == number]) > 0).all()
    counts = samples["split"].value_counts()
    assert counts[0] == total * 8 // 10
    assert counts[0] + counts[1] == total * 9 // 10


def test_published_sizes_of_a_round_number():
    interactions = make_interactions(100)
    interactions["rating"] = np.tile([1.0, 5.0], 50)
    for rows, shares, sizes in (
        (100, (8, 1, 1), [80, 10, 10]),
        (100, (0.7, 0.2, 0.1), [70, 20, 10]),
        (20, (0.7, 0.1, 0.2), [14, 2, 4]),  # 20 * (0.7 + 0.1) is 15.999... in floats
    ):
        samples = label_and_split(interactions[:rows], make_data(split={"shares": shares}))
        assert np.bincount(samples["split"]).tolist() == sizes


@pytest.mark.parametrize("seed", range(5))
def test_time_split_breaks_ties_by_user_then_item(seed):
    interactions = make_interactions(300, seed)
    samples = label_and_split(interactions, make_data(split=BY_TIME))
    kept = interactions[interactions["rating"] != 3].to_dict("records")
    cuts = (len(kept) * 8 // 10, len(kept) * 9 // 10)
    expected = split_by_time(kept, cuts)
    found = dict(zip(samples["row"], samples["split"], strict=True))
    assert found == expected
    ties = interactions.set_index("row")["timestamp"]
    last = max(ties[row] for row, part in found.items() if part == 0)
    assert any(ties[row] == last for row, part in found.items() if part == 1)  # a tie was cut


def test_random_split_depends_on_row_numbers_and_seed_only(interactions):
    data = make_data(split={"seed": 5})
    samples = label_and_split(interactions, data)
    shuffled = label_and_split(interactions.sample(frac=1, random_state=0), data)
    pd.testing.assert_frame_equal(shuffled.reset_index(drop=True), samples.reset_index(drop=True))
    other = label_and_split(interactions, make_data(split={"seed": 6}))
    assert not (other["row"].to_numpy() == samples["row"].to_numpy()).all()


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("0", "1", "2")])
def test_a_column_may_say_the_split(interactions, names):
    number = interactions["row"].to_numpy() % 5
    given = [names[n] if n < 3 else None if n == 3 else "holdout" for n in number]
    if names[0] == "0":
        given = [int(name) if name in ("0", "1", "2") else None for name in given]
    mine = interactions.assign(fold=pd.Series(given))
    data = make_data(split={"by": "column", "column": "fold", "names": names})
    samples = label_and_split(mine, data)
    labelled = mine[(mine["rating"] != 3) & (mine["row"] % 5 < 3)]
    assert set(samples["row"]) == set(labelled["row"])
    assert (samples["split"] == samples["row"] % 5).all()
    other = make_data(split={"by": "column", "column": "fold", "names": (names[0], "dev", "x")})
    with pytest.raises(ValueError, match=r"fold must be 'dev' in some labelled rows .*split valid"):
        label_and_split(mine, other)


def test_equal_draws_at_a_cut_still_cut_there(interactions, data, monkeypatch):
    monkeypatch.setattr(np.random, "Philox", lambda key: EqualDraws())
    counts = np.bincount(label_and_split(interactions, data)["split"])
    rows = int((interactions["rating"] != 3).sum())
    assert counts.tolist() == [rows * 8 // 10, rows * 9 // 10 - rows * 8 // 10, -(-rows // 10)]


class EqualDraws:
    def random_raw(self, rows: int) -> np.ndarray:
        return np.ones(rows, dtype=np.uint64)


def test_an_unknown_column_comes_with_the_nearest(interactions):
    fields = [{"column": "titel", "name": "title"}]
    with pytest.raises(ValueError, match="got 'titel'; did you mean 'title'"):
        label_and_split(interactions, make_data(fields=fields))
    with pytest.raises(ValueError, match="got 'user'; did you mean 'user_id'"):
        label_and_split(interactions, make_data(user="user"))
    with pytest.raises(ValueError, match="must have a column 'row'"):
        label_and_split(interactions.drop(columns="row"), make_data())


def test_one_class_is_an_error(interactions):
    low = interactions.assign(rating=1.0)
    with pytest.raises(ValueError, match=r"labels of all rows must be of both classes, got only 0"):
        label_and_split(low, make_data())
    first = interactions.assign(rating=np.where(interactions["row"] < 380, 5.0, 1.0), timestamp=0)
    first["timestamp"] = first["row"]
    with pytest.raises(
        ValueError, match=r"labels of train rows must be of both classes, got only 1"
    ):
        label_and_split(first, make_data(split=BY_TIME))


def test_an_empty_split_is_an_error(interactions):
    with pytest.raises(
        ValueError, match="split valid must have at least one row, got none: 5 label"
    ):
        label_and_split(interactions[interactions["rating"] != 3][:5], make_data())
    with pytest.raises(ValueError, match=r"rating must be at least 4\.0 or at most 2\.0 in some"):
        label_and_split(interactions.assign(rating=3.0), make_data())


def test_time_and_row_must_be_usable(interactions):
    gap = interactions.assign(timestamp=interactions["timestamp"].where(interactions["row"] > 3))
    with pytest.raises(ValueError, match="timestamp must have a value in every row"):
        label_and_split(gap, make_data(split=BY_TIME))
    with pytest.raises(ValueError, match="'row' must hold each number once"):
        label_and_split(interactions.assign(row=1), make_data())


def test_a_table_may_have_its_own_label_column(interactions):
    mine = interactions.assign(label=(interactions["rating"] > 3).astype(float), split="x")
    data = make_data(label={"column": "label", "positive_from": 1, "negative_to": 0})
    samples = label_and_split(mine, data)
    assert len(samples) == len(mine)
    expected = mine.set_index("row")["label"][samples["row"]].to_numpy()
    assert (samples["label"] == expected).all()
    assert set(samples["split"]) == {0, 1, 2}


def test_without_user_and_item_ties_are_ordered_by_row(interactions):
    fields = [{"column": "title", "name": "title"}]
    data = make_data(user=None, item=None, fields=fields, split=BY_TIME)
    samples = label_and_split(interactions, data)
    kept = interactions[interactions["rating"] != 3].assign(user_id=0, movie_id=0)
    cuts = (len(kept) * 8 // 10, len(kept) * 9 // 10)
    expected = split_by_time(kept.to_dict("records"), cuts)
    assert dict(zip(samples["row"], samples["split"], strict=True)) == expected


def test_the_input_is_unchanged(interactions, data):
    before = interactions.copy(deep=True)
    label_and_split(interactions, data)
    pd.testing.assert_frame_equal(interactions, before)
