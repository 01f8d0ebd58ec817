"""The stages of the baselines (docs/baselines.md), and ClickPrompt distilled into its CTR model."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clickprompt.baselines import (
    P5,
    CTRBert,
    CTRLForAlignment,
    PTab,
    TextFeatureCTR,
    encode_pieces,
    load_t5,
    question_tokens,
    random_t5,
)
from clickprompt.files import value_digest
from clickprompt.modality import ModelInput
from clickprompt.models import CTRForClicks
from clickprompt.parameters import (
    AlignParameters,
    ClickStageParameters,
    CTRBertParameters,
    CTRLParameters,
    CTRParameters,
    DistillationParameters,
    FinetuneWithPLMParameters,
    P5Parameters,
    PLMParameters,
    PromptParameters,
    PTabParameters,
    TextFeaturesParameters,
    TextStageParameters,
    TrainingParameters,
)
from clickprompt.plm import load_encoder, resolve_source
from clickprompt.training.baseline_objectives import (
    AlignmentObjective,
    DistilledClickObjective,
    PieceClickObjective,
    QuestionClickObjective,
    TextClickObjective,
    TwoTowerClickObjective,
)
from clickprompt.training.files import load_tensors, save_tensors
from clickprompt.training.launch import in_processes
from clickprompt.training.machine import Machine, choose_machine
from clickprompt.training.objectives import ClickObjective, Objective
from clickprompt.training.parts import (
    fresh_click_model,
    fresh_ctr,
    load_parts,
    load_plm,
    random_source,
    weights_digest,
)
from clickprompt.training.result import TrainedModel
from clickprompt.training.stage_run import click_settings, run_stage
from clickprompt.training.stages import pretrain

logger = logging.getLogger(__name__)


@in_processes
def train_ctr_bert(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    stage: CTRBertParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """CTR-BERT: two text towers from the PLM as it came, joined with the CTR model's ids.

    Raises:
        ValueError: a user field that the data does not have, or no field left for the item.
    """
    user_fields = _positions(model_input, stage.user_fields)

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        towers = [load_plm(plm, stage, seed) for _ in range(1 + (stage.encoders == "two"))]
        model = CTRBert(
            ctr=fresh_ctr(ctr, model_input, seed),
            encoder=towers[0],
            item_encoder=towers[1] if len(towers) > 1 else None,
            pooling=stage.pooling,
        )
        model.click_head.initialise(random_source(seed, "click_head"))
        for parameter in model.ctr.logit_parameters():  # the head of the towers reads q itself
            parameter.requires_grad_(False)
        settings = click_settings(model_input, machine, stage, training, seed)
        return model, TwoTowerClickObjective(user_fields=user_fields, **settings)

    settings = {"ctr": ctr, "plm": plm, "plm_weights": weights_digest(plm), "stage": stage}
    return run_stage("ctr_bert", build, model_input, settings, stage, training, seed)


@in_processes
def train_p5(
    *,
    model_input: ModelInput,
    plm: PLMParameters,
    stage: P5Parameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """P5: the T5 that ``plm.source`` names answers a question after each text.

    Where ``plm.source`` is no T5, a small one with random weights takes its place, which reads the
    tokens of that model's tokenizer; the report then says so.

    Raises:
        ValueError: an answer is no token of its own, or the text view is that of a causal model.
    """
    pretrained = resolve_source(plm).encoder_decoder
    special, known = model_input.special_tokens, model_input.metadata
    pad_id, end_id = special["pad"], special["sep"]
    if pad_id is None or end_id is None:
        raise ValueError(
            "plm.source must be a T5 or an encoder for model.name p5, whose texts have an end, "
            f"got the causal {plm.source}"
        )
    question, (yes, no) = question_tokens(plm, stage.question, stage.answers)

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        if pretrained:
            model = load_t5(plm)
        else:
            logger.warning(
                "p5: %s is no T5; a small one with random weights is trained", plm.source
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(random_source(seed, "t5").initial_seed())
                model = random_t5(
                    vocabulary_size=known["vocabulary_size"],
                    pad_id=pad_id,
                    end_id=end_id,
                    size=stage.size,
                    layers=stage.layers,
                )
        settings = click_settings(model_input, machine, stage, training, seed)
        return P5(model=model, yes=yes, no=no), QuestionClickObjective(
            question=question, **settings
        )

    settings: dict[str, Any] = {"stage": stage, "question": question, "answers": [yes, no]}
    if pretrained:
        settings |= {"plm": plm, "plm_weights": weights_digest(plm)}
    name = plm.source if pretrained else "T5, random weights"
    return run_stage("p5", build, model_input, settings, stage, training, seed, language_model=name)


def train_ptab(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    stage: PTabParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """PTab: the PLM learns the masked tokens of the data's text, then the click, without any id."""
    shared: dict[str, Any] = {"model_input": model_input, "training": training, "seed": seed}
    adapted = pretrain(
        **shared, ctr=ctr, plm=plm, prompts=PromptParameters(layout="none"), stage=stage.pretrain
    )
    return classify_text(**shared, adapted=adapted, plm=plm, stage=stage.finetune)


