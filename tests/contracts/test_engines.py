"""The whole conversion on every engine that the catalog can name: all arrays are the same.

The table is read by the dataset of each engine from one Parquet file, as in a run, in a shuffled
order of rows, so that no engine can lean on the order of the file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.io import AbstractDataset

from clickprompt.hooks import start_spark
from clickprompt.modality import ModelInput, filter_interactions
from clickprompt.modality import arrays as modality_arrays
from clickprompt.modality import engines as modality_engines
from clickprompt.modality.model_input import write_model_input
from clickprompt.modality.tokens import tokenise_pieces
from clickprompt.parameters import DataParameters
from tests.docs.pages import REPOSITORY
from tests.modality.conftest import (
    make_data,
    make_interactions,
    make_views,
    package_tokenizer_path,
)

ENGINES: dict[str, dict[str, Any]] = {
    "pandas": {"type": "pandas.ParquetDataset"},
    "polars": {"type": "polars.LazyPolarsDataset", "file_format": "parquet"},
    "polars eager": {"type": "polars.EagerPolarsDataset", "file_format": "parquet"},
    "duckdb": {"type": "ibis.FileDataset", "file_format": "parquet"},
    "spark": {"type": "spark.SparkDatasetV2", "file_format": "parquet"},
}
NEEDS = {"polars": "polars", "polars eager": "polars", "duckdb": "ibis", "spark": "pyspark"}
SETTINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "time, ties cut": {"split": {"by": "time", "shares": (8, 1, 1)}},
    "given, k-core": {
        "split": {"by": "column", "column": "fold", "names": ("a", "b", "c")},
        "filters": {"min_user_rows": 10, "min_item_rows": 5},
    },
    "no user, no item": {
        "user": None,
        "item": None,
        "time": None,
        "fields": [
            {"column": "title", "name": "title"},
            {"column": "pages", "name": "pages", "kind": "numeric"},
            {"column": "timestamp", "name": "time"},
        ],
    },
    "item filter only": {"filters": {"min_item_rows": 8}},
}


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    whole = make_interactions(700, seed=4)
    draw = np.random.default_rng(0)
    missing = pd.Series(draw.random(len(whole)) < 0.03)
    return whole.assign(
        fold=draw.choice(["a", "b", "c", "other"], len(whole), p=[0.6, 0.2, 0.1, 0.1]),
        user_id=whole["user_id"].mask(missing),
        rating=whole["rating"].mask(pd.Series(draw.random(len(whole)) < 0.02)),
    ).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def spark() -> Any:
    """A local session; its settings are those of conf/spark."""
    pytest.importorskip("pyspark.sql")
    if shutil.which("java") is None:
        pytest.skip("PySpark needs Java 17 or 21, got no java on the path")
    settings = yaml.safe_load((REPOSITORY / "conf/spark/spark.yml").read_text(encoding="utf-8"))
    session = start_spark(settings | {"spark.driver.memory": "1g"})
    yield session
    session.stop()


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    name: str = request.param
    pytest.importorskip(NEEDS.get(name, "pandas"))
    if name == "spark":
        request.getfixturevalue("spark")
    return name


def read(engine: str, path: Path) -> Any:
    return AbstractDataset.from_config(engine, ENGINES[engine] | {"filepath": str(path)}).load()


def convert(frame: Any, data: DataParameters, folder: Path) -> tuple[ModelInput, dict[str, Any]]:
    filtered, report = filter_interactions(frame, data)
    views = make_views(filtered, data, folder / "codes")
    tokens = tokenise_pieces(
        views.text_view, views.field_codes, package_tokenizer_path(), max_tokens=40
    )
    parts = (views.field_codes, views.id_view, views.text_view, tokens)
    return write_model_input(folder / "input", *parts), report


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_array_is_the_same(engine, setting, table, tmp_path, monkeypatch):
    """Against pandas on the rows in order, in one batch; the engine reads shuffled rows in many."""
    data = make_data(**SETTINGS[setting])
    expected, expected_report = convert(
        table.sort_values("row", ignore_index=True), data, tmp_path / "expected"
    )
    table.to_parquet(tmp_path / "table.parquet", index=False)
    monkeypatch.setattr(modality_engines, "ROWS_PER_CHUNK", 97)
    monkeypatch.setattr(modality_arrays, "ROWS_PER_CHUNK", 61)
    monkeypatch.setattr(modality_engines, "ROWS_PER_SPARK_JOB", 300)
    found, report = convert(read(engine, tmp_path / "table.parquet"), data, tmp_path / "found")
    assert report == expected_report
    for name in (
        "ids", "pieces", "labels", "row_numbers", "user_train_rows", "item_train_rows",
        "piece_tokens", "piece_offsets", "active_tokens",
    ):  # fmt: skip
        left, right = getattr(expected, name), getattr(found, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    assert found.vocabularies == expected.vocabularies
    assert found.digest == expected.digest
    assert len(found.labels) > 100


def test_an_engine_keeps_its_tables_lazy(engine, table, tmp_path):
    """The filter of a lazy engine is a plan, not a table in memory."""
    table.to_parquet(tmp_path / "table.parquet", index=False)
    frame = read(engine, tmp_path / "table.parquet")
    data = make_data(filters={"min_user_rows": 10})
    filtered, _ = filter_interactions(frame, data)
    assert isinstance(filtered, type(frame))
