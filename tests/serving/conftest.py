"""One quick project with its bundles, for all tests of serving."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from clickprompt.modality import ModelInput
from clickprompt.training.result import TrainedModel
from tests.end_to_end.project import make_project, run

STAGES = {
    "backbone": "backbone",
    "without_plm": "clickprompt_without_plm",
    "with_plm": "clickprompt_with_plm",
}

FIELDS = [
    {"column": "user_id", "name": "user id"},
    {"column": "movie_id", "name": "movie id", "min_count": 3},
    {"column": "movie_title", "name": "movie title"},
    {
        "column": "genre",
        "name": "genre",
        "kind": "multi_valued",
        "separator": "|",
        "multi_valued": "bag",
    },
    {"column": "release_year", "name": "release year", "kind": "numeric", "buckets": 4},
]


@pytest.fixture(scope="session")
def served_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that `kedro run` has finished, with a bag, a numeric and a filtered field."""
    project = make_project(tmp_path_factory.mktemp("served"), data={"fields": FIELDS})
    done = run(project)
    assert done.exit_code == 0, done.output
    return project


@pytest.fixture(scope="session")
def trained(served_project: Path) -> Callable[[str], TrainedModel]:
    def load(name: str) -> TrainedModel:
        text = (served_project / f"data/06_models/{STAGES[name]}.json").read_text()
        found = TrainedModel.model_validate_json(text)
        return found.model_copy(update={"folder": str(served_project / found.folder)})

    return load


@pytest.fixture(scope="session")
def model_input(served_project: Path) -> ModelInput:
    return ModelInput.open(served_project / "data/05_model_input/model_input")


@pytest.fixture(scope="session")
def bundles(served_project: Path) -> dict[str, Path]:
    """What the training pipelines have written."""
    folder = served_project / "data/06_models/bundles"
    return {name: folder / stage for name, stage in STAGES.items()}


@pytest.fixture(scope="session")
def interactions(served_project: Path) -> pd.DataFrame:
    """The raw rows: of valid and test, of train, and those that the label rule leaves out."""
    return pd.read_parquet(served_project / "data/02_intermediate/interactions.parquet")


@pytest.fixture(scope="session")
def offline(served_project: Path) -> Callable[[str], pd.DataFrame]:
    """The predictions that training saved."""

    def load(name: str) -> pd.DataFrame:
        file = f"{STAGES[name]}_predictions.parquet"
        return pd.read_parquet(served_project / "data/07_model_output" / file)

    return load


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON would give them."""
    return [
        {str(key): None if value != value else value for key, value in row.items()}
        for row in frame.to_dict("records")
    ]