@in_processes
def classify_text(
    *,
    model_input: ModelInput,
    adapted: TrainedModel,
    plm: PLMParameters,
    stage: TextStageParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """The second step of PTab: clicks from the text, starting at an adapted PLM."""

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = PTab(encoder=load_plm(plm, stage, seed), pooling=stage.pooling)
        load_parts(model, adapted, ("encoder",))
        model.click_head.initialise(random_source(seed, "click_head"))
        settings = click_settings(model_input, machine, stage, training, seed)
        return model, TextClickObjective(**settings, text=True)

    settings = {"plm": plm, "stage": stage, "pretrained": adapted.digest}
    return run_stage("ptab", build, model_input, settings, stage, training, seed)


def train_ctrl(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    stage: CTRLParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """CTRL: a CTR tower and a PLM tower are aligned, then the CTR tower learns the click alone."""
    shared: dict[str, Any] = {"model_input": model_input, "training": training, "seed": seed}
    aligned = align_towers(**shared, ctr=ctr, plm=plm, stage=stage.align)
    return finetune_ctrl(**shared, aligned=aligned, ctr=ctr, stage=stage.finetune)


@in_processes
def align_towers(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    stage: AlignParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """The first step of CTRL: ids and texts of a row find each other. Nothing reads the labels.

    Raises:
        ValueError: several processes, each of which would have negatives of its share only.
    """
    if training.processes * training.machines > 1:
        raise ValueError(
            "training.processes and training.machines must be 1 to align (CTRL), since the rows "
            f"of a whole batch are negatives, got {training.processes} and {training.machines}"
        )

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = CTRLForAlignment(
            ctr=fresh_ctr(ctr, model_input, seed),
            encoder=load_plm(plm, stage, seed),
            size=stage.size,
            pooling=stage.pooling,
        )
        model.initialise_projections(random_source(seed, "projections"))
        for parameter in model.ctr.logit_parameters():
            parameter.requires_grad_(False)
        objective = AlignmentObjective(
            model_input=model_input,
            machine=machine,
            batch_size=stage.batch_size,
            temperature=stage.temperature,
            seed=seed,
            validation_rows=stage.validation_rows,
        )
        return model, objective

    settings = {"ctr": ctr, "plm": plm, "plm_weights": weights_digest(plm), "stage": stage}
    return run_stage("ctrl_align", build, model_input, settings, stage, training, seed)


@in_processes
def finetune_ctrl(
    *,
    model_input: ModelInput,
    aligned: TrainedModel,
    ctr: CTRParameters,
    stage: ClickStageParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """The second step of CTRL: the CTR tower alone, with a fresh head."""

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = CTRForClicks(ctr=fresh_ctr(ctr, model_input, seed))
        load_parts(model, aligned, ("ctr",))
        model.ctr.reset_head(random_source(seed, "ctr_head"), initialisation=ctr.initialisation)
        settings = click_settings(model_input, machine, stage, training, seed)
        return model, ClickObjective(**settings, text=False)

    settings = {"ctr": ctr, "stage": stage, "pretrained": aligned.digest}
    return run_stage("ctrl", build, model_input, settings, stage, training, seed)


@in_processes
def train_text_features(
    *,
    model_input: ModelInput,
    ctr: CTRParameters,
    plm: PLMParameters,
    stage: TextFeaturesParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """A CTR model with the frozen PLM's vectors of its fields' texts, each piece encoded once."""

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = TextFeatureCTR(
            ctr=fresh_ctr(ctr, model_input, seed),
            vector_PH=piece_vectors(model_input, plm, training),
            use=stage.use,
        )
        model.initialise(random_source(seed, "text_features"))
        settings = click_settings(model_input, machine, stage, training, seed)
        return model, PieceClickObjective(**settings, text=False)

    settings = {"ctr": ctr, "plm": plm, "plm_weights": weights_digest(plm), "stage": stage}
    return run_stage("text_features", build, model_input, settings, stage, training, seed)


def piece_vectors(
    model_input: ModelInput, plm: PLMParameters, training: TrainingParameters
) -> torch.Tensor:
    """The PLM's vectors of all pieces (P, H): from their file, or encoded now and written there."""
    frozen = plm.model_copy(update={"dropout": 0.0, "lora": None})
    machine = choose_machine(training)
    decides = {
        "data": model_input.digest,
        "plm": frozen.model_dump(mode="json"),
        "plm_weights": weights_digest(plm),
    }
    folder = Path(training.folder) / "piece_vectors"
    path = folder / f"{value_digest(decides)[:16]}.safetensors"
    if path.exists():
        return load_tensors(path)["vector_PH"]
    started = time.monotonic()
    vector_PH = encode_pieces(load_encoder(frozen), model_input, machine.device)
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(path, {"vector_PH": vector_PH})
    seconds = time.monotonic() - started
    logger.info("%s pieces of text encoded in %.1f s: %s", f"{len(vector_PH):,}", seconds, path)
    return vector_PH


@in_processes
def distil(
    *,
    model_input: ModelInput,
    pretrained: TrainedModel,
    teacher: TrainedModel,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    with_plm: FinetuneWithPLMParameters,
    stage: ClickStageParameters,
    distillation: DistillationParameters,
    training: TrainingParameters,
    seed: int,
) -> TrainedModel:
    """Finetune without the PLM, with ClickPrompt with the PLM as a teacher.

    It costs the same to serve as the backbone. The paper does not have it.

    Args:
        model_input: both views of the samples.
        pretrained: where the CTR model starts, as in `stages.finetune_without_plm`.
        teacher: from `stages.finetune_with_plm`; predicts the train rows once.
        ctr: the CTR model.
        plm: of the teacher.
        prompts: of the teacher.
        with_plm: the teacher's stage.
        stage: as in `stages.finetune_without_plm`.
        distillation: weight of the teacher.
        training: shared settings.
        seed: of weights and order.
    """

    def build(machine: Machine) -> tuple[nn.Module, Objective]:
        model = CTRForClicks(ctr=fresh_ctr(ctr, model_input, seed))
        load_parts(model, pretrained, ("ctr",))
        model.ctr.reset_head(random_source(seed, "ctr_head"), initialisation=ctr.initialisation)
        settings = click_settings(model_input, machine, stage, training, seed)
        known = _teach(model_input, teacher, ctr, plm, prompts, with_plm, training, seed)
        objective = DistilledClickObjective(
            teacher=known, weight=distillation.weight, **settings, text=False
        )
        return model, objective

    settings: dict[str, Any] = {"ctr": ctr, "stage": stage, "distillation": distillation}
    settings |= {"pretrained": pretrained.digest, "teacher": teacher.digest}
    return run_stage("distilled", build, model_input, settings, stage, training, seed)


def _teach(
    model_input: ModelInput,
    teacher: TrainedModel,
    ctr: CTRParameters,
    plm: PLMParameters,
    prompts: PromptParameters,
    stage: FinetuneWithPLMParameters,
    training: TrainingParameters,
    seed: int,
) -> np.ndarray:
    """The teacher's probabilities of the train rows, from its stored weights."""
    machine = choose_machine(training)
    model = fresh_click_model(ctr, plm, prompts, stage, model_input, seed)
    model.to(machine.device).load_state_dict(load_tensors(teacher.weights_path))
    settings = click_settings(model_input, machine, stage, training, seed)
    return ClickObjective(**settings, text=True).predict(model, "train")


def _positions(model_input: ModelInput, columns: Sequence[str]) -> list[int]:
    """Where these columns stand among the fields."""
    known = [str(field["column"]) for field in model_input.metadata["fields"]]
    for column in columns:
        if column not in known:
            raise ValueError(
                f"model.ctr_bert.user_fields must be columns of data.fields "
                f"({', '.join(known)}), got {column!r}"
            )
    if len(set(columns)) == len(known):
        raise ValueError(
            "model.ctr_bert.user_fields must leave a field for the item, got all of "
            f"{', '.join(known)}"
        )
    return [known.index(column) for column in columns]
