"""``kedro study`` on a whole project: cells, MLflow, the report, failures, a kill, processes."""

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
import pandas as pd
import psutil
import pytest
import yaml

from clickprompt.evaluation.metrics import auc
from clickprompt.studies.records import Records
from tests.end_to_end.project import add_database, make_project
from tests.terminal import in_a_terminal

NAME = "mine"
CLICKPROMPT = ("clickprompt_without_plm", "clickprompt_with_plm")
STUDY = {
    "question": "Does it work?",
    "seeds": [0, 1],
    "compare_with": [{"model": "backbone"}],
    "axes": {
        "prompts": {
            "layer-wise": {"prompts.layout": "key_value"},
            "hidden-state": {"prompts.layout": "hidden_state"},
        },
        "model": ["backbone", *CLICKPROMPT],
    },
}
CELLS = 10  # the backbone is the same in both kinds of prompts
STAGES = 14  # two models share a pretraining
HALF, HALF_STAGES = CELLS // 2, STAGES // 2  # of one seed


def study(project, *options):
    """``kedro study`` inside this process."""
    from click.testing import CliRunner
    from kedro.framework.startup import bootstrap_project

    from clickprompt.cli import study as command

    bootstrap_project(project)
    with chdir(project):
        return CliRunner().invoke(command, options)


def runs(project, experiment=NAME):
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    number = client.get_experiment_by_name(experiment).experiment_id
    return client.search_runs([number], order_by=["attributes.start_time ASC"])


def records(project):
    return Records(project / "data/07_model_output/studies")


def summary(project, name=NAME):
    path = project / "data/08_reporting/studies" / name / "summary.json"
    return json.loads(path.read_text())


