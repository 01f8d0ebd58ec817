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
import torch
from safetensors.torch import load_file

from clickprompt.evaluation.metrics import auc
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    FinetuneWithPLMParameters,
    PretrainParameters,
)
from clickprompt.training import loop, stage_run, stages
from clickprompt.training.divergence import DivergedError
from clickprompt.training.files import DamagedFolderError
from clickprompt.training.listener import StageStoppedError, listening
from tests.training.tiny_run import CTR, PROMPTS, run_stages, training

QUICK = {"epochs": 2, "batch_size": 32}
STAGES = ("backbone", "pretrain", "finetune_without_plm", "finetune_with_plm")


@pytest.fixture(scope="module")
def uninterrupted(inputs_folder, tmp_path_factory) -> list[Path]:
    torch.set_num_threads(1)
    return [Path(f) for f in run_stages(inputs_folder, tmp_path_factory.mktemp("models"))]


def start(inputs_folder: Path, models: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.tiny_run", str(inputs_folder), str(models)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root,
    )


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def steps_done(models: Path, stage: str) -> tuple[int, int]:
    for path in models.glob(f"{stage}/*/checkpoint/progress.json"):
        try:
            progress = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        return progress["epoch"], progress["step"]
    return 0, 0


def test_a_killed_run_continues_to_bit_identical_weights(inputs_folder, tmp_path, uninterrupted):
    """kill -9 in the second epoch of pretraining, then of finetuning; started again each time."""
    for stage in ("pretrain", "finetune_with_plm"):
        process = start(inputs_folder, tmp_path)
        deadline = time.monotonic() + 120
        while steps_done(tmp_path, stage) < (1, 2):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.communicate()
        assert steps_done(tmp_path, stage) >= (1, 2), "the kill came too late to prove anything"
        assert not list(tmp_path.glob(f"{stage}/*/result"))
    process = start(inputs_folder, tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    for stage, folder, expected in zip(STAGES, json.loads(output), uninterrupted, strict=True):
        ours, theirs = (
            load_file(f"{folder}/weights.safetensors"),
            load_file(expected / "weights.safetensors"),
        )
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), f"{stage}: {name}"
        found, wanted = (report_of(Path(f)) for f in (folder, expected))
        for entry, other in zip(found["history"], wanted["history"], strict=True):
            assert {**entry, "seconds": 0} == {**other, "seconds": 0}
        assert found["gradient_norms"] == wanted["gradient_norms"]
        assert found["diagnostics"] == wanted["diagnostics"]
    leftovers = [p for p in tmp_path.rglob("*") if p.name in ("checkpoint", "best")]
    assert not leftovers


def test_a_finished_stage_is_found_by_its_digest(model_input, tmp_path, monkeypatch):
    def train(**changes):
        arguments = {"ctr": CTR, "stage": ClickStageParameters(**QUICK), "seed": 0} | changes
        return stages.train_backbone(
            model_input=model_input, training=training(tmp_path), **arguments
        )

    first = train()
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained again"))
    assert train() == first
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train(seed=1)
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train(stage=ClickStageParameters(**QUICK, weight_decay=0.1))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        train(ctr=CTRParameters(name="dnn", embedding_size=4, hidden_sizes=(8,)))


def test_the_result_holds_the_best_epoch_and_its_predictions(model_input, tmp_path):
    stage = ClickStageParameters(epochs=30, batch_size=32, learning_rate_ctr=0.05, patience=2)
    trained = stages.train_backbone(
        model_input=model_input, ctr=CTR, stage=stage, training=training(tmp_path), seed=0
    )
    history = trained.report["history"]
    scores = [entry["valid_auc"] for entry in history]
    best = int(np.argmax(scores))
    assert len(history) < 30, "it must have stopped early to be a test"
    assert len(history) == best + 1 + 2
    assert trained.report["best_epoch"] == best + 1
    assert trained.report["metrics"]["valid_auc"] == scores[best]
    table = pd.read_parquet(trained.predictions_path)
    valid, test = (table[table["split"] == split] for split in ("valid", "test"))
    assert auc(valid["label"].to_numpy(), valid["probability"].to_numpy()) == scores[best]
    assert trained.report["metrics"]["test_auc"] == auc(
        test["label"].to_numpy(), test["probability"].to_numpy()
    )
    part = model_input.rows("test")
    np.testing.assert_array_equal(test["label"], model_input.labels[part])
    np.testing.assert_array_equal(test["row"], model_input.row_numbers[part])
    assert table["probability"].between(0, 1).all()


