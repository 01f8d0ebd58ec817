"""``kedro tune`` on a whole project: trials, MLflow, the environment, mistakes, a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import chdir

import mlflow
import optuna
import pytest
import yaml

from clickprompt.training import stage_run
from tests.end_to_end.project import QUICK, make_project, run

STUDY = "base_dcnv2_backbone"
# One rate that diverges, whatever the rest; two that are good, one that the pruner must end.
SPACE = {
    "backbone.learning_rate_ctr": {"choices": [5e-3, 1e-2, 1e-9, 1e30], "low": None, "high": None,
                                   "log": False},
    "backbone.weight_decay": None,
    "ctr.dropout": None,
    "ctr.hidden_sizes": {"choices": [[8], [16, 8]]},
}  # fmt: skip
TUNING = {"space": {"backbone": SPACE}, "trials": 10, "prune_from_trial": 2, "random_trials": 20}


def tune(project, *options):
    """``kedro tune`` inside this process."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from clickprompt.cli import tune as command

    bootstrap_project(project)
    with chdir(project):
        return CliRunner().invoke(command, options)


def trials(project, study=STUDY):
    path = project / "data/07_model_output/tuning" / f"{study}.db"
    return optuna.load_study(study_name=study, storage=f"sqlite:///{path}").trials


def runs(project):
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("clickprompt").experiment_id
    return client.search_runs([experiment], order_by=["attributes.start_time ASC"])


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make_project(tmp_path_factory.mktemp("project"), tuning=TUNING)


@pytest.fixture(scope="module")
def project(fresh):
    """The project after one run of the backbone and one search."""
    assert run(fresh, "--pipeline=backbone", "--params=seed=9").exit_code == 0
    kept = fresh / "data/07_model_output/backbone_predictions.parquet"
    before = kept.read_bytes()
    result = tune(fresh)
    assert result.exit_code == 0, result.output
    assert kept.read_bytes() == before
    (fresh / "search.txt").write_text(result.output)
    return fresh


def test_trials_end_as_their_rate_says(project):
    """1e30 diverges and 1e-9 stays at the first predictions, which the pruner must see."""
    found = trials(project)
    assert len(found) == 10
    seen = set()
    for trial in found:
        rate = trial.user_attrs["values"]["backbone.learning_rate_ctr"]
        seen.add(rate)
        if rate == 1e30:
            assert "diverged" in trial.user_attrs
        if trial.number > 4 and rate == 1e-9:
            assert trial.state.name == "PRUNED"
            assert list(trial.intermediate_values) == [1]
    assert len(seen) == 4
    assert max(found, key=lambda t: t.value or 0).user_attrs["values"][
        "backbone.learning_rate_ctr"
    ] in (5e-3, 1e-2)


def test_the_search_prints_progress_the_table_and_what_to_type(project):
    output = " ".join((project / "search.txt").read_text().split())
    assert "(10 of 10)" in output
    assert "10 of 10 trials, best valid AUC 0." in output
    assert f"Study {STUDY}: best valid AUC 0." in output
    assert f"kedro run --env={STUDY}" in output
    assert "up to date: modality_conversion" in output
    assert output.count("up to date: modality_conversion.label_and_split") == 1  # not in each trial
    assert (project / f"data/08_reporting/tuning/{STUDY}.html").is_file()


def test_every_trial_is_a_flat_run_that_knows_nothing_of_test(project):
    found = [r for r in runs(project) if r.data.tags.get("study") == STUDY]
    data, *tracked = found
    assert data.info.run_name == f"{STUDY} data"
    assert len(tracked) == 10
    states = {"COMPLETE": "trained", "PRUNED": "pruned"}
    for record, trial in zip(tracked, trials(project), strict=True):
        tags, metrics = record.data.tags, record.data.metrics
        diverged = "diverged" in trial.user_attrs
        assert record.info.run_name == f"{STUDY} trial {trial.number}"
        assert tags["trial"] == str(trial.number)
        assert "mlflow.parentRunId" not in tags
        assert tags["trial_state"] == ("failed" if diverged else states[trial.state.name])
        assert record.info.status == (
            "FAILED" if diverged else "FINISHED" if trial.state.name == "COMPLETE" else "KILLED"
        )
        assert ("error" in tags) == diverged
        assert not [name for name in metrics if "test" in name]
        if trial.state.name == "COMPLETE":
            assert metrics["backbone/best_valid_auc"] == trial.value
        elif not diverged:
            assert metrics["backbone/valid_auc"] == trial.value
        rate = trial.user_attrs["values"]["backbone.learning_rate_ctr"]
        assert float(record.data.params["backbone.learning_rate_ctr"]) == rate


def test_test_was_measured_for_no_trial(project):
    digests = {
        p.parent.parent.name: p for p in project.glob("data/06_models/backbone/*/*/report.json")
    }
    reports = [json.loads(path.read_text()) for path in digests.values()]
    assert len([r for r in reports if "test_auc" in r["metrics"]]) == 1  # of the run before
    assert len(reports) > 3


