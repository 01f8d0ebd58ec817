"""Whole runs in several processes: started by the project, by torchrun, on two machines."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from tests.end_to_end.project import QUICK, make_project, run

pytestmark = pytest.mark.slow

STAGE = "--pipelines=pretrain"
FEW = 800  # ratings


def start(project: Path, command: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(sys.path), "KEDRO_DISABLE_TELEMETRY": "1"}
        | environment,
    )


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
# Without --multi_gpu accelerate starts one process where it finds no GPUs.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes=2")


def launch(project: Path, *options: str, launcher: tuple[str, ...] = TORCHRUN) -> tuple[int, str]:
    process = start(project, [*launcher, "-m", "clickprompt", "run", *options])
    output, errors = process.communicate(timeout=900)
    return process.returncode, output + errors


def report(project: Path) -> dict:
    (path,) = (project / "data" / "06_models" / "pretrain").glob("*/result/report.json")
    return json.loads(path.read_text())


def runs(project: Path) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    return client.search_runs([e.experiment_id for e in client.search_experiments()])


def losses(found: dict) -> list[float]:
    return [
        value
        for entry in found["history"]
        for key, value in entry.items()
        if key not in ("epoch", "seconds")
    ]


@pytest.fixture(scope="module")
def quick():
    """No dropout: each process draws its own."""
    return {"plm": QUICK["plm"] | {"dropout": 0.0}}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, quick):
    project = make_project(tmp_path_factory.mktemp("alone"), ratings=FEW, **quick)
    done = run(project, STAGE)
    assert done.exit_code == 0, done.output
    return losses(report(project))


def test_a_parameter_starts_the_processes(tmp_path, quick, expected):
    project = make_project(tmp_path, ratings=FEW, **quick)
    done = run(project, STAGE, "--params=training.processes=2")
    assert done.exit_code == 0, done.output
    found = report(project)
    assert found["processes"] == 2
    assert losses(found) == pytest.approx(expected, rel=1e-5)
    (tracked,) = runs(project)
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["training.processes"] == "2"
    assert tracked.data.metrics["pretrain/train_loss"] == found["history"][-1]["train_loss"]


@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_a_launcher_starts_the_processes(tmp_path, quick, expected, launcher):
    """One of them converts the data, writes and is tracked."""
    project = make_project(tmp_path, ratings=FEW, **quick)
    code, said = launch(project, STAGE, launcher=launcher)
    assert code == 0, said
    found = report(project)
    assert found["processes"] == 2
    assert losses(found) == pytest.approx(expected, rel=1e-5)
    (tracked,) = runs(project)
    assert tracked.info.status == "FINISHED"
    assert said.count("running: pretrain.pretrain_with_prompts") == 1
    assert said.count("pretrain epoch 1 of 2") == 1

    code, said = launch(project, STAGE, launcher=launcher)
    assert code == 0, said
    assert "up to date: pretrain" in said


def test_a_failure_of_the_first_process_ends_the_others(tmp_path, quick):
    project = make_project(tmp_path, ratings=FEW, **quick)
    (project / "data" / "01_raw" / "synthetic" / "movies.csv").write_text("nonsense\n")
    code, said = launch(project, STAGE)
    assert code != 0
    assert "process 1 of 2 ends because the first one ended" in said
    assert {r.info.status for r in runs(project)} == {"FAILED"}


def test_a_failure_in_training_ends_all(tmp_path, quick):
    project = make_project(tmp_path, ratings=FEW, **quick)
    code, said = launch(project, STAGE, "--params=pretrain.learning_rate_ctr=1e30")
    assert code != 0
    assert "pretrain must be finite" in said


def test_two_machines_share_a_folder(tmp_path, quick, expected):
    project = make_project(tmp_path, ratings=FEW, **quick)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = f"training.machines=2,training.rendezvous=127.0.0.1:{port}"
    machines = [
        start(project, ["clickprompt", STAGE, f"--params={shared},training.machine_rank={number}"])
        for number in range(2)
    ]
    for machine in machines:
        output, errors = machine.communicate(timeout=900)
        assert machine.returncode == 0, output + errors
    found = report(project)
    assert found["processes"] == 2
    assert losses(found) == pytest.approx(expected, rel=1e-5)
    assert [r.info.status for r in runs(project)] == ["FINISHED"]