def test_without_the_plm_it_is_the_backbone_in_size(uninterrupted):
    backbone, _, alone, together = (
        report_of(folder)["parameter_counts"] for folder in uninterrupted
    )
    assert backbone == alone
    assert together["ctr"] == backbone["ctr"]
    assert set(together) == {"ctr", "generator", "encoder", "click_head", "alpha"}
    names = [set(load_file(folder / "weights.safetensors")) for folder in uninterrupted]
    assert names[0] == names[2]


def test_finetuning_starts_from_the_pretrained_weights_with_a_fresh_head(
    model_input, plm, uninterrupted, tmp_path
):
    pretrained = stages.TrainedModel(
        stage="pretrain",
        digest="d",
        folder=str(uninterrupted[1]),
        report=report_of(uninterrupted[1]),
    )
    start = load_file(uninterrupted[1] / "weights.safetensors")
    still = {"epochs": 1, "batch_size": 32, "learning_rate_head": 1e-9, "learning_rate_ctr": 1e-9}
    alone = stages.finetune_without_plm(
        model_input=model_input,
        pretrained=pretrained,
        ctr=CTR,
        stage=ClickStageParameters(**still),
        training=training(tmp_path),
        seed=3,
    )
    found = load_file(alone.weights_path)
    for name, tensor in found.items():
        close = torch.allclose(tensor, start[name], atol=1e-6)
        assert close != name.startswith("ctr.head.weight"), name
    together = stages.finetune_with_plm(
        model_input=model_input,
        pretrained=pretrained,
        ctr=CTR,
        plm=plm,
        prompts=PROMPTS,
        stage=FinetuneWithPLMParameters(
            **still, learning_rate_plm=1e-9, learning_rate_prompts=1e-9, fusion="sum"
        ),
        training=training(tmp_path),
        seed=3,
    )
    found = load_file(together.weights_path)
    assert "alpha" not in found
    for name, tensor in found.items():
        if name in start:
            close = torch.allclose(tensor, start[name], atol=1e-6)
            assert close != name.startswith("ctr.head.weight"), name


def test_pretraining_never_reads_labels(model_input, plm, tmp_path):
    def weights(labels, name):
        other = model_input.__class__(**{**vars(model_input), "labels": labels, "digest": name})
        trained = stages.pretrain(
            model_input=other,
            ctr=CTR,
            plm=plm,
            prompts=PROMPTS,
            stage=PretrainParameters(epochs=1, batch_size=64),
            training=training(tmp_path),
            seed=0,
        )
        return load_file(trained.weights_path)

    first = weights(model_input.labels, "a")
    second = weights(1 - model_input.labels, "b")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_damaged_checkpoint_is_named_and_kept(model_input, tmp_path, monkeypatch):
    def train():
        return stages.train_backbone(
            model_input=model_input,
            ctr=CTR,
            stage=ClickStageParameters(**QUICK),
            training=training(tmp_path),
            seed=0,
        )

    monkeypatch.setattr(
        stage_run, "_predictions", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        train()
    (file,) = tmp_path.glob("backbone/*/checkpoint/model.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        DamagedFolderError, match=r"checkpoint/model\.safetensors must have .* 100;"
    ):
        train()
    assert file.exists()


def test_damaged_results_are_not_used(model_input, tmp_path):
    stage = ClickStageParameters(**QUICK)
    arguments = {"model_input": model_input, "ctr": CTR, "stage": stage, "seed": 0}
    trained = stages.train_backbone(**arguments, training=training(tmp_path))
    trained.weights_path.write_bytes(b"half")
    with pytest.raises(DamagedFolderError, match=r"weights\.safetensors must have"):
        stages.train_backbone(**arguments, training=training(tmp_path))


def test_a_diverging_loss_stops_with_advice(model_input, tmp_path):
    stage = ClickStageParameters(epochs=3, batch_size=32, learning_rate_ctr=1e30)
    with pytest.raises(DivergedError, match=r"backbone must be finite.*lower the learning rates"):
        stages.train_backbone(
            model_input=model_input, ctr=CTR, stage=stage, training=training(tmp_path), seed=0
        )


def test_weights_of_another_size_are_an_error(model_input, uninterrupted, tmp_path):
    pretrained = stages.TrainedModel(
        stage="pretrain",
        digest="d",
        folder=str(uninterrupted[1]),
        report=report_of(uninterrupted[1]),
    )
    with pytest.raises(ValueError, match=r"weights\.safetensors must fit the configured ctr"):
        stages.finetune_without_plm(
            model_input=model_input,
            pretrained=pretrained,
            ctr=CTR.model_copy(update={"embedding_size": 5}),
            stage=ClickStageParameters(**QUICK),
            training=training(tmp_path),
            seed=0,
        )


@pytest.fixture
def train(model_input, plm, uninterrupted, tmp_path):
    """One of the click stages, by name; keyword arguments are training parameters."""
    pretrained = stages.TrainedModel(
        stage="pretrain",
        digest="d",
        folder=str(uninterrupted[1]),
        report=report_of(uninterrupted[1]),
    )

    def run(name, folder=tmp_path, **changes):
        shared = {
            "model_input": model_input,
            "ctr": CTR,
            "training": training(folder, **changes),
            "seed": 5,
        }
        if name == "backbone":
            return stages.train_backbone(**shared, stage=ClickStageParameters(**QUICK))
        shared["pretrained"] = pretrained
        if name == "finetune_without_plm":
            return stages.finetune_without_plm(**shared, stage=ClickStageParameters(**QUICK))
        stage = FinetuneWithPLMParameters(**QUICK, learning_rate_plm=0.0)
        return stages.finetune_with_plm(**shared, plm=plm, prompts=PROMPTS, stage=stage)

    return run


@pytest.mark.parametrize("name", ["backbone", "finetune_without_plm", "finetune_with_plm"])
def test_test_is_predicted_later_as_if_it_had_been_at_once(train, tmp_path, monkeypatch, name):
    straight = train(name, tmp_path / "straight")
    without = train(name, test=False)
    assert set(pd.read_parquet(without.predictions_path)["split"]) == {"valid"}
    assert without.report["metrics"].keys() == {"valid_auc", "valid_log_loss"}
    assert without.digest == straight.digest
    before = without.weights_path.read_bytes()

    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained again"))
    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "_predictions", lambda *_: pytest.fail("predicted"))
        assert train(name, test=False) == without
    later = train(name)
    assert later.weights_path.read_bytes() == before
    pd.testing.assert_frame_equal(
        pd.read_parquet(later.predictions_path),
        pd.read_parquet(straight.predictions_path),
        check_exact=True,
    )
    assert later.report["metrics"] == straight.report["metrics"]
    assert report_of(Path(later.folder)) == later.report
    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "_predictions", lambda *_: pytest.fail("predicted again"))
        assert train(name) == later


