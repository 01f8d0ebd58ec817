"""The page: what it shows, and a real request to it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from clickprompt.serving import BundleError, Scorer
from clickprompt.serving.page import Belongings, Desk, build_page, read_row

ROW = {
    "user_id": "7",
    "movie_id": "12",
    "movie_title": "Silent River",
    "genre": "Drama",
    "release_year": "1999",
}


@pytest.fixture(scope="module")
def desk(bundles):
    return Desk(bundles["backbone"].parent)


def test_shows_each_model_the_text_and_the_prompts(desk, bundles):
    answer = desk.answer(ROW | {"user_id": "nobody"})
    for name, bundle in bundles.items():
        expected = Scorer(bundle).score([ROW | {"user_id": "nobody"}]).probability[0]
        shown = "backbone" if name == "backbone" else f"clickprompt_{name}"
        assert answer.probabilities[shown] == pytest.approx(expected, abs=1e-6)
    assert answer.text.startswith("user id is nobody. movie id is 12. movie title is Silent River.")
    assert answer.unseen[0] == "user_id"
    assert answer.attention.shape == (1, 2)
    assert answer.reason is None


def test_says_why_a_row_cannot_be_scored(desk):
    answer = desk.answer(ROW | {"release_year": "soon"})
    assert answer.reason == "release_year must be a finite number, got 'soon'"
    assert set(answer.probabilities.values()) == {None}


def test_typed_rows():
    assert read_row(["user_id", "genre"], ["7", ""], " ") == {"user_id": "7", "genre": None}
    assert read_row(["user_id"], ["7"], '{"user_id": 8}') == {"user_id": 8}
    for typed in ("{", "[1]"):
        with pytest.raises(ValueError, match="a typed row must be a JSON object, got"):
            read_row(["user_id"], ["7"], typed)


def test_a_movie_brings_its_title(interactions):
    belongings = Belongings(interactions, list(ROW))
    row = interactions.iloc[5]
    found = belongings.of("movie_id", row["movie_id"])
    assert found == {name: str(row[name]) for name in ("movie_title", "genre", "release_year")}
    assert "movie_id" in belongings.columns
    assert "user_id" not in belongings.columns  # a user sees many movies
    assert "genre" not in belongings.columns
    assert belongings.of("movie_id", "no such movie") == {}
    completed = belongings.complete(dict.fromkeys(ROW) | {"movie_id": row["movie_id"]})
    assert completed == dict.fromkeys(ROW) | {"movie_id": row["movie_id"]} | found


def test_what_belongs_may_be_missing():
    rows = pd.DataFrame({"item": ["a", "a", "b"], "year": ["1999", "1999", None]})
    belongings = Belongings(rows, ["item", "year", "shop"])
    assert belongings.of("item", "a") == {"year": "1999"}
    assert belongings.of("item", "b") == {"year": None}


def test_no_bundles(tmp_path):
    with pytest.raises(BundleError, match=r"must hold a bundle .* got none"):
        Desk(tmp_path)


def test_the_page_answers_a_request(desk, interactions):
    """The page on loopback, asked as a browser would, through Gradio's own client."""
    pytest.importorskip("gradio")
    from gradio_client import Client

    page = build_page(desk, Belongings(interactions, desk.columns))
    _, address, _ = page.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, share=False, quiet=True
    )
    try:
        client = Client(address, verbose=False)
        table, text, notes, attention = client.predict(
            *([None] * len(ROW)), json.dumps(ROW), api_name="/score"
        )
        found = [float(probability) for _, probability in table["data"]]
        expected = list(desk.answer(ROW).probabilities.values())
        np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
        assert "movie title is Silent River" in text
        assert attention["headers"] == ["layer", "prompt 1", "prompt 2", "all"]
        assert notes == "" or "Not seen" in notes
        row = interactions.iloc[5]
        filled = client.predict(row["movie_id"], *([None] * len(ROW)), api_name="/fill_movie_id")
        assert filled[2] == row["movie_title"]
    finally:
        page.close()
