"""Vocabularies and pieces: fitted on train only, missing values, every kind of field."""

from __future__ import annotations

from collections import Counter
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clickprompt.modality import Vocabulary
from clickprompt.modality.columns import Column
from clickprompt.modality.encoder import ColumnEncoder, as_text
from clickprompt.parameters import FieldParameters
from tests.modality.conftest import make_data, make_interactions, make_views


def encode(values: list) -> tuple[list, np.ndarray]:
    """Distinct values as text, and the code of each row."""
    encoder = ColumnEncoder()
    codes = encoder.encode(pa.array(values, from_pandas=True))
    return [as_text(value) for value in encoder.values], codes


def fit(values: list, train: int, **field) -> tuple[Vocabulary, list]:
    """The vocabulary of a column, and the ids of all its rows."""
    parameters = FieldParameters(column="x", name="x", **field)
    distinct, codes = encode(values)
    counts = np.bincount(codes[:train], minlength=len(distinct))
    vocabulary = Vocabulary.fit(parameters, Column("x", distinct, counts))
    return vocabulary, vocabulary.ids(distinct)[codes].tolist()


def none_if_null(value):
    return None if value is None or value != value else value


def test_categorical_ids_are_dense_and_unseen_values_are_row_0():
    vocabulary, ids = fit(["b", "a", "b", "c", "a", "d"], train=3)
    assert vocabulary.size == 3
    assert ids == [2, 1, 2, 0, 1, 0]


def test_min_count_counts_train_rows_only():
    vocabulary, ids = fit(["a", "a", "b", "b", "b", "b"], train=3, min_count=2)
    assert vocabulary.values == ("a",)
    assert ids == [1, 1, 0, 0, 0, 0]


def test_missing_is_a_value_of_its_own_where_train_has_it():
    _, ids = fit([None, "a", None], train=2)
    assert ids == [1, 2, 1]
    _, ids = fit(["a", "a", None], train=2)
    assert ids == [1, 1, 0]


def test_first_and_joined_values_of_a_cell():
    cells = ["Drama|War", "War", "Drama|War ", "Comedy", "|", None]
    vocabulary, ids = fit(cells, 3, kind="multi_valued", multi_valued="first")
    assert vocabulary.values == ("Drama", "War")
    assert ids == [1, 2, 1, 0, 0, 0]
    vocabulary, ids = fit(cells, 3, kind="multi_valued", multi_valued="joined")
    assert vocabulary.values == ("Drama, War", "War")
    assert ids == [1, 2, 1, 0, 0, 0]


def test_bags_hold_known_members_once():
    cells = ["War|Drama|War", "Drama", "Comedy|War", "Comedy", None]
    vocabulary, ids = fit(cells, 2, kind="multi_valued", multi_valued="bag")
    assert vocabulary.values == ("Drama", "War")
    members = [[m for m in row if m >= 0] for row in ids]
    assert members == [[1, 2], [1], [2], [0], [0]]


def test_numeric_buckets_are_train_quantiles():
    train = list(range(100))
    vocabulary, ids = fit([*train, -5, 1000, 50.5, None], 100, kind="numeric", buckets=4)
    assert Counter(ids[:100]) == {1: 25, 2: 25, 3: 25, 4: 25}
    assert ids[100:] == [1, 4, 3, 0]
    assert vocabulary.size == 5
    shifted, _ = fit([*train, *[5000] * 50], 100, kind="numeric", buckets=4)
    assert shifted.edges == vocabulary.edges  # valid and test values move nothing


def test_numeric_missing_and_repeated_values():
    vocabulary, ids = fit([7, 7, 7, None, 9], 4, kind="numeric", buckets=10)
    assert vocabulary.edges == ()
    assert ids == [1, 1, 1, 2, 1]
    assert vocabulary.size == 3


@given(
    values=st.lists(st.none() | st.floats(-1e9, 1e9, width=32), max_size=60),
    number=st.floats(-1e9, 1e9, width=32),
    buckets=st.integers(2, 12),
)
@settings(max_examples=150, deadline=None)
def test_no_numeric_row_of_the_table_stays_untrained(values, number, buckets):
    values = [number, *values]
    vocabulary, ids = fit(values, len(values), kind="numeric", buckets=buckets)
    assert set(ids) == set(range(1, vocabulary.size))
    known = sorted((value, i) for value, i in zip(values, ids, strict=True) if value is not None)
    assert [i for _, i in known] == sorted(i for _, i in known)  # monotone


