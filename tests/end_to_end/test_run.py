"""A newcomer's session: everything from raw files to the table, twice, with mistakes between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.end_to_end.project import QUICK, make_project, run, write_tiny_gpt2

ENVIRONMENT = os.environ | {
    "KEDRO_DISABLE_TELEMETRY": "1",
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
}
MODELS = ["backbone", "clickprompt_without_plm", "clickprompt_with_plm"]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"), tracked=False)


@pytest.fixture(scope="module")
def project(fresh):
    """The project after its first run."""
    result = run(fresh)
    assert result.exit_code == 0, result.output
    (fresh / "first_run.txt").write_text(result.output)
    return fresh


def runs(project):
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("clickprompt").experiment_id
    return client, client.search_runs([experiment], order_by=["attributes.start_time DESC"])


def results(project):
    return json.loads((project / "data/08_reporting/results.json").read_text())


def test_first_run_ends_in_the_table(project):
    output = (project / "first_run.txt").read_text()
    assert "What the prompts do, valid split" in output
    assert "attention on the prompts by layer" in output
    for name in ("Backbone from scratch", "ClickPrompt without PLM", "ClickPrompt with PLM"):
        assert name in output


def test_results_have_one_row_a_model(project):
    rows = results(project)
    assert [row["model"] for row in rows] == MODELS
    for row in rows:
        assert (row["ctr"], row["seed"], row["rows"]) == ("dcnv2", 0, 150)
        assert 0 < row["auc"] < 1
        assert row["log_loss"] > 0
    assert [row["plm"] for row in rows] == [None, "plm", "plm"]


def test_planted_signal_is_found(project):
    assert results(project)[0]["auc"] > 0.65  # 0.5 is chance, 0.79 the best that is possible


def test_predictions_of_valid_and_test_are_kept(project):
    table = pd.read_parquet(project / "data/07_model_output/predictions.parquet")
    assert table.groupby(["model", "split"]).size().unique().tolist() == [150]
    assert table["probability"].between(0, 1).all()


def test_every_catalog_entry_was_written(project):
    names = {path.stem for path in (project / "data/08_reporting").glob("*.json")}
    assert names >= {
        "data_report", "data_figure", "backbone_curves", "pretraining_curves",
        "clickprompt_with_plm_curves", "comparison", "calibration", "roc", "long_tail",
        "evaluation_report", "results",
        *(
            f"{stage}_{figure}"
            for stage in ("pretraining", "clickprompt_with_plm")
            for figure in ("prompt_attention", "prompt_effect", "gradient_norms")
        ),
    }  # fmt: skip
    assert not list(project.glob("data/**/.unfinished*"))


def test_run_is_one_flat_finished_mlflow_run_with_everything(project):
    client, (tracked, *others) = runs(project)
    assert not others
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "movielens_small dcnv2 seed 0"
    assert "mlflow.parentRunId" not in tracked.data.tags
    assert tracked.data.params["pretrain.masking.share"] == "0.15"
    assert tracked.data.params["ctr.cross_layers"] == "1"
    assert tracked.data.params["seed"] == "0"
    assert len(tracked.data.tags["data_digest"]) == 64
    assert tracked.data.tags["environment"] == "base"
    for row in results(project):
        assert tracked.data.metrics[f"test_auc/{row['model']}"] == row["auc"]
    for curve in (
        "backbone/valid_auc",
        "backbone/train_loss",
        *(f"pretrain/valid_mlm_loss_prompts_{way}" for way in ("on", "off", "shuffled")),
        *(f"pretrain/valid_mlm_accuracy_prompts_{way}" for way in ("on", "off", "shuffled")),
    ):
        history = client.get_metric_history(tracked.info.run_id, curve)
        assert [point.step for point in history] == [1, 2], curve
    ways = ("on", "off", "shuffled")
    assert set(tracked.data.metrics) >= {
        *(f"{s}/prompt_attention.layer_1" for s in ("pretrain", "finetune_with_plm")),
        *(f"{s}/prompt_attention.indifferent" for s in ("pretrain", "finetune_with_plm")),
        *(f"finetune_with_plm/valid_auc_prompts_{way}" for way in ways),
        *(f"finetune_with_plm/valid_log_loss_prompts_{way}" for way in ways),
    }
    norms = json.loads((project / "data/06_models/pretrained.json").read_text())["report"]
    for part in ("ctr", "prompts", "plm", "head", "total"):
        history = client.get_metric_history(tracked.info.run_id, f"pretrain/gradient_norm.{part}")
        found = [(point.step, point.value) for point in history]
        assert found == [(entry["step"], entry[part]) for entry in norms["gradient_norms"]]
    page = client.download_artifacts(tracked.info.run_id, "figures.html")
    for title in ("which layers listen to the CTR model", "what the prompts contribute"):
        assert Path(page).read_text().count(title) == 2
    artifacts = {
        artifact.path
        for folder in ("", "reports")
        for artifact in client.list_artifacts(tracked.info.run_id, folder)
    }
    assert artifacts >= {"figures.html", "reports/data_report.json", "reports/results.json"}


def test_second_run_repeats_nothing_and_is_tracked_as_fully(project):
    before = {p: p.stat().st_mtime_ns for p in (project / "data").rglob("*.*") if p.is_file()}
    result = run(project)
    assert result.exit_code == 0, result.output
    assert result.output.count("running: ") == 3  # nodes that only show something
    assert "running: evaluation.show_results" in result.output
    assert "running: ingestion.show_ingestion_report" in result.output
    assert "rows read" in result.output
    assert "ClickPrompt with PLM" in result.output
    after = {p: p.stat().st_mtime_ns for p in (project / "data").rglob("*.*") if p.is_file()}
    assert after == before
    _, (second, first) = runs(project)
    assert second.data.metrics == first.data.metrics
    assert second.data.params == first.data.params


def test_one_pipeline_makes_what_it_needs_and_leaves_the_rest(project):
    result = run(project, "--pipeline=backbone", "--params=ctr.name=dnn,seed=1")
    assert result.exit_code == 0, result.output
    assert "up to date: modality_conversion" in result.output
    assert result.output.count("running: ") == 3  # training, its curves, its bundle
    assert "deprecated" not in result.output
    _, (latest, *_) = runs(project)
    assert latest.info.run_name == "movielens_small dnn seed 1"
    assert latest.data.params["ctr.name"] == "dnn"
    assert "test_auc/clickprompt_with_plm" not in latest.data.metrics
    assert 0 < latest.data.metrics["backbone/test_auc"] < 1
    assert results(project)[0]["ctr"] == "dcnv2"


def test_tags_are_honest_about_git(project):
    _, (latest, *_) = runs(project)
    assert "git_commit" not in latest.data.tags  # the folder is no repository
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    identity = ["-c", "user.name=x", "-c", "user.email=x"]
    commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, cwd=project, check=True)
    assert run(project, "--pipelines=ingestion").exit_code == 0
    _, (latest, *_) = runs(project)
    assert len(latest.data.tags["git_commit"]) == 40
    assert latest.data.tags["git_dirty"] == "true"


MISTAKES = [
    (["--params=ctr.nam=dnn,seed=-1"], ["2 parameters", "ctr.nam", "did you mean 'name'", "seed"]),
    (["--params=ctr.name=dcnv3"], ["ctr.name", "dcnv3", "did you mean 'dcnv2'"]),
    (["--params=data.label.positive_from=6"], ["labels", "both classes"]),
    (["--params=data.item=movie_ids"], ["movie_ids", "did you mean 'movie_id'"]),
    (["--params=plm.source=no/such/folder"], ["plm.source", "no/such/folder"]),
    (["--params=plm.keep_layers=9"], ["keep_layers", "9"]),
    (["--params=plm.name=roberta_bas"], ["plm_choices", "did you mean 'roberta_base'"]),
    (["--params=plm.max_tokens=999"], ["plm.max_tokens must be at most 64", "999"]),
    (["--params=plm.max_tokens=8,plm.long_text=error"], ["texts must have at most 8 tokens"]),
    (["--pipeline=pretraining"], ["pretraining", "Did you mean", "pretrain"]),
    (["--env=movielens_1m"], ["ratings.dat, movies.dat, users.dat must lie in", "grouplens"]),
]


@pytest.mark.parametrize(("options", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_told_shortly(project, options, words):
    before = results(project)
    result = run(project, *options)
    assert result.exit_code == 1, result.output
    message = " ".join(result.output.split("\nError: ")[-1].split())
    for word in words:
        assert word in message
    assert "Traceback" not in result.output
    assert results(project) == before


def test_unknown_environment_is_named_with_the_nearest(project):
    result = run(project, "--env=movielens_2m")
    assert result.exit_code == 2
    assert "did you mean 'movielens_1m'?" in result.output


def test_truncated_raw_file_is_an_error_and_loses_nothing(project):
    path = project / "data/01_raw/synthetic/ratings.csv"
    whole = path.read_bytes()
    before = results(project)
    path.write_text("userId;movieId;rating;timestamp\n1;2;5;3\n")
    try:
        result = run(project)
        assert result.exit_code == 1
        assert "ratings.csv" in result.output.split("\nError: ")[-1]
        assert results(project) == before
    finally:
        path.write_bytes(whole)
    assert run(project).exit_code == 0
    assert results(project) == before


def test_wrong_sha256_is_told(project):
    path = project / "conf/local/catalog.yml"
    text = path.read_text()
    path.write_text(text.replace("ratings.csv: null", f"ratings.csv: '{'0' * 64}'"))
    try:
        result = run(project, "--runner=SequentialRunner")
        assert result.exit_code == 1
        assert f"must have sha256 {'0' * 64}" in " ".join(result.output.split())
    finally:
        path.write_text(text)


def test_failed_run_is_marked_in_mlflow(project):
    assert run(project, "--params=data.label.positive_from=6").exit_code == 1
    _, (latest, *_) = runs(project)
    assert latest.info.status == "FAILED"
    assert "both classes" in latest.data.tags["error"]


def test_verbose_shows_the_traceback(project):
    result = run(project, "--params=seed=-1", "--verbose")
    assert isinstance(result.exception, ValueError)


def test_run_from_a_folder_inside_the_project(project):
    assert run(project, "--pipelines=ingestion").exit_code == 0
    command = [shutil.which("kedro", path=os.path.dirname(sys.executable)), "run"]
    done = subprocess.run(
        [*command, "--pipelines=ingestion"],
        cwd=project / "conf" / "base",
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up to date: ingestion.read_raw_files" in done.stdout + done.stderr
    assert not (project / "conf" / "base" / "mlflow.db").exists()
    assert not (project / "conf" / "base" / "info.log").exists()


def start_long_run(project, log):
    return subprocess.Popen(
        [
            sys.executable, "-m", "kedro", "run", "--pipelines=backbone",
            "--params=seed=7,backbone.epochs=100000,backbone.patience=100000",
        ],
        cwd=project,
        env=ENVIRONMENT,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for(log, text):
    for _ in range(600):
        if text in log.read_text():
            return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_interrupted_and_killed_runs_are_marked(project, tmp_path):
    log = tmp_path / "log.txt"
    # By the user, and by a scheduler.
    for number, begun in (
        (signal.SIGINT, "backbone epoch 2 of"),
        (signal.SIGTERM, "backbone continues at epoch"),
    ):
        with log.open("w") as file:
            process = start_long_run(project, file)
        wait_for(log, begun)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        said = log.read_text()
        assert "interrupted in backbone.train_backbone; the same command goes on" in said
        _, (interrupted, *_) = runs(project)
        assert interrupted.info.status == "KILLED"

    with log.open("w") as file:
        process = start_long_run(project, file)
    wait_for(log, "backbone continues at epoch")
    process.kill()
    process.wait(60)
    _, (killed, *_) = runs(project)
    assert killed.info.status == "RUNNING"
    assert run(project, "--pipelines=ingestion").exit_code == 0
    client, _ = runs(project)
    marked = client.get_run(killed.info.run_id)
    assert marked.info.status == "KILLED"
    assert "vanished" in marked.data.tags["ended"]


def test_quick_parameters_are_what_the_project_was_made_with(project):
    _, tracked = runs(project)
    assert tracked[-1].data.params["prompts.count"] == str(QUICK["prompts"]["count"])


def test_a_causal_language_model_chosen_by_its_name(tmp_path):
    """GPT-2: texts without special tokens behind them, PA-CLM, pooling of the last token."""
    quick = QUICK["finetune"]
    with_plm = quick["with_plm"] | {"pooling": "last"}
    project = make_project(
        tmp_path,
        ratings=900,
        plm={"name": "tiny"},
        plm_choices={"tiny": {"source": "my-gpt2"}},
        finetune=quick | {"with_plm": with_plm},
    )
    write_tiny_gpt2(project / "my-gpt2")
    result = run(project)
    assert result.exit_code == 0, result.output
    assert [row["plm"] for row in results(project)] == [None, "my-gpt2", "my-gpt2"]
    _, (tracked,) = runs(project)
    assert "pretrain/valid_clm_loss_prompts_on" in tracked.data.metrics
    assert tracked.data.params["plm.source"] == "my-gpt2"
    assert tracked.data.params["plm.keep_layers"] == "null"
    curves = (project / "data/08_reporting/pretraining_curves.json").read_text()
    assert "PA-CLM loss" in curves
    again = run(project, "--params=plm.name=minilm_2,plm.source=my-gpt2,plm.keep_layers=null")
    assert again.exit_code == 0, again.output
    assert again.output.count("running: ") == 3, "the same model by another way is up to date"
