"""The MLflow model: what is in it, and a real server in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest

from benchmarks.serving import MALFORMED, Server
from clickprompt.serving import Scorer
from tests.serving.conftest import plain_rows

COLUMNS = ["user_id", "movie_id", "movie_title", "genre", "release_year"]


@pytest.fixture(scope="module")
def client(served_project: Path) -> mlflow.MlflowClient:
    return mlflow.MlflowClient(f"sqlite:///{served_project}/mlflow.db")


@pytest.fixture(scope="module")
def model_folder(served_project: Path, client: mlflow.MlflowClient) -> Path:
    """Where the run has put the registered model."""
    version = client.get_model_version("clickprompt", "1")
    model = client.get_logged_model(version.source.removeprefix("models:/"))
    return served_project / model.artifact_location.removeprefix("file://")


def test_finetuning_logs_and_registers(client, model_folder):
    names = {model.name for model in client.search_registered_models()}
    assert names == {"clickprompt", "clickprompt_without_plm", "clickprompt_backbone"}
    described = mlflow.models.Model.load(str(model_folder))
    assert [column.name for column in described.signature.inputs] == COLUMNS
    assert described.signature.outputs.input_names() == ["probability", "reason"]
    assert described.saved_input_example_info
    pinned = (model_folder / "requirements.txt").read_text().split()
    assert len(pinned) > 10
    assert all("==" in line for line in pinned)
    pickled = (".pkl", ".pickle", ".bin", ".pt", ".joblib")
    assert not [path for path in model_folder.rglob("*") if path.suffix in pickled]


@pytest.fixture(scope="module")
def server(model_folder, tmp_path_factory) -> Iterator[Server]:
    started = Server(model_folder, tmp_path_factory.mktemp("server"))
    try:
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def rows(interactions) -> list[dict[str, Any]]:
    return plain_rows(interactions[COLUMNS].head(64))


def test_answers_as_the_offline_predictions(server, interactions, offline):
    expected = offline("with_plm").sort_values("row")
    chosen = interactions[interactions["row"].isin(expected["row"])].sort_values("row")
    answers = server.score(plain_rows(chosen[COLUMNS]))
    found = [answer["probability"] for answer in answers]
    np.testing.assert_allclose(found, expected["probability"], rtol=0, atol=1e-6)


def test_rows_that_cannot_be_scored_and_unseen_values(server):
    good = {"user_id": "7", "movie_id": 12}
    answers = server.score([good, {"user_id": {"id": 7}}, {"user_id": "nobody"}, {"genre": "?"}])
    reasons = [answer["reason"] for answer in answers]
    assert reasons == [None, "user_id must be text or a number, got {'id': 7}", None, None]
    assert [answer["probability"] is None for answer in answers] == [False, True, False, False]


def test_many_clients_get_their_own_answers(server, bundles, rows):
    expected = Scorer(bundles["with_plm"]).score(rows).probability

    def ask(number: int) -> float:
        return float(server.score([rows[number]])[0]["probability"])

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(len(rows))))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_survives_malformed_requests(server, bundles, rows):
    for number in range(60):
        body, headers = MALFORMED[number % len(MALFORMED)]
        status, answer = server.ask("POST", "/invocations", body, headers)
        assert 400 <= status < 600, (body, answer)
    expected = Scorer(bundles["with_plm"]).score(rows[:3]).probability
    found = [answer["probability"] for answer in server.score(rows[:3])]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_huge_payload(server, bundles, rows):
    """5,000 rows and a cell of 1 MB: all are answered, in their order."""
    many = [*rows * 78, rows[0] | {"movie_title": "Silent River " * 80_000}]
    answers = server.score(many)
    assert len(answers) == len(many)
    expected = Scorer(bundles["with_plm"]).score(rows).probability
    found = [answer["probability"] for answer in answers[64:128]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert answers[-1]["probability"] is not None