def test_the_environment_is_that_of_the_best_and_trains_nothing(project, monkeypatch):
    best = max(trials(project), key=lambda trial: trial.value or 0)
    written = yaml.safe_load((project / f"conf/{STUDY}/parameters.yml").read_text())
    assert written["ctr"]["hidden_sizes"] == best.user_attrs["values"]["ctr.hidden_sizes"]
    assert written["prompts"] == QUICK["prompts"]  # conf/local is not read with --env
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained again"))
    result = run(project, f"--env={STUDY}", "--pipeline=backbone")
    assert result.exit_code == 0, result.output
    latest = runs(project)[-1]
    assert latest.data.metrics["backbone/best_valid_auc"] == best.value
    assert 0 < latest.data.metrics["backbone/test_auc"] < 1
    assert "study" not in latest.data.tags


def test_a_search_that_is_finished_trains_nothing_and_goes_on_with_more_trials(
    project, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained again"))
        assert tune(project).exit_code == 0
    result = tune(project, "--trials", "11")
    assert result.exit_code == 0, result.output
    assert len(trials(project)) == 11
    text = (project / f"conf/{STUDY}/parameters.yml").read_text()
    assert "# kedro tune --trials 11\n" in text


MISTAKES = [
    (["--stage=backbon"], 2, ["'backbon' is not one of 'backbone'"]),
    (["--trials=0"], 2, ["--trials", "0 is not in the range x>=1"]),
    (["--env=movielens_2m"], 2, ["did you mean 'movielens_1m'?"]),
    (["--params=ctr.nam=dnn"], 1, ["ctr.nam", "did you mean 'name'"]),
    (["--params=tuning.trial=3"], 1, ["tuning.trial: unknown parameter; did you mean 'trials'"]),
    (["--params=ctr.dropout=0.1,backbone.learning_rate_ctr=0.1"], 1,
     ["--params must name what is not tuned, got backbone.learning_rate_ctr"]),
    (["--params=seed=3"], 1, ["fixed seed was 0, is 3", "--study"]),
    (["--study=a b"], 1, ["the study's name must be made of letters", "'a b'"]),
    (["--write=movielens_1m"], 1, ["conf/movielens_1m", "written by hand", "--force"]),
    (["--write=base"], 1, ["be none of base, local, got 'base'"]),
]  # fmt: skip


@pytest.mark.parametrize(("options", "code", "words"), MISTAKES, ids=lambda value: str(value)[:40])
def test_mistakes_are_told_shortly_before_any_work(project, options, code, words):
    before = len(runs(project))
    result = tune(project, *options)
    assert result.exit_code == code, result.output
    message = " ".join(result.output.split("Error: ")[-1].split())
    for word in words:
        assert word in message
    assert "Traceback" not in result.output
    assert len(runs(project)) == before


def test_raw_files_that_are_missing_end_the_search_and_no_trial_fails(project):
    result = tune(project, "--env=movielens_1m")
    assert result.exit_code == 1
    assert "ratings.dat, movies.dat, users.dat must lie in" in " ".join(result.output.split())
    assert not trials(project, "movielens_1m_dcnv2_backbone")


@pytest.mark.parametrize("stage", ["finetune_without_plm", "finetune_with_plm"])
def test_other_stages_share_one_pretraining(project, stage):
    result = tune(
        project, f"--stage={stage}", "--trials=2", "--write=best", "--study=s_" + stage[9:]
    )
    assert result.exit_code == 0, result.output
    assert len(list(project.glob("data/06_models/pretrain/*/result"))) == 1
    found = list(project.glob(f"data/06_models/{stage}/*/result/report.json"))
    assert len(found) == 2
    assert [json.loads(path.read_text())["diagnostics"] for path in found] == [None, None]
    shutil.rmtree(project / "conf/best")


def start(project, log):
    return subprocess.Popen(
        [sys.executable, "-m", "kedro", "tune", "--study=long", "--trials=2",
         "--params=backbone.epochs=6,backbone.batch_size=8,backbone.patience=6"],
        cwd=project,
        env=os.environ | {"KEDRO_DISABLE_TELEMETRY": "1", "COLUMNS": "200"},
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def wait_for(log, text):
    for _ in range(1200):
        if text in log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


@pytest.mark.slow
def test_a_search_goes_on_after_ctrl_c_and_after_a_kill(project, tmp_path):
    log = tmp_path / "log.txt"
    with log.open("w") as file:
        process = start(project, file)
    wait_for(log, "backbone epoch 2 of 6")  # an epoch's line comes before its checkpoint
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "the same command goes on from here" in log.read_text()
    with log.open("w") as file:
        process = start(project, file)
    wait_for(log, "backbone continues at epoch")
    wait_for(log, "backbone epoch 4 of 6")
    process.kill()
    process.wait(60)
    with log.open("w") as file:
        process = start(project, file)
    assert process.wait(120) == 0, log.read_text()
    assert re.search(r"backbone continues at epoch [45],", log.read_text()), log.read_text()
    found = trials(project, "long")
    assert [trial.state.name for trial in found][:2] == ["FAIL", "FAIL"]
    assert found[0].params == found[1].params == found[2].params
    assert sum(t.state.name in ("COMPLETE", "PRUNED") for t in found) == 2
    states = [r.info.status for r in runs(project) if r.data.tags.get("study") == "long"]
    assert "RUNNING" not in states
