"""The four stages: backbone, PA-MLM pretraining, finetuning without and with the PLM.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import BaseModel
from torch import nn

from clickprompt.ctr import CTRModel, build_ctr
from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.files import file_digest, recover_folder, value_digest
from clickprompt.modality import ModelInput
from clickprompt.models import ClickPromptForClicks, ClickPromptForPretraining, CTRForClicks
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PretrainParameters,
    PromptParameters,
    StageParameters,
    TrainingParameters,
    check_adapters_learn,
)
from clickprompt.plm import PromptedEncoder, load_encoder, load_mlm_head, resolve_source
from clickprompt.progress import clock
from clickprompt.prompts import AnyGenerator, build_generator
from clickprompt.training.checkpoint import Progress
from clickprompt.training.diagnostics import diagnose, diagnostic_rows
from clickprompt.training.distribution import full_tensors, join_group, wait_for_all
from clickprompt.training.files import (
    check_folder,
    load_tensors,
    save_tensors,
    write_folder,
)
from clickprompt.training.inputs import check_ids_once, check_texts
from clickprompt.training.launch import ProcessesNeededError, in_processes
from clickprompt.training.loop import fit
from clickprompt.training.machine import Machine, choose_machine
from clickprompt.training.objectives import (
    ClickObjective,
    MaskedTokenObjective,
    NextTokenObjective,
    Objective,
    Split,
)
from clickprompt.training.optimizer import PARTS
from clickprompt.training.ranks import starts_processes, world_size, writes
from clickprompt.training.result import PREDICTIONS, REPORT, WEIGHTS, TrainedModel

logger = logging.getLogger(__name__)

# Raised when the same parameters give other weights than before.
METHOD_VERSION = 1

# The method with all of its parts; other variants are named in the reports as well.
FULL = "full"

# What a finished stage predicts; test only where it is asked for (`training.test`).
SPLITS: tuple[Split, Split] = ("valid", "test")


@in_processes
def train_backbone(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    stage: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """Train the CTR model alone from scratch: the row that ClickPrompt is compared with."""

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = CTRForClicks(ctr=_fresh_ctr(ctr, model_input, seed))
        return model, _click_objective(model_input, machine, stage, training, seed, text=False)

    settings = {"ctr": ctr, "stage": stage}
    return _run("backbone", build, model_input, settings, stage, training, seed)


@in_processes
def pretrain(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: PretrainParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """PA-MLM: CTR model, prompt generator and PLM learn together to restore masked tokens.

    Section 5 of docs/method.md. Nothing reads the labels. A causal PLM learns PA-CLM instead:
    to predict the next token.

    Without prompts (``layout: none``) it is plain masked language modelling of the PLM; without
    epochs the result is what it would have started from. In both cases the CTR model is untrained.

    NOTE[DIFF]: the reference pretrains on the train and valid rows; here the train rows only, so
    that valid measures PA-MLM and chooses in finetuning without having been seen.
    ``rows: train_and_valid`` is the reference's way.
    """
    check_adapters_learn(plm, stage)

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        if stage.rows == "train_and_valid" and stage.epochs:
            logger.warning("pretrain: its rows are also those of valid, which measures seen rows")
        ctr_model = _fresh_ctr(ctr, model_input, seed)
        encoder = _encoder(plm, stage, seed)
        if encoder.freeze_layers == encoder.layers:
            raise ValueError(
                f"plm.freeze_layers must be below the {encoder.layers} layers of the PLM in "
                f"pretraining, where the prompts of the others are learnt, got {plm.freeze_layers}"
            )
        generator = _fresh_generator(ctr_model, encoder, prompts, seed)
        # PA-MLM reads the representation only; what only the logit reads has nothing to learn here,
        # and without prompts nothing of the CTR model has.
        idle = ctr_model.parameters() if generator is None else ctr_model.logit_parameters()
        for parameter in idle:
            parameter.requires_grad_(False)
        model = ClickPromptForPretraining(
            ctr=ctr_model,
            generator=generator,
            encoder=encoder,
            mlm_head=load_mlm_head(
                plm, encoder, tied=stage.masking.tied, generator=_generator(seed, "mlm_head")
            ),
        )
        objective_class = NextTokenObjective if encoder.family.causal else MaskedTokenObjective
        objective = objective_class(
            model_input=model_input,
            machine=machine,
            masking=stage.masking,
            batch_size=stage.batch_size,
            evaluation_batch_size=training.evaluation_batch_size,
            seed=seed,
            validation_rows=stage.validation_rows,
            splits=stage.rows,
            measured=("off",) if generator is None else ("on", "off", "shuffled"),
        )
        return model, objective

    variant = _variant(prompts, stage)
    settings = {"ctr": ctr, "plm": plm, "plm_weights": _plm_digest(plm), "prompts": prompts}
    return _run(
        "pretrain", build, model_input, settings | {"stage": stage}, stage, training, seed, variant
    )


@in_processes
def finetune_without_plm(
    *,
    model_input: ModelInput,
    pretrained: TrainedModel,
    ctr: CTRParameters,
    stage: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """Finetune the pretrained CTR model alone, with a fresh head (section 7 of docs/method.md)."""
    variant = pretrained.report.get("variant", FULL)

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        if variant != FULL:
            logger.warning(
                "finetune_without_plm starts from an untrained CTR model: the variant is %r",
                variant,
            )
        model = CTRForClicks(ctr=_fresh_ctr(ctr, model_input, seed))
        _load_parts(model, pretrained, ("ctr",))
        model.ctr.reset_head(_generator(seed, "ctr_head"), initialisation=ctr.initialisation)
        return model, _click_objective(model_input, machine, stage, training, seed, text=False)

    settings = {"ctr": ctr, "stage": stage, "pretrained": pretrained.digest}
    return _run(
        "finetune_without_plm", build, model_input, settings, stage, training, seed, variant
    )


@in_processes
def finetune_with_plm(
    *,
    model_input: ModelInput,
    pretrained: TrainedModel,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: FinetuneWithPLMParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """Finetune CTR model, prompt generator and PLM together (section 6 of docs/method.md).

    Raises:
        ValueError: the adapters (``plm.lora``) are other ones than those of the pretraining.
    """
    _check_same_adapters(pretrained, plm)

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        ctr_model = _fresh_ctr(ctr, model_input, seed)
        encoder = _encoder(plm, stage, seed)
        generator = _fresh_generator(ctr_model, encoder, prompts, seed)
        model = ClickPromptForClicks(
            ctr=ctr_model,
            generator=generator,
            encoder=encoder,
            pooling=stage.pooling,
            fusion=stage.fusion,
            alpha=stage.alpha,
            pool_prompts=stage.pool_prompts,
        )
        written = () if generator is None else ("generator",)
        _load_parts(model, pretrained, ("ctr", *written, "encoder"))
        ctr_model.reset_head(_generator(seed, "ctr_head"), initialisation=ctr.initialisation)
        model.initialise_head(_generator(seed, "click_head"))
        return model, _click_objective(model_input, machine, stage, training, seed, text=True)

    settings: dict[str, Any] = {"ctr": ctr, "plm": plm, "prompts": prompts, "stage": stage}
    settings |= {"pretrained": pretrained.digest}
    variant = pretrained.report.get("variant", FULL)
    return _run("finetune_with_plm", build, model_input, settings, stage, training, seed, variant)


def _run(
    name: str,
    build: Callable[[Machine], tuple[nn.Module, Objective]],
    model_input: ModelInput,
    settings: dict[str, Any],
    stage: StageParameters,
    training: TrainingParameters,
    seed: int,
    variant: str | None = None,
) -> TrainedModel:
    """Find the finished stage by its digest, or train, save and report it."""
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
    check_ids_once(model_input, model)
    if "plm" in settings:
        encoder = model.get_submodule("encoder")
        assert isinstance(encoder, PromptedEncoder)
        own = settings["prompts"]
        front = own.count if own.layout == "input_only" else 0
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
    if isinstance(objective, ClickObjective):
        splits = SPLITS if training.test else SPLITS[:1]
        predictions = _predictions(model_input, objective, model, splits)
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
        "ctr": settings["ctr"].name,
        "plm": settings["plm"].source if "plm" in settings else None,
        "variant": variant,
        "versions": _versions(),
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


def _click_objective(
    model_input: ModelInput,
    machine: Machine,
    stage: StageParameters,
    training: TrainingParameters,
    seed: int,
    *,
    text: bool,
) -> ClickObjective:
    return ClickObjective(
        model_input=model_input,
        machine=machine,
        batch_size=stage.batch_size,
        evaluation_batch_size=training.evaluation_batch_size,
        seed=seed,
        text=text,
    )


def _generator(seed: int, part: str) -> torch.Generator:
    """A part's own source of initial weights: adding a part does not change the others."""
    number = int(value_digest([seed, part])[:15], 16)
    return torch.Generator().manual_seed(number)


