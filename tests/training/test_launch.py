"""Processes that a stage starts itself: what they learn, how they end, what is said of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from safetensors.torch import load_file

from clickprompt.parameters import ClickStageParameters, TrainingParameters
from clickprompt.training import launch, stages
from clickprompt.training.divergence import DivergedError
from clickprompt.training.launch import ProcessEndedError, ProcessFailedError, check_processes
from clickprompt.training.listener import listening
from tests.training.launched import finetune, pretrain
from tests.training.tiny_run import CTR, make_inputs, training


@pytest.fixture(scope="module")
def alone(inputs_folder, tmp_path_factory):
    """Pretraining and finetuning in one process."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("alone")
    first = pretrain(inputs_folder, folder)
    return first, finetune(inputs_folder, folder, first)


def losses(trained) -> list[float]:
    """All numbers of the history, epoch by epoch."""
    return [
        value
        for entry in trained.report["history"]
        for key, value in entry.items()
        if key not in ("epoch", "seconds")
    ]


def numbers_in(report) -> list[float]:
    """All numbers of nested lists and dicts, in their order."""
    if isinstance(report, dict):
        report = list(report.values())
    if isinstance(report, list):
        return [number for entry in report for number in numbers_in(entry)]
    return [] if report is None else [float(report)]


def weights(trained) -> dict[str, torch.Tensor]:
    return load_file(trained.weights_path)


def assert_same_model(found, expected, **tolerance) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )


def workers(process: psutil.Process) -> list[psutil.Process]:
    """Started processes that train."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def number_of(process: psutil.Process) -> str | None:
    """The launcher numbers its processes in the order in which it starts them."""
    started = sorted(
        workers(psutil.Process(process.ppid())), key=lambda p: (p.create_time(), p.pid)
    )
    return str(started.index(process)) if process in started else None


def steps_done(models: Path, stage: str) -> tuple[int, int]:
    for path in models.glob(f"{stage}/*/checkpoint/progress.json"):
        try:
            progress = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        return progress["epoch"], progress["step"]
    return 0, 0


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_two_processes_learn_what_one_learns(inputs_folder, tmp_path, alone, sharding):
    # So short a time between checkpoints that the clocks of the two differ in what is due.
    changes = {"processes": 2, "sharding": sharding, "checkpoint_minutes": 1e-4}
    first = pretrain(inputs_folder, tmp_path, **changes)
    second = finetune(inputs_folder, tmp_path, first, **changes)
    for found, expected in zip((first, second), alone, strict=True):
        assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
        assert_same_model(weights(found), weights(expected), rtol=1e-3, atol=1e-4)
        assert found.digest == expected.digest
        assert found.report["processes"] == 2
        assert expected.report["processes"] == 1
        assert found.report["parameter_counts"] == expected.report["parameter_counts"]
        for looked_at in ("gradient_norms", "diagnostics"):
            numbers = numbers_in(expected.report[looked_at])
            assert len(numbers) > 4
            assert numbers_in(found.report[looked_at]) == pytest.approx(numbers, rel=1e-3, abs=1e-5)
        assert sorted(p.name for p in Path(found.folder).iterdir()) == sorted(
            p.name for p in Path(expected.folder).iterdir()
        )
        assert [p.name for p in Path(found.folder).parent.iterdir()] == ["result"]


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
@pytest.mark.parametrize(
    ("prompts", "plm", "causal"),
    [
        ({"layout": "hidden_state"}, {"gradient_checkpointing": True}, False),
        ({"layout": "input_only"}, {"lora": {"rank": 2}}, False),
        ({"layout": "none"}, {}, False),
        ({}, {"freeze_layers": 1, "gradient_checkpointing": True}, True),
    ],
)
def test_two_processes_learn_every_layout_and_adaptation(tmp_path, sharding, prompts, plm, causal):
    make_inputs(tmp_path, ratings=300, causal=causal)
    changes = {"prompts": prompts, "plm": plm}
    expected = pretrain(tmp_path, tmp_path / "one", **deepcopy(changes))
    found = pretrain(tmp_path, tmp_path / "two", processes=2, sharding=sharding, **changes)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-5)
    assert_same_model(weights(found), weights(expected), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_killed_process_ends_in_a_restart_from_the_checkpoint(
    inputs_folder, tmp_path, sharding, caplog
):
    changes = {"processes": 2, "checkpoint_minutes": 0, "sharding": sharding}
    expected = pretrain(inputs_folder, tmp_path / "undisturbed", **changes)
    killed = []

    def kill() -> None:
        wait_for(lambda: steps_done(tmp_path / "killed", "pretrain") >= (1, 2))
        second = next(p for p in workers(psutil.Process()) if number_of(p) == "1")
        killed.append(second.pid)
        second.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with caplog.at_level("INFO"):
        found = pretrain(inputs_folder, tmp_path / "killed", **changes)
    killer.join()
    assert killed
    said = [record.getMessage() for record in caplog.records]
    assert "a process ended early: all were started again (1 of 1)" in said
    assert any("pretrain continues at epoch 2, step" in line for line in said)
    assert_same_model(weights(found), weights(expected), rtol=0, atol=0)
    assert losses(found) == losses(expected)


@pytest.mark.slow
def test_without_restarts_left_the_process_and_the_signal_are_named(inputs_folder, tmp_path):
    def kill() -> None:
        wait_for(lambda: steps_done(tmp_path, "pretrain") >= (0, 2))
        next(p for p in workers(psutil.Process()) if number_of(p) == "1").kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(
        ProcessEndedError,
        match=r"process 1 of 2 was ended by SIGKILL .* after training.restarts 0; the same command",
    ):
        pretrain(inputs_folder, tmp_path, processes=2, checkpoint_minutes=0, restarts=0)
    killer.join()
    assert not workers(psutil.Process())
    assert steps_done(tmp_path, "pretrain") >= (0, 2)


@pytest.mark.slow
def test_an_error_of_a_process_is_the_users_as_if_there_were_one(model_input, tmp_path):
    stage = ClickStageParameters(epochs=3, batch_size=32, learning_rate_ctr=1e30)
    with pytest.raises(
        DivergedError, match=r"backbone must be finite.*lower the learning rates"
    ) as caught:
        stages.train_backbone(
            model_input=model_input,
            ctr=CTR,
            stage=stage,
            training=training(tmp_path, processes=2),
            seed=0,
        )
    assert "of 2:\nTraceback" in caught.value.__notes__[0]
    handlers = (signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM))
    assert all("torch" not in getattr(handler, "__module__", "") for handler in handlers)


def start(inputs: Path, models: Path, **changes) -> subprocess.Popen[str]:
    asked = json.dumps({"folder": str(models)} | changes)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.launched", str(inputs), asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=Path(__file__).resolve().parents[2],
    )


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_one_that_started_it(inputs_folder, tmp_path, how):
    parent = start(inputs_folder, tmp_path, processes=2, checkpoint_minutes=0)
    wait_for(lambda: steps_done(tmp_path, "pretrain") >= (0, 2))
    children = workers(psutil.Process(parent.pid))
    assert len(children) == 2
    parent.send_signal(how)
    _, errors = parent.communicate(timeout=60)
    assert parent.returncode == -how if how != signal.SIGINT else "KeyboardInterrupt" in errors
    _, left = psutil.wait_procs(children, timeout=15)
    assert not left


@pytest.mark.slow
def test_two_machines_learn_what_one_process_learns(inputs_folder, tmp_path, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [
        start(
            inputs_folder, tmp_path, machines=2, machine_rank=number, rendezvous=f"127.0.0.1:{port}"
        )
        for number in range(2)
    ]
    folders = set()
    for machine in machines:
        output, errors = machine.communicate(timeout=600)
        assert machine.returncode == 0, errors
        folders.add(output.strip())
    (folder,) = folders
    expected = alone[0]
    report = json.loads(Path(folder, "report.json").read_text())
    assert report["processes"] == 2
    assert losses(SimpleNamespace(report=report)) == pytest.approx(losses(expected), rel=1e-5)


# --- before any work -------------------------------------------------------------------


@pytest.fixture
def gpus(monkeypatch):
    """A machine with one GPU."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(
        launch,
        "choose_machine",
        lambda asked: SimpleNamespace(
            device=torch.device("cuda" if asked.device == "auto" else asked.device)
        ),
    )


