"""Nothing that is fitted knows a valid or test row: vocabularies, edges, counts, active tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from clickprompt.modality import tokenise_pieces
from clickprompt.parameters import DataParameters
from tests.modality.conftest import make_data, make_views

FIELDS = (
    {"column": "user_id", "name": "user id"},
    {"column": "movie_id", "name": "movie id", "min_count": 2},
    {"column": "title", "name": "movie title"},
    {"column": "genre", "name": "genre", "kind": "multi_valued", "multi_valued": "bag"},
    {"column": "tags", "name": "tags", "kind": "multi_valued", "multi_valued": "joined"},
    {"column": "pages", "name": "number of pages", "kind": "numeric", "buckets": 4},
)
# few values, so that many are shared by train and the others, and rare ones stay rare
IDS = [str(n) for n in range(6)]
CELLS: dict[str, list[Any]] = {
    "user_id": IDS,
    "movie_id": IDS,
    "title": [None, "Heat", "heat", "", "The Long Film", "[MASK]"],
    "genre": [None, "Drama", "Drama|War", "War|Drama", "|", "War"],
    "tags": [None, "a", "a|b", "b|a"],
    "pages": [None, -1.0, 0.0, 1.5, 100.0, 250.0],
}
# values that train rows can only have by accident
NEW_CELLS: dict[str, st.SearchStrategy] = {
    "user_id": st.text("xyz", min_size=1, max_size=3),
    "movie_id": st.text("xyz", min_size=1, max_size=3),
    "title": st.text("quoxéß京!? ", max_size=12),
    "genre": st.text("Zorp|", max_size=8),
    "tags": st.text("zq|", max_size=6),
    "pages": st.floats(-1e9, 1e9),
}
# how train rows are chosen without a look at the cells above
SPLITS = ("random", "time", "column")
# no shrinking: seeds do not become simpler, and each try costs two fits
QUICKLY: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate,),
}


def draw_cells(draw: np.random.Generator, name: str, cells: list[Any], rows: int) -> pd.Series:
    values = [cells[n] for n in draw.integers(0, len(cells), rows)]
    return pd.Series(values, dtype="float64" if name == "pages" else "str")


@st.composite
def tables(draw: st.DrawFn) -> pd.DataFrame:
    """Interactions of 20 to 40 rows; a rating of 3 has no label."""
    rows, numbers = draw(st.integers(20, 40)), np.random.default_rng(draw(st.integers(0, 2**32)))
    columns: dict[str, Any] = {"row": np.arange(rows)}
    columns |= {name: draw_cells(numbers, name, cells, rows) for name, cells in CELLS.items()}
    columns["rating"] = numbers.integers(1, 6, rows).astype(float)
    # unique times: ties would be cut by user and item, which the test changes
    columns["timestamp"] = numbers.permutation(rows)
    columns["fold"] = numbers.choice(["train", "valid", "test"], rows, p=[0.6, 0.2, 0.2])
    return pd.DataFrame(columns)


def parameters(by: str) -> DataParameters:
    column = "fold" if by == "column" else None
    split = {"by": by, "shares": (6, 2, 2), "seed": 3, "column": column}
    return make_data(fields=FIELDS, split=split)


def fit(interactions: pd.DataFrame, data: DataParameters, tokenizer: Any) -> dict[str, Any]:
    """Everything that is fitted, and what becomes of the train rows; plain values.

    Bags of train rows are given by their members, pieces by their texts and tokens: numbers of
    combinations and of pieces are names, and no model learns from them.
    """
    views = make_views(interactions, data)
    ids, texts = views.id_view, views.text_view
    tokens = tokenise_pieces(texts, views.field_codes, tokenizer, max_tokens=60)
    train = views.field_codes.split_rows[0]
    codes = views.field_codes.codes[:train]
    train_ids: list[list[Any]] = []
    for row in ids.ids(codes).tolist():
        bags = {f: sorted(m for m in ids.bags[f][row[f]].tolist() if m >= 0) for f in ids.bags}
        train_ids.append([bags.get(f, local) for f, local in enumerate(row)])
    pieces = np.split(tokens.tokens, tokens.offsets[1:-1])
    return {
        "rows": views.field_codes.row_numbers[:train].tolist(),
        "labels": views.field_codes.labels[:train].tolist(),
        "vocabularies": [vocabulary.as_dict() for vocabulary in ids.vocabularies],
        "field_sizes": ids.field_sizes,
        "train_ids": train_ids,
        "user_train_rows": ids.user_train_rows(codes).tolist(),
        "item_train_rows": ids.item_train_rows(codes).tolist(),
        "train_texts": texts.texts(codes),
        "train_tokens": [[pieces[p].tolist() for p in row] for row in texts.piece_ids(codes)],
        "active_tokens": tokens.active_tokens.tolist(),
        "train_truncated": tokens.truncated["train"],
    }


def fit_or_reject(
    interactions: pd.DataFrame, data: DataParameters, tokenizer: Any
) -> dict[str, Any]:
    try:
        return fit(interactions, data, tokenizer)
    except ValueError as error:
        assume("both classes" not in str(error))
        assume("in some labelled rows" not in str(error))
        raise


@pytest.mark.parametrize("by", SPLITS)
@settings(max_examples=20, **QUICKLY)
@given(interactions=tables(), data=st.data())
def test_changed_valid_and_test_rows_change_nothing_fitted(by, word_piece, interactions, data):
    chosen = parameters(by)
    before = fit_or_reject(interactions, chosen, word_piece)
    others = ~interactions["row"].isin(before["rows"])  # unlabelled rows, too
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    changed = interactions.copy()
    for name, known in CELLS.items():
        cells = known + data.draw(st.lists(NEW_CELLS[name], min_size=1, max_size=5))
        changed[name] = changed[name].mask(others, draw_cells(draw, name, cells, len(changed)))
    assert fit(changed, chosen, word_piece) == before


@pytest.mark.parametrize("by", SPLITS)
@settings(max_examples=8, **QUICKLY)
@given(interactions=tables(), order=st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing_fitted(by, word_piece, interactions, order):
    chosen = parameters(by)
    before = fit_or_reject(interactions, chosen, word_piece)
    positions = list(range(len(interactions)))
    order.shuffle(positions)
    shuffled = interactions.iloc[positions].reset_index(drop=True)
    assert fit(shuffled, chosen, word_piece) == before


@pytest.mark.parametrize("by", SPLITS)
@settings(max_examples=5, **QUICKLY)
@given(interactions=tables(), which=st.floats(0, 1, exclude_max=True))
def test_a_changed_train_row_is_noticed(by, word_piece, interactions, which):
    """The test above could not fail if ``fit`` looked at nothing."""
    chosen = parameters(by)
    before = fit_or_reject(interactions, chosen, word_piece)
    changed = interactions.copy()
    row = before["rows"][int(which * len(before["rows"]))]
    changed.loc[row, ["user_id", "title"]] = "qqq"
    after = fit(changed, chosen, word_piece)
    for name in ("vocabularies", "train_ids", "train_texts", "train_tokens", "active_tokens"):
        assert after[name] != before[name], name


def test_what_a_fit_on_all_rows_would_know_is_not_known(word_piece):
    """By hand: values, edges, counts and tokens of the last rows in time are absent."""
    rows = 20
    interactions = pd.DataFrame(
        {
            "row": np.arange(rows),
            "user_id": [*"a" * 12, *"b" * 8],
            "movie_id": [*"mn" * 6, *"o" * 8],
            "title": ["Heat"] * 12 + ["Zebra"] * 8,
            "genre": ["War"] * 12 + ["Drama"] * 8,
            "tags": ["a"] * 12 + ["b"] * 8,
            "pages": [*range(12), *([999.0] * 8)],
            "rating": [5.0, 1.0] * 10,
            "timestamp": np.arange(rows),
        }
    )
    fitted = fit(interactions, parameters("time"), word_piece)
    values = [v["values"] for v in fitted["vocabularies"]]
    assert values == [["a"], ["m", "n"], ["Heat"], ["War"], ["a"], []]
    assert max(fitted["vocabularies"][5]["edges"]) <= 11
    assert fitted["user_train_rows"] == [12] * 12
    assert fitted["item_train_rows"] == [6] * 12
    zebra, heat = (
        word_piece.backend.encode(w, add_special_tokens=False).ids for w in ("zebra", "heat")
    )
    assert not set(zebra) & set(fitted["active_tokens"])
    assert set(heat) <= set(fitted["active_tokens"])