def stages(project):
    """Folders of trained stages with the time they were written."""
    found = (project / "data/06_models").glob("*/*/result/report.json")
    return {str(path): path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return make_project(
        tmp_path_factory.mktemp("project"),
        ratings=600,
        tracked=False,
        studies={"grids": {NAME: STUDY}},
    )


@pytest.fixture(scope="module")
def finished(fresh):
    project = fresh.with_name("finished")
    shutil.copytree(fresh, project)
    done = study(project, NAME)
    assert done.exit_code == 0, done.output
    return project


@pytest.fixture
def project(fresh, tmp_path):
    return shutil.copytree(fresh, tmp_path / "project")


@pytest.fixture
def small(project):
    """The project with one seed of the study: HALF cells, which have HALF_STAGES stages."""
    path = project / "conf/local/parameters.yml"
    parameters = yaml.safe_load(path.read_text())
    parameters["studies"]["grids"][NAME]["seeds"] = [0]
    path.write_text(yaml.safe_dump(parameters, sort_keys=False))
    add_database(project)
    return project


def test_every_cell_is_one_finished_run_named_after_it(finished):
    found = runs(finished)
    assert {run.info.status for run in found} == {"FINISHED"}
    names = [run.info.run_name for run in found]
    assert len(names) == len(set(names)) == CELLS
    assert "hidden-state clickprompt_with_plm seed 1" in names
    run = next(run for run in found if run.info.run_name == names[-1])
    assert {"study", "cell", "model", "data_digest"} <= set(run.data.tags)
    assert run.data.params["axis.model"] == run.data.tags["model"]
    assert run.data.params["axis.prompts"] == "hidden-state"
    assert "mlflow.parentRunId" not in run.data.tags
    assert run.data.params["prompts.layout"] == "hidden_state"
    for run in found:  # one name for all models, so that charts compare them
        assert run.data.metrics["test_auc"] > 0
        assert run.data.metrics["training_seconds"] > 0


def test_a_shared_stage_is_trained_once(finished):
    by_stage = pd.Series([path.split("/")[-4] for path in stages(finished)]).value_counts()
    assert by_stage.to_dict() == {
        "pretrain": 4,
        "finetune_with_plm": 4,
        "finetune_without_plm": 4,
        "backbone": 2,
    }


def test_the_records_agree_with_the_trained_stages(finished):
    found = records(finished).all()
    assert len(found) == CELLS
    for record in found:
        own = record.stages[-1]
        folder = finished / "data/06_models" / own["stage"] / own["digest"][:16] / "result"
        predictions = pd.read_parquet(folder / "predictions.parquet")
        test = predictions[predictions["split"] == "test"].sort_values("row")
        rows = records(finished).test_rows(record.data_digest).rows
        assert test["row"].tolist() == rows["row"].tolist()
        assert test["label"].tolist() == rows["label"].tolist()
        probabilities = records(finished).probabilities(record.digest)
        assert probabilities == pytest.approx(test["probability"].to_numpy(), abs=1e-7)
        expected = auc(test["label"], test["probability"])
        assert record.metrics["test_auc"] == pytest.approx(expected, abs=1e-9)
        assert len(record.stages) == (1 if record.model == "backbone" else 2)


def test_the_report_has_each_model_once_and_can_be_read_alone(finished):
    found = summary(finished)
    assert found["cells"] == {"all": CELLS, "finished": CELLS, "failed": 0}
    labels = [row["labels"] for row in found["rows"]]
    assert labels[0] == {"prompts": "–", "model": "backbone"}
    assert len(labels) == 5
    assert all(row["seeds"] == [0, 1] for row in found["rows"])
    assert len(found["comparisons"]) == 2 * 4
    folder = finished / "data/08_reporting/studies" / NAME
    page = (folder / "report.html").read_text()
    assert "src=" not in page.split("<body>")[0]
    assert "http://127.0.0.1:5000/#/experiments/" in page
    assert (folder / "report.md").read_text().count("| hidden-state | clickprompt_with_plm |") == 1
    assert r"\toprule" in (folder / "tables.tex").read_text()


def test_the_project_keeps_its_own_results(finished):
    assert not list((finished / "data/06_models").glob("*.json"))


def test_a_second_call_trains_nothing(finished):
    before, runs_before = stages(finished), len(runs(finished))
    done = study(finished, NAME)
    assert done.exit_code == 0
    assert f"{CELLS + 2} cells, {CELLS + 2} finished; 0 trained now" in done.output
    assert stages(finished) == before
    assert len(runs(finished)) == runs_before


def test_dry_run_and_list_say_what_is_left(finished, project):
    done = study(finished, NAME, "--dry-run", "--seeds", "0,2")
    assert done.exit_code == 0
    assert "5 to train, about 0:0" in done.output
    done = study(finished, "list")
    assert f"{NAME}" in done.output
    assert not (project / "mlflow.db").exists()
    done = study(project, NAME, "--dry-run")
    assert "10 to train, for how long is not known" in done.output
    assert not (project / "mlflow.db").exists()


def test_cells_of_another_study_are_found_and_get_runs(finished, tmp_path):
    project = shutil.copytree(finished, tmp_path / "project")
    other = STUDY | {"train": False, "seeds": [1], "axes": {"model": STUDY["axes"]["model"]}}
    parameters = project / "conf/base/parameters_studies.yml"
    text = parameters.read_text() + f"\n    other: {json.dumps(other)}\n"
    parameters.write_text(text)
    before = stages(project)
    done = study(project, "other")
    assert done.exit_code == 0, done.output
    assert stages(project) == before
    found = runs(project, "other")
    assert [run.info.run_name for run in found] == [
        "backbone seed 1",
        *(f"{model} seed 1" for model in CLICKPROMPT),
    ]
    trained = {r.data.tags["cell"]: r.data.metrics["test_auc"] for r in runs(project)}
    assert all(trained[r.data.tags["cell"]] == r.data.metrics["test_auc"] for r in found)
    assert summary(project, "other")["cells"]["finished"] == 3


def test_a_failed_cell_is_noted_and_passed_over(tmp_path):
    axes = {"backbone.learning_rate_ctr": [1e30, 1e-3], "model": ["backbone"]}
    place = [{"backbone.learning_rate_ctr": 1e-3}]
    declared = STUDY | {"axes": axes, "compare_with": place, "seeds": [0]}
    project = make_project(tmp_path, ratings=600, studies={"grids": {NAME: declared}})
    done = study(project, NAME)
    assert done.exit_code == 1
    assert "failed: 1e+30 backbone seed 0: DivergedError" in done.output
    assert "2 cells, 1 finished, 1 failed; 1 trained now" in done.output
    assert sorted(run.info.status for run in runs(project)) == ["FAILED", "FINISHED"]
    assert summary(project)["cells"] == {"all": 2, "finished": 1, "failed": 1}


def test_after_a_kill_the_next_call_finishes_and_repeats_nothing(small):
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "study", NAME], cwd=small, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(stages(small)) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = stages(small)
    assert len(before) < HALF_STAGES
    done = study(small, NAME)
    assert done.exit_code == 0, done.output
    after = stages(small)
    assert {path: after[path] for path in before} == before
    found = summary(small)
    assert found["cells"]["finished"] == HALF
    digests = [cell["digest"] for row in found["rows"] for cell in row["cells"]]
    assert len(digests) == len(set(digests)) == HALF
    statuses = [run.info.status for run in runs(small)]
    assert "RUNNING" not in statuses
    assert statuses.count("FINISHED") >= HALF