def test_a_word_in_a_numeric_column_is_an_error():
    with pytest.raises(ValueError, match=r"column x must hold finite numbers .* got 'many'"):
        fit(["1", "many"], 2, kind="numeric")
    with pytest.raises(ValueError, match=r"column x must hold finite numbers .* got 'inf'"):
        fit(["1", "inf"], 2, kind="numeric")


@pytest.mark.parametrize(
    "field",
    [
        {},
        {"min_count": 2},
        {"kind": "multi_valued", "multi_valued": "first"},
        {"kind": "multi_valued", "multi_valued": "joined"},
        {"kind": "multi_valued", "multi_valued": "bag"},
    ],
)
@given(
    train=st.lists(st.sampled_from(["a", "b", "a|b", "c|a", None, "d"]), min_size=1, max_size=20),
    rest=st.lists(st.sampled_from(["a", "x", "x|y", "y|a", None, "z"]), max_size=20),
)
@settings(max_examples=60, deadline=None)
def test_vocabularies_never_see_valid_and_test(field, train, rest):
    alone, ids = fit(train, len(train), **field)
    together, all_ids = fit(train + rest, len(train), **field)
    assert together == alone
    assert [[m for m in np.atleast_1d(i) if m >= 0] for i in all_ids[: len(train)]] == [
        [m for m in np.atleast_1d(i) if m >= 0] for i in ids
    ]


@pytest.mark.parametrize("kind", ["categorical", "numeric"])
def test_a_vocabulary_survives_json(kind):
    import json

    vocabulary, _ = fit([1, 2, 3, None], 4, kind=kind)
    again = Vocabulary.from_dict(json.loads(json.dumps(vocabulary.as_dict())))
    assert again == vocabulary
    probe = ["1", "2.5" if kind == "numeric" else "9", None]
    assert again.ids(probe).tolist() == vocabulary.ids(probe).tolist()


def test_id_view_against_row_by_row_lookup(interactions, data, views):
    samples = views.samples
    train = samples[samples["split"] == 0]
    assert (views.field_codes.row_numbers == samples["row"]).all()
    assert (views.field_codes.labels == samples["label"]).all()
    assert views.field_codes.split_rows == tuple(np.bincount(samples["split"]))
    for position, name in enumerate(("user_id", "movie_id", "title")):
        counts = Counter(none_if_null(v) for v in train[name])
        minimum = data.fields[position].min_count
        same: dict = {}
        for value, found in zip(samples[name], views.ids[:, position], strict=True):
            value = none_if_null(value)
            assert (found == 0) == (counts[value] < minimum)
            assert same.setdefault(value, found) == found
        known = {i for i in same.values() if i}
        assert known == set(range(1, views.id_view.field_sizes[position]))


def test_bag_combinations_point_to_the_members(interactions, data, views):
    members = views.id_view.bags[3]
    names = views.id_view.vocabularies[3].values
    for cell, combination in zip(views.samples["genre"], views.ids[:, 3], strict=True):
        cell = none_if_null(cell)
        expected = {None} if cell is None else set(cell.split("|"))
        assert {names[i - 1] for i in members[combination] if i >= 0} == expected
    assert views.id_view.field_sizes[3] == 1 + len(names)


def test_train_rows_of_users_and_items_are_counted_on_the_raw_column(interactions, data, views):
    samples, codes = views.samples, views.field_codes.codes
    train = samples[samples["split"] == 0]
    for name, found in (
        ("user_id", views.id_view.user_train_rows(codes)),
        ("movie_id", views.id_view.item_train_rows(codes)),  # its min_count is 2: the ids know less
    ):
        counts = Counter(train[name])
        assert found.tolist() == [counts[value] for value in samples[name]]


def test_pieces_and_sentences(interactions, data, views):
    pieces = views.text_view.pieces
    assert len(set(pieces)) == len(pieces)
    for text, sample in zip(views.texts, views.samples.to_dict("records"), strict=True):
        title, genre, pages = (none_if_null(sample[name]) for name in ("title", "genre", "pages"))
        expected = (
            f"user id is {sample['user_id']}. movie id is {sample['movie_id']}. "
            f"movie title is {title or 'unknown'}. "
            f"genre is {genre.replace('|', ', ') if genre else 'unknown'}. "
            f"number of pages is {'unknown' if pages is None else format(pages, 'g')}."
        )
        assert text == expected