def _fresh_ctr(ctr: CTRParameters, model_input: ModelInput, seed: int) -> CTRModel:
    return build_ctr(
        ctr, model_input.field_sizes, model_input.bags, generator=_generator(seed, "ctr")
    )


def _fresh_generator(
    ctr_model: CTRModel, encoder: PromptedEncoder, prompts: PromptParameters, seed: int
) -> AnyGenerator | None:
    return build_generator(
        prompts,
        representation_size=ctr_model.representation_size,
        layers=encoder.layers,
        heads=encoder.heads,
        head_size=encoder.head_size,
        hidden_size=encoder.hidden_size,
        embedding_size=encoder.embedding_size,
        generator=_generator(seed, "prompts"),
    )


def _last_split(stage: StageParameters) -> Split:
    """Rows come in the order of the splits; a stage trains on those up to the end of this one."""
    seen = isinstance(stage, PretrainParameters) and stage.rows == "train_and_valid"
    return "valid" if seen else "train"


def _variant(prompts: PromptParameters, stage: PretrainParameters) -> str:
    """Name of the ablation of knowledge fusion (section 6 of docs/method.md)."""
    missing = ["prompts"] * (prompts.layout == "none") + ["pretraining"] * (stage.epochs == 0)
    return f"without {' and '.join(missing)}" if missing else FULL


