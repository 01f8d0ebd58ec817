"""The data report against the tables it tells of, and the whole embedded data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clickprompt import modality
from clickprompt.readers import read_interactions
from tests.modality.conftest import make_data, make_views, package_tokenizer_path

FOLDER = Path(__file__).parents[2] / "data/01_raw/movielens_small"
READ = {
    "rows_read": 500,
    "rows_kept": 400,
    "dropped": {"duplicate_row": 60, "empty_user_id": 40},
    "repaired": {"title_without_year": 7},
    "skipped": {},
}


def test_report_against_the_samples(interactions, data, model_input):
    report = modality.build_data_report(READ, model_input)
    assert json.loads(json.dumps(report)) == report
    samples = make_views(interactions, data).samples
    assert report["rows"] == {
        "read": 500,
        "kept": 400,
        "filtered_out": 0,
        "labelled": len(samples),
        "between_labels": 400 - len(samples),
    }
    assert report["dropped"] == READ["dropped"]
    train = samples[samples["split"] == 0]
    for number, split in enumerate(("train", "valid", "test")):
        part = samples[samples["split"] == number]
        facts = report["splits"][split]
        assert facts["rows"] == len(part)
        assert facts["positive"] == part["label"].sum()
        assert facts["label_rate"] == pytest.approx(part["label"].mean())
        assert facts["cold_item_rows"] == (~part["movie_id"].isin(train["movie_id"])).sum()
        unseen = ~part["title"].isin(train["title"])
        assert report["fields"][2]["out_of_vocabulary"][split] == pytest.approx(unseen.mean())
        genres = report["fields"][3]["out_of_vocabulary"]
        assert genres[split] == 0.0  # every genre is in train
    assert [field["vocabulary"] for field in report["fields"]] == [
        size - 1 for size in model_input.field_sizes
    ]
    lengths = model_input.text_lengths()
    tokens = report["tokens"]
    assert tokens["mean"] == pytest.approx(lengths.mean())
    assert tokens["longest"] == lengths.max()
    assert sum(tokens["histogram"].values()) == len(samples)
    assert report["digest"] == model_input.digest


def test_rows_that_the_filter_removed(model_input):
    removed = {"rows_removed": 30, "users": 20, "items": 50}
    report = modality.build_data_report(READ, model_input, removed)
    labelled = len(model_input.labels)
    assert report["rows"] == {
        "read": 500,
        "kept": 400,
        "filtered_out": 30,
        "labelled": labelled,
        "between_labels": 370 - labelled,
    }
    bars = {tuple(bar.y): bar for bar in modality.plot_data_report(report).data}
    fate = (
        "labelled",
        "between the labels",
        "too few rows of user or item",
        "duplicate row",
        "empty user id",
    )
    assert bars[fate].x == (labelled, 370 - labelled, 30, 60, 40)


def test_figure_shows_the_numbers(model_input):
    report = modality.build_data_report(READ, model_input)
    figure = modality.plot_data_report(report)
    bars = {tuple(bar.y): bar for bar in figure.data}
    fate = ("labelled", "between the labels", "duplicate row", "empty user id")
    assert bars[fate].x[2:] == (60, 40)
    stacked = [bar for bar in figure.data if bar.name in ("label 0", "label 1")]
    totals = np.sum([bar.y for bar in stacked], axis=0).tolist()
    assert totals == [report["splits"][s]["rows"] for s in ("train", "valid", "test")]
    assert {bar.name for bar in figure.data} >= {"valid", "test"}


def test_the_embedded_data_set(tmp_path):
    fields = (
        {"column": "user_id", "name": "user id"},
        {"column": "movie_id", "name": "movie id"},
        {"column": "movie_title", "name": "movie title"},
        {"column": "genre", "name": "genre", "kind": "multi_valued"},
        {"column": "release_year", "name": "release year"},
    )
    data = make_data(fields=fields, label={"positive_from": 4, "negative_to": 2.5})
    read = read_interactions({n: FOLDER / n for n in ("ratings.csv", "movies.csv")}, data)
    samples = modality.label_and_split(read.interactions, data)
    assert len(samples) == 67_653
    assert samples["label"].sum() == 48_580
    assert np.bincount(samples["split"]).tolist() == [54_122, 6_765, 6_766]
    tokenizer = modality.PieceTokenizer.of(package_tokenizer_path())
    model_input = modality.convert_interactions(
        read.interactions, data, tokenizer, tmp_path / "input"
    )
    report = modality.build_data_report(read.report, model_input)
    assert report["rows"]["between_labels"] == 100_836 - 67_653
    assert report["splits"]["train"]["truncated"] == 0
    assert report["splits"]["train"]["cold_user_rows"] == 0
    first = np.flatnonzero(model_input.row_numbers == 0)
    found, lengths = modality.TextBatcher(model_input).tokens(first)
    text = tokenizer.backend.decode(found[0, 1 : lengths[0] - 1])
    assert text == (
        "user id is 1. movie id is 1. movie title is toy story. genre is adventure. "
        "release year is 1995."
    )