def test_missing_values_are_never_written_as_nan_or_none():
    interactions = make_interactions(60)
    interactions["title"] = None
    data = make_data(missing_word="not given")
    text_view = make_views(interactions, data).text_view
    assert " movie title is not given." in text_view.pieces
    joined = " ".join(text_view.pieces)
    assert not {"nan", "None", "<NA>"} & set(joined.replace(".", " ").split())


def test_the_template_keeps_braces_of_values_and_names():
    interactions = make_interactions(60)
    interactions["title"] = "{field} and {value} in {0}"
    fields = [{"column": "title", "name": "{value}"}]
    data = make_data(fields=fields, template="[{field}: {value}] {x}")
    text_view = make_views(interactions, data).text_view
    assert text_view.pieces == ("[{value}: {field} and {value} in {0}] {x}",)


def test_first_genre_is_an_option():
    interactions = make_interactions(60)
    fields = [{"column": "genre", "name": "genre", "kind": "multi_valued", "multi_valued": "first"}]
    data = make_data(fields=fields)
    text_view = make_views(interactions, data).text_view
    assert set(text_view.pieces) == {
        "genre is Drama.",
        "genre is War.",
        "genre is Comedy.",
        "genre is unknown.",
    }


def test_categoricals_whole_numbers_and_booleans_are_read_as_text():
    columns = {
        "c": (pd.Categorical(["b", None, "b"], categories=["unused", "b"]), ["b", None, "b"]),
        "n": ([3, 1, 3], ["3", "1", "3"]),
        "f": ([3.0, 0.1, np.nan], ["3", "0.1", None]),
        "t": ([True, False, True], ["True", "False", "True"]),
    }
    for name, (cells, texts) in columns.items():
        values, codes = encode(cells)
        assert [values[code] for code in codes] == texts, name


@given(batches=st.lists(st.lists(st.none() | st.sampled_from(["a", "b", "", "c"]), max_size=6)))
def test_codes_of_batches_are_those_of_the_whole(batches):
    """Whatever the cut, equal values have equal codes and a code gives its value back."""
    encoder = ColumnEncoder()
    codes = [encoder.encode(pa.array(batch, pa.string())).tolist() for batch in batches]
    assert [[encoder.values[c] for c in some] for some in codes] == batches
    assert len(set(encoder.values)) == len(encoder.values)


@given(batches=st.lists(st.lists(st.none() | st.sampled_from("abcdef"), max_size=6), min_size=1))
def test_values_of_one_hash_are_told_apart(batches):
    encoder = ColumnEncoder()
    with pytest.MonkeyPatch.context() as patch:
        few = lambda column: np.array([ord(v) % 2 for v in column.to_pylist()], np.uint64)  # noqa: E731
        patch.setattr("clickprompt.modality.encoder.value_hashes", few)
        codes = [encoder.encode(pa.array(batch, pa.string())).tolist() for batch in batches]
    assert [[encoder.values[c] for c in some] for some in codes] == batches
    assert len(set(encoder.values)) == len(encoder.values) == len(encoder)


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.bool_(), pa.date32(), pa.string()])
def test_every_type_is_encoded_over_batches(kind):
    cells = {
        "bool": [True, False, None],
        "date32[day]": [date(2020, 1, n) for n in (1, 2)] + [None],
    }
    values = cells.get(str(kind), ["7", "07", None] if kind == pa.string() else [7, -7, None])
    encoder = ColumnEncoder()
    batches = [values, values[::-1], values[:1] * 3]
    codes = [encoder.encode(pa.array(batch, kind)).tolist() for batch in batches]
    assert [[encoder.values[c] for c in some] for some in codes] == batches


def test_missing_numbers_of_all_kinds_are_one_value():
    encoder = ColumnEncoder()
    first = encoder.encode(pa.array([1.5, float("nan"), None, 0.0], pa.float64()))
    second = encoder.encode(pa.array([float("nan"), 1.5, -0.0, 2.5], pa.float64()))
    found = [[encoder.values[c] for c in codes] for codes in (first, second)]
    assert found == [[1.5, None, None, 0.0], [None, 1.5, 0.0, 2.5]]
    assert len(encoder.values) == len(encoder) == 4