def _encoder(plm: PLMParameters, stage: StageParameters, seed: int) -> PromptedEncoder:
    """Dropout is for weights that are trained: a frozen PLM works as it does in evaluation."""
    if stage.learning_rate_plm == 0:
        lora = None if plm.lora is None else plm.lora.model_copy(update={"dropout": 0.0})
        plm = plm.model_copy(update={"dropout": 0.0, "lora": lora})
    return load_encoder(plm, generator=_generator(seed, "lora"))


def _check_same_adapters(pretrained: TrainedModel, plm: PLMParameters) -> None:
    """Adapters of finetuning are those of pretraining; only their dropout may change."""

    def adapters(parameters: PLMParameters) -> str:
        if parameters.lora is None:
            return "null"
        lora = parameters.lora.model_dump(mode="json", exclude={"dropout"})
        shown = ", ".join(f"{name}: {value}" for name, value in lora.items())
        return f"{{{shown}}} from layer {parameters.freeze_layers + 1} on"

    wanted = adapters(PLMParameters.model_validate(pretrained.report["parameters"]["plm"]))
    if adapters(plm) != wanted:
        raise ValueError(f"plm.lora must be that of the pretraining, {wanted}, got {adapters(plm)}")


def _plm_digest(plm: PLMParameters) -> list[str]:
    return [file_digest(path) for path in resolve_source(plm).weight_files]


def _load_parts(model: nn.Module, trained: TrainedModel, parts: tuple[str, ...]) -> None:
    """Take whole parts of a trained model; every tensor must be there and fit."""
    check_folder(Path(trained.folder))
    tensors = load_tensors(trained.weights_path)
    for part in parts:
        prefix = part + "."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in tensors.items()
            if name.startswith(prefix)
        }
        try:
            model.get_submodule(part).load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(
                f"{trained.weights_path} must fit the configured {part}: {error}"
            ) from None


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


def _versions() -> dict[str, str]:
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
