"""Predictions of three models on made-up samples, and their report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from clickprompt.evaluation import TrainFacts, evaluate_predictions
from clickprompt.parameters import EvaluationParameters

MODELS = (
    ("backbone", None, 1.5),
    ("clickprompt_without_plm", "minilm", 1.0),
    ("clickprompt_with_plm", "minilm", 0.5),
)
TRAIN = TrainFacts(
    label_rate=0.6,
    user_tail_limit=2,
    item_tail_limit=1,
    user_tail_share=0.11,
    item_tail_share=0.25,
)


def make_predictions(*, seeds=(0,), ctr_models=("dcnv2",), rows=400) -> pd.DataFrame:
    """Each model sees the true score through its own noise; first half valid, second test."""
    generator = np.random.default_rng(0)
    score = generator.normal(0.5, 1.5, rows)
    samples = pd.DataFrame(
        {
            "row": np.arange(rows) * 3,
            "split": np.where(np.arange(rows) < rows // 2, "valid", "test"),
            "label": (generator.random(rows) < 1 / (1 + np.exp(-score))).astype(np.int8),
            "user_train_rows": generator.integers(0, 12, rows),
            "item_train_rows": generator.integers(0, 6, rows),
        }
    )
    frames = [
        samples.assign(
            probability=(1 / (1 + np.exp(-score - generator.normal(0, noise, rows)))).astype("f4"),
            model=model,
            ctr=ctr,
            plm=plm,
            seed=seed,
        )
        for ctr in ctr_models
        for seed in seeds
        for model, plm, noise in MODELS
    ]
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def predictions() -> pd.DataFrame:
    return make_predictions()


@pytest.fixture(scope="session")
def report(predictions) -> dict:
    return evaluate_predictions(predictions, EvaluationParameters(), TRAIN)


@pytest.fixture(scope="session")
def report_without_user(predictions) -> dict:
    facts = dataclasses.replace(TRAIN, user_tail_limit=None, user_tail_share=None)
    return evaluate_predictions(
        predictions.assign(user_train_rows=-1), EvaluationParameters(), facts
    )


@pytest.fixture(scope="session")
def report_without_user_and_item(predictions) -> dict:
    facts = TrainFacts(0.6, None, None, None, None)
    unnamed = predictions.assign(user_train_rows=-1, item_train_rows=-1)
    return evaluate_predictions(unnamed, EvaluationParameters(), facts)


@pytest.fixture(scope="session")
def study_report() -> dict:
    """Two CTR models, three seeds."""
    predictions = make_predictions(seeds=(0, 1, 2), ctr_models=("dcnv2", "dnn"))
    return evaluate_predictions(predictions, EvaluationParameters(), TRAIN)
