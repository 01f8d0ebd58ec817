"""The numbers on the pages are those of the files in benchmarks/results, and the claims hold."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.results import FOLDER

ACCURACY = FOLDER / "accuracy_base.json"


def test_the_results_page_is_made_of_the_files():
    assert report.PAGE.read_text(encoding="utf-8") == report.page()


def test_the_readme_shows_the_same_table():
    text = report.README.read_text(encoding="utf-8")
    assert text == report.readme(text)
    assert "<!-- results:embedded -->" in text


@pytest.mark.skipif(not ACCURACY.exists(), reason="no accuracy result")
def test_every_seed_and_model_of_the_accuracy_result_is_there_once():
    result = json.loads(ACCURACY.read_text(encoding="utf-8"))
    keys = [(row["model"], row["seed"]) for row in result["results"]]
    assert sorted(keys) == sorted(
        (model, seed) for model in result["chosen_weight_decay"] for seed in range(result["seeds"])
    )
    for model in result["chosen_weight_decay"]:
        cells = [entry for entry in result["tuning"] if entry["model"] == model]
        assert [cell["weight_decay"] for cell in cells] == result["grid"], "equal effort"
        best = max(cells, key=lambda cell: cell["metrics"]["valid_auc"])
        assert result["chosen_weight_decay"][model] == best["weight_decay"]


@pytest.mark.skipif(not ACCURACY.exists(), reason="no accuracy result")
def test_prompts_help_on_every_seed():
    for entry in json.loads(ACCURACY.read_text(encoding="utf-8"))["pretraining"]:
        metrics = entry["metrics"]
        on = metrics["valid_mlm_loss_prompts_on"]
        assert on < metrics["valid_mlm_loss_prompts_off"]
        assert on < metrics["valid_mlm_loss_prompts_shuffled"]
