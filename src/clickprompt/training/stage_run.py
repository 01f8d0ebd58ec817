"""One stage: found by its digest, or trained, saved and reported.

A stage has a digest over everything that decides its weights. Its folder
``<training.folder>/<stage>/<digest>`` holds checkpoints while it runs and the result when
it is done: a finished stage is returned at once, an interrupted one goes on.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel
from torch import nn

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.files import recover_folder, value_digest
from clickprompt.modality import ModelInput
from clickprompt.parameters import PretrainParameters, StageParameters, TrainingParameters
from clickprompt.plm import PromptedEncoder
from clickprompt.progress import clock
from clickprompt.training.checkpoint import Progress
from clickprompt.training.diagnostics import diagnose, diagnostic_rows
from clickprompt.training.distribution import full_tensors, join_group, wait_for_all
from clickprompt.training.files import check_folder, load_tensors, save_tensors, write_folder
from clickprompt.training.inputs import check_ids_once, check_texts
from clickprompt.training.launch import ProcessesNeededError
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine, choose_machine
from clickprompt.training.objectives import ClickObjective, Objective, Split
from clickprompt.training.optimizer import PARTS
from clickprompt.training.ranks import starts_processes, world_size, writes
from clickprompt.training.result import (
    METHOD_VERSION,
    PREDICTIONS,
    REPORT,
    WEIGHTS,
    TrainedModel,
)

logger = logging.getLogger(__name__)

# What a finished stage predicts; test only where it is asked for (`training.test`).
SPLITS: tuple[Split, Split] = ("valid", "test")


def run_stage(
    name: str,
    build: Callable[[Machine], tuple[nn.Module, Objective]],
    model_input: ModelInput,
    settings: dict[str, Any],
    stage: StageParameters,
    training: TrainingParameters,
    seed: int,
    variant: str | None = None,
    *,
    language_model: str | None = None,
) -> TrainedModel:
    """Find the finished stage by its digest, or train, save and report it.

    Args:
        name: of the stage, hence of its folder.
        build: makes the model, freshly initialised, and its objective.
        model_input: both views of the samples.
        settings: everything else that decides the weights, by name; ``ctr``, ``plm`` and
            ``prompts`` are also read for the report and for checks.
        stage: optimisation.
        training: what all stages share.
        seed: of weights, order and dropout.
        variant: name of the ablation.
        language_model: its name in the report; None: that of ``plm``.

    Raises:
        ProcessesNeededError: it is not finished, and others are to train it.
    """
    machine = choose_machine(training)
    decides = {
        "method_version": METHOD_VERSION,
        "stage": name,
        "seed": seed,
        "data": model_input.digest,
        "precision": machine.precision,
        "device": machine.device.type,
        "parameters": {
            key: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for key, value in settings.items()
        },
    }
    digest = value_digest(decides)
    folder = Path(training.folder) / name / digest[:16]
    finished = _finished(name, digest, folder)
    if finished is not None:
        logger.info("%s is up to date: %s", name, folder)
        finished = _with_diagnostics(finished, build, machine, model_input, training)
        return _with_splits(finished, build, machine, model_input, training)
    if starts_processes(training):
        raise ProcessesNeededError(f"{name}-{digest[:16]}")
    join_group(machine.device)

    model, objective = build(machine)
    if "ctr" in settings:
        check_ids_once(model_input, model)
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, PromptedEncoder):
        own = settings.get("prompts")
        front = own.count if own is not None and own.layout == "input_only" else 0
        check_texts(model_input, encoder, before=front)
    logger.info(
        "%s: %s rows, %s parameters, %s on %s, %d threads",
        name,
        f"{model_input.rows(_last_split(stage)).stop:,}",
        f"{sum(p.numel() for p in model.parameters()):,}",
        machine.precision,
        machine.device,
        torch.get_num_threads(),
    )
    wait_for_all()  # each has read that there is no result before one of them writes it
    predictions = metrics = None
    if stage.epochs:
        progress = fit(
            name=name,
            model=model,
            objective=objective,
            stage=stage,
            training=training,
            machine=machine,
            seed=seed,
            folder=folder,
            row_numbers=model_input.row_numbers,
        )
    else:
        started = time.monotonic()
        metrics = objective.validate(model.to(machine.device))
        progress = Progress(best_epoch=0, seconds=time.monotonic() - started, finished=True)
    scored = None
    if isinstance(objective, ClickObjective):
        splits = SPLITS if training.test else SPLITS[:1]
        started = time.monotonic()
        predictions = _predictions(model_input, objective, model, splits)
        scored = round(len(predictions) / (time.monotonic() - started), 1)
        metrics = _metrics(predictions)
    diagnostics = diagnose(
        name=name,
        model=model,
        objective=objective,
        model_input=model_input,
        machine=machine,
        training=training,
    )
    assert progress.best_epoch is not None
    report = decides | {
        "digest": digest,
        "ctr": settings["ctr"].name if "ctr" in settings else None,
        "plm": language_model or (settings["plm"].source if "plm" in settings else None),
        "variant": variant,
        "versions": dict(_versions()),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "parameter_counts": _parameter_counts(model),
        "trained_parameter_counts": _parameter_counts(model, trained=True),
        "history": progress.history,
        "gradient_norms": progress.gradient_norms,
        "diagnostics": diagnostics,
        "best_epoch": progress.best_epoch,
        "metrics": metrics or _at_epoch(progress.history, progress.best_epoch),
        "seconds": round(progress.seconds, 3),
        "scored_rows_per_second": scored,
    }
    _save_result(folder / "result", model, predictions, report, training)
    if writes(training):
        for left in ("checkpoint", "best"):
            shutil.rmtree(folder / left, ignore_errors=True)
    logger.info("%s took %s: %s", name, clock(progress.seconds), folder)
    return TrainedModel(stage=name, digest=digest, folder=str(folder / "result"), report=report)


def _finished(name: str, digest: str, folder: Path) -> TrainedModel | None:
    result = folder / "result"
    if not recover_folder(result):
        return None
    check_folder(result)
    report = json.loads((result / REPORT).read_text(encoding="utf-8"))
    return TrainedModel(stage=name, digest=digest, folder=str(result), report=report)


def _save_result(
    folder: Path,
    model: nn.Module,
    predictions: pd.DataFrame | None,
    report: dict[str, Any],
    training: TrainingParameters,
) -> None:
    """One process writes; all return when it has."""
    weights = full_tensors(model.state_dict(), keep=writes(training))

    def write(aside: Path) -> None:
        save_tensors(aside / WEIGHTS, weights)
        if predictions is not None:
            predictions.to_parquet(aside / PREDICTIONS, index=False)
        (aside / REPORT).write_text(json.dumps(report, indent=1), encoding="utf-8")

    if writes(training):
        write_folder(folder, write)
    wait_for_all()


def _with_diagnostics(
    trained: TrainedModel,
    build: Callable[[Machine], tuple[nn.Module, Objective]],
    machine: Machine,
    model_input: ModelInput,
    training: TrainingParameters,
) -> TrainedModel:
    """A finished stage with the diagnostics that are asked for, from its stored weights.

    Those of as many rows are taken as they are. Where none are asked for, none are taken away.
    """
    report, folder = trained.report, Path(trained.folder)
    if training.diagnostic_rows is None or "generator" not in report["parameter_counts"]:
        return trained
    rows = len(diagnostic_rows(model_input, training.diagnostic_rows))
    if (report.get("diagnostics") or {}).get("rows") == rows:
        return trained
    model, objective = build(machine)
    model.to(machine.device).load_state_dict(load_tensors(trained.weights_path))
    found = diagnose(
        name=trained.stage,
        model=model,
        objective=objective,
        model_input=model_input,
        machine=machine,
        training=training,
    )
    report = report | {"diagnostics": found}
    predicted = trained.predictions_path
    predictions = pd.read_parquet(predicted) if predicted.exists() else None
    _save_result(folder, model, predictions, report, training)
    return trained.model_copy(update={"report": report})


def _with_splits(
    trained: TrainedModel,
    build: Callable[[Machine], tuple[nn.Module, Objective]],
    machine: Machine,
    model_input: ModelInput,
    training: TrainingParameters,
) -> TrainedModel:
    """A finished stage with test if it is asked for, and without a word of test if it is not.

    Test is predicted from the stored weights where the stage was finished without it: the
    predictions are those that training would have made.
    """
    report, folder = trained.report, Path(trained.folder)
    if "valid_auc" not in report["metrics"]:  # pretraining
        return trained
    if training.test and "test_auc" not in report["metrics"]:
        model, objective = build(machine)
        assert isinstance(objective, ClickObjective)
        model.to(machine.device).load_state_dict(load_tensors(trained.weights_path))
        test = _predictions(model_input, objective, model, SPLITS[1:])
        valid = pd.read_parquet(trained.predictions_path)
        report = report | {"metrics": report["metrics"] | _metrics(test)}
        predictions = pd.concat([valid, test], ignore_index=True)
        _save_result(folder, model, predictions, report, training)
    elif not training.test:
        metrics = {k: v for k, v in report["metrics"].items() if not k.startswith("test_")}
        report = report | {"metrics": metrics}
    return trained.model_copy(update={"report": report})


def click_settings(
    model_input: ModelInput,
    machine: Machine,
    stage: StageParameters,
    training: TrainingParameters,
    seed: int,
) -> dict[str, Any]:
    """What every `ClickObjective` of a stage is given."""
    return {
        "model_input": model_input,
        "machine": machine,
        "batch_size": stage.batch_size,
        "evaluation_batch_size": training.evaluation_batch_size,
        "seed": seed,
    }


def click_objective(
    model_input: ModelInput,
    machine: Machine,
    stage: StageParameters,
    training: TrainingParameters,
    seed: int,
    *,
    text: bool,
) -> ClickObjective:
    """Clicks from the ids, or from ids and text."""
    settings = click_settings(model_input, machine, stage, training, seed)
    return ClickObjective(**settings, text=text)


def _last_split(stage: StageParameters) -> Split:
    """Rows come in the order of the splits; a stage trains on those up to the end of this one."""
    seen = isinstance(stage, PretrainParameters) and stage.rows == "train_and_valid"
    return "valid" if seen else "train"


def _predictions(
    model_input: ModelInput,
    objective: ClickObjective,
    model: nn.Module,
    splits: tuple[Split, ...],
) -> pd.DataFrame:
    """Probabilities of these splits with what later metrics need."""
    frames = []
    for split in splits:
        rows = model_input.rows(split)
        frames.append(
            pd.DataFrame(
                {
                    "row": model_input.row_numbers[rows],
                    "split": split,
                    "label": model_input.labels[rows],
                    "probability": objective.predict(model, split),
                    "user_train_rows": model_input.user_train_rows[rows],
                    "item_train_rows": model_input.item_train_rows[rows],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _metrics(predictions: pd.DataFrame) -> dict[str, float]:
    metrics = {}
    for split, part in predictions.groupby("split", sort=False):
        labels, probability = part["label"].to_numpy(), part["probability"].to_numpy()
        metrics[f"{split}_auc"] = auc(labels, probability)
        metrics[f"{split}_log_loss"] = log_loss(labels, probability)
    return metrics


def _at_epoch(history: list[dict[str, Any]], epoch: int) -> dict[str, float]:
    entry = history[epoch - 1]
    return {key: value for key, value in entry.items() if key not in ("epoch", "seconds")}


def _parameter_counts(model: nn.Module, *, trained: bool = False) -> dict[str, int]:
    """Numbers in each part, of all parameters or of those that a finished stage has trained."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad or not trained:
            counts[name.split(".")[0]] += parameter.numel()
    return {part: count for part, count in counts.items() if count}


@cache  # a process has one; looking them up takes as long as a short training
def _versions() -> Mapping[str, str]:
    packages = (
        "clickprompt",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "numpy",
        "pandas",
        "kedro",
    )
    return {package: importlib.metadata.version(package) for package in packages}