@pytest.mark.usefixtures("gpus")
def test_more_processes_than_gpus_are_refused():
    with pytest.raises(
        ValueError, match=r"training\.processes must be at most the number of GPUs, 1, got 2"
    ):
        check_processes(TrainingParameters(processes=2))
    check_processes(TrainingParameters(processes=2, device="cpu"))


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize("device", ["cuda:0", "mps"])
def test_one_device_for_several_processes_is_refused(device):
    with pytest.raises(
        ValueError, match=rf"training\.device must be auto, cpu or cuda .*, got '{device}'"
    ):
        check_processes(TrainingParameters(processes=2, device=device))
    check_processes(TrainingParameters(device=device))


def test_a_search_has_one_process(model_input, tmp_path):
    with (
        listening(lambda stage, history: None),
        pytest.raises(ValueError, match=r"must be 1 in a search for hyperparameters, got 2 and 1"),
    ):
        stages.train_backbone(
            model_input=model_input,
            ctr=CTR,
            stage=ClickStageParameters(epochs=1, batch_size=32),
            training=training(tmp_path, processes=2),
            seed=0,
        )


# --- errors of processes ---------------------------------------------------------------


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_the_first_error_is_the_one_that_is_told(tmp_path):
    launch._write_error(tmp_path, raised(OSError(28, "no space for the checkpoint")))
    launch._write_error(tmp_path, raised(OSError(5, "later")))
    error = launch._own_error(tmp_path)
    assert isinstance(error, OSError)
    assert error.errno == 28
    assert "no space for the checkpoint" in str(error)


def test_a_fault_is_told_with_its_traceback(tmp_path):
    """Not a user's mistake, though a ValueError: this package has not raised it."""
    assert launch._own_error(tmp_path) is None
    launch._write_error(tmp_path, raised(ValueError("of another package")))
    error = launch._own_error(tmp_path)
    assert type(error) is ProcessFailedError
    assert "process 0 of 1 failed:\nTraceback" in str(error)
    assert "ValueError: of another package" in str(error)