def test_a_stage_that_has_test_says_nothing_of_it_where_it_is_not_asked_for(train):
    straight = train("backbone")
    silent = train("backbone", test=False)
    assert "test" not in json.dumps(silent.report["metrics"])
    assert silent.report["history"] == straight.report["history"]
    assert train("backbone") == straight


def test_pretraining_has_no_test_to_predict(model_input, plm, tmp_path):
    arguments = {"model_input": model_input, "ctr": CTR, "plm": plm, "prompts": PROMPTS, "seed": 0}
    stage = PretrainParameters(epochs=1, batch_size=64)
    trained = stages.pretrain(**arguments, stage=stage, training=training(tmp_path, test=False))
    assert stages.pretrain(**arguments, stage=stage, training=training(tmp_path)) == trained


def test_the_listener_hears_of_each_epoch_that_is_followed_by_another(train):
    heard = []
    with listening(lambda stage, history: heard.append((stage, [e["epoch"] for e in history]))):
        trained = train("backbone")
    assert heard == [("backbone", [1])]
    assert len(trained.report["history"]) == 2
    assert train("backbone") == trained


def test_a_stage_that_the_listener_ends_leaves_nothing(train, tmp_path):
    def stop(stage, history):
        raise StageStoppedError(stage, history)

    with (
        listening(stop),
        pytest.raises(StageStoppedError, match=r"backbone was stopped after epoch 1"),
    ):
        train("backbone")
    assert not list(tmp_path.glob("backbone/*"))


def test_a_stage_that_goes_on_is_told_before_its_next_step(train, tmp_path, monkeypatch):
    def interrupt(stage, history):
        raise KeyboardInterrupt

    with listening(interrupt), pytest.raises(KeyboardInterrupt):
        train("backbone")
    assert list(tmp_path.glob("backbone/*/checkpoint"))
    heard = []
    monkeypatch.setattr(loop, "_step", lambda *_, **__: pytest.fail("a step was done"))
    told = listening(lambda _, history: heard.append(len(history)))
    with told, pytest.raises(pytest.fail.Exception):
        train("backbone")
    assert heard == [1]