@pytest.mark.parametrize(
    ("processes", "number"), [(1, signal.SIGINT), (2, signal.SIGINT), (2, signal.SIGTERM)]
)
def test_ctrl_c_ends_all_processes_and_the_next_call_goes_on(small, processes, number):
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "study", NAME, f"--processes={processes}"],
        cwd=small,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell in the background lets its children ignore Ctrl-C; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while len(stages(small)) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    started = psutil.Process(process.pid).children(recursive=True)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does: to all of them
    else:
        process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output + errors
    assert "Traceback" not in errors, errors[-3000:]
    assert "leaked" not in errors, errors[-3000:]
    psutil.wait_procs(started, timeout=10)
    assert not [child for child in started if child.is_running()]
    before = stages(small)
    assert len(before) < HALF_STAGES
    done = study(small, NAME)
    assert done.exit_code == 0, done.output
    after = stages(small)
    assert {path: after[path] for path in before} == before
    assert summary(small)["cells"]["finished"] == HALF
    assert "RUNNING" not in [run.info.status for run in runs(small)]


def test_a_killed_process_fails_what_runs_and_the_rest_goes_on(small):
    process = subprocess.Popen(
        [sys.executable, "-m", "kedro", "study", NAME, "--processes=2"],
        cwd=small,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(stages(small)) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    workers = [
        child
        for child in psutil.Process(process.pid).children()
        if "spawn_main" in " ".join(child.cmdline())
    ]
    assert len(workers) == 2
    workers[0].kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    failed = len(list((small / "data/07_model_output/studies").glob("failures/*.json")))
    assert 1 <= failed <= 2, output
    assert "its process ended early: out of memory, or killed" in " ".join(output.split())
    assert len(records(small).all()) == HALF - failed  # each cell is finished or failed
    done = study(small, NAME)
    assert done.exit_code == 0, done.output
    assert f"{failed} trained now" in done.output
    assert len(records(small).all()) == HALF


def test_several_processes_reach_the_same_numbers(finished, project):
    command = [sys.executable, "-m", "kedro", "study", NAME, "--processes", "2"]
    code, screens = in_a_terminal(command, folder=project)
    last = "\n".join(screens[-1])
    assert code == 0, last
    expected = {record.digest: record.metrics for record in records(finished).all()}
    found = {record.digest: record.metrics for record in records(project).all()}
    assert found == expected
    assert len([r for r in runs(project) if r.info.status == "FINISHED"]) == CELLS
    assert len(stages(project)) == STAGES

    # While they work each has a bar with its name under one for all; then the log alone is left.
    bars = [
        (screen, number)
        for screen in screens
        for number, line in enumerate(screen)
        if re.match(rf"study {NAME} +\S+ +\d/{CELLS} ", line)
    ]
    assert bars
    below = [screen[number + 1 :] for screen, number in bars]
    names = {run.info.run_name for run in runs(project)}
    works = {line for lines in below for line in lines if line}
    assert {line.split(":")[0].strip() for line in works} <= names
    assert any(": finetune_with_plm " in line and " rows/s " in line for line in works)
    assert all(sum(map(bool, lines)) <= 2 for lines in below)
    assert not any("━" in line for line in screens[-1])
    for number in range(1, CELLS + 1):
        assert last.count(f"cell {number} of {CELLS}, ") == 1


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["mime"], 1, "the study must be one of"),
        ([NAME, "--seeds", "0,a"], 2, "must be different numbers from 0 on"),
        ([NAME, "--only", "modle=backbone"], 1, "did you mean 'model'?"),
        ([NAME, "--params=training.processes=2"], 1, "must be 1 for kedro study, got 2 and 1"),
        ([NAME, "--params=studies.foldr=x"], 1, "did you mean 'folder'?"),
    ],
)
def test_mistakes_end_in_one_message(fresh, options, code, message):
    done = study(fresh, *options)
    assert done.exit_code == code
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (fresh / "mlflow.db").exists()
