"""Files of raw rows to files of probabilities: chunks, order, marks, kill -9, reports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clickprompt.parameters import ScoreParameters
from clickprompt.serving import batch
from clickprompt.serving.batch import score_file
from tests.end_to_end.project import run

COLUMNS = ["user_id", "movie_id", "movie_title", "genre", "release_year"]


@pytest.fixture
def score(bundles, tmp_path):
    def run_it(name: str, file: Path, **settings) -> dict:
        parameters = {"model": str(bundles[name]), "chunk_rows": 100} | settings
        return score_file(ScoreParameters(input=str(file), **parameters))

    return run_it


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["without_plm", "with_plm"])
def test_a_file_gets_the_offline_predictions_in_its_order(
    score, interactions, offline, tmp_path, kind, name
):
    expected = offline(name).set_index("row")["probability"]
    rows = interactions[interactions["row"].isin(expected.index)].sample(frac=1, random_state=0)
    file = tmp_path / f"rows.{kind}"
    if kind == "csv":
        rows.to_csv(file, index=False)
    else:
        rows.to_parquet(file, index=False)
    report = score(name, file)
    assert report["rows"] == len(rows) > 200  # several chunks
    target = tmp_path / f"rows.scored.{kind}"
    found = pd.read_csv(target) if kind == "csv" else pd.read_parquet(target)
    assert found["row"].tolist() == rows["row"].tolist()
    assert found.columns.tolist() == [*rows.columns, "probability", "reason"]
    wanted = expected.loc[found["row"]].to_numpy()
    np.testing.assert_allclose(found["probability"], wanted, rtol=0, atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [file.name, target.name, f"{target.name}.report.json"]
    )


def test_texts_stay_as_they_stand_and_bad_rows_stay(score, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(
        'code,user_id,movie_id,release_year,movie_title\n007,7,12,1999,"Silent, ""River"""\n'
        "1e5,nobody,,soon,\n,8,13,,Golden Castle\n"
    )
    report = score("with_plm", file, output=str(tmp_path / "out.parquet"))
    found = pd.read_parquet(tmp_path / "out.parquet")
    assert found["code"].tolist() == ["007", "1e5", ""]
    assert found["movie_title"][0] == 'Silent, "River"'
    assert found["reason"].astype(object).where(found["reason"].notna(), None).tolist() == [
        None,
        "release_year must be a finite number, got 'soon'",
        None,
    ]
    assert found["probability"].isna().tolist() == [False, True, False]
    assert report["lacking_columns"] == ["genre"]
    assert report["not_scored"] == 1
    fields = report["fields"]
    assert fields["user_id"]["out_of_vocabulary"] == pytest.approx(1 / 3)
    assert fields["genre"]["missing"] == 1.0
    normal = fields["user_id"]["out_of_vocabulary_in_test"]
    assert fields["user_id"]["drift"] == pytest.approx(1 / 3 - normal)
    assert json.loads((tmp_path / "out.parquet.report.json").read_text()) == report


def test_a_killed_run_goes_on(score, bundles, interactions, tmp_path, monkeypatch):
    """kill -9 in the middle; then the rest is scored, and the file is that of a whole run."""
    rows = pd.concat([interactions[COLUMNS]] * 8, ignore_index=True)
    rows.to_parquet(tmp_path / "rows.parquet")
    code = (
        "import sys\n"
        "from clickprompt.parameters import ScoreParameters\n"
        "from clickprompt.serving.batch import score_file\n"
        "score_file(ScoreParameters(input='rows.parquet', model=sys.argv[1], chunk_rows=100))\n"
    )
    command = [sys.executable, "-c", code, str(bundles["with_plm"])]
    process = subprocess.Popen(command, cwd=tmp_path)
    parts = tmp_path / ".rows.scored.parquet.parts"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*.parquet"))) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "rows.scored.parquet").exists()
    kept = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.parquet")}
    assert 5 <= len(kept) < len(rows) // 100
    os.utime(sorted(parts.glob("*.parquet"))[0], ns=(1, 1))  # would be lost if scored again
    seen: list[int] = []
    join = batch._join

    def look(folder: Path, target: Path) -> None:
        seen.append(sorted(folder.glob("*.parquet"))[0].stat().st_mtime_ns)
        join(folder, target)

    monkeypatch.setattr(batch, "_join", look)
    monkeypatch.chdir(tmp_path)
    report = score("with_plm", Path("rows.parquet"))
    assert seen == [1]
    whole = score("with_plm", tmp_path / "rows.parquet", output=str(tmp_path / "whole.parquet"))
    resumed = pd.read_parquet(tmp_path / "rows.scored.parquet")
    pd.testing.assert_frame_equal(resumed, pd.read_parquet(tmp_path / "whole.parquet"))
    assert report["fields"] == whole["fields"]
    assert report["rows"] == len(rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input": None}, "score.input must be a CSV or Parquet file, got null"),
        ({"input": "none.csv"}, "score.input must be a file that is there, got 'none.csv'"),
        ({"model": "other"}, "score.model must be the path of a bundle .* got 'other'"),
        ({"output": "out.xlsx"}, "score.output must end in .csv or .parquet, got 'out.xlsx'"),
    ],
)
def test_wrong_parameters(bundles, tmp_path, settings, message):
    file = tmp_path / "rows.csv"
    file.write_text("user_id\n7\n")
    given = {"input": str(file), "model": str(bundles["backbone"])} | settings
    with pytest.raises(ValueError, match=message):
        score_file(ScoreParameters(**given))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("price\n3\n", "must have at least one of the columns user_id, .*, got price"),
        ("user_id,probability\n7,1\n", "must have no column 'probability'"),
        ("user_id,user_id\n7,8\n", "must have different names in its first line"),
        ("user_id\n", "must have rows, got none"),
    ],
)
def test_wrong_files(score, tmp_path, content, message):
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        score("backbone", file)
    assert not (tmp_path / "rows.scored.csv").exists()


def test_the_pipeline_scores_reports_and_tracks(served_project, interactions):
    """`kedro run --pipeline=score`: twice, since a file may have changed; OOV goes to MLflow."""
    import mlflow

    rows = interactions[COLUMNS].head(50).assign(user_id="nobody")
    for _ in range(2):
        rows.to_csv(served_project / "new.csv", index=False)
        (served_project / "new.scored.csv").unlink(missing_ok=True)
        done = run(served_project, "--pipeline=score", "--params=score.input=new.csv")
        assert done.exit_code == 0, done.output
        assert "50 rows scored to new.scored.csv" in done.output
    found = pd.read_csv(served_project / "new.scored.csv")
    assert found["probability"].between(0, 1).all()
    client = mlflow.MlflowClient(f"sqlite:///{served_project}/mlflow.db")
    experiment = client.get_experiment_by_name("clickprompt")
    assert experiment is not None
    newest = client.search_runs([experiment.experiment_id], max_results=1)[0]
    assert newest.data.metrics["score/out_of_vocabulary.user_id"] == 1.0
    assert newest.data.metrics["score/rows"] == 50
