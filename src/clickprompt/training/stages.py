"""The four stages: backbone, PA-MLM pretraining, finetuning without and with the PLM."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from clickprompt.modality import ModelInput
from clickprompt.models import (
    ClickPromptForPretraining,
    CTRForClicks,
    MaskedIdHead,
)
from clickprompt.parameters import (
    ClickStageParameters,
    CTRParameters,
    FinetuneWithPLMParameters,
    PLMParameters,
    PretrainParameters,
    PromptParameters,
    TrainingParameters,
    check_adapters_learn,
)
from clickprompt.plm import load_mlm_head
from clickprompt.training.launch import in_processes
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import MaskedTokenObjective, NextTokenObjective, Objective
from clickprompt.training.parts import (
    fresh_click_model,
    fresh_ctr,
    fresh_generator,
    load_parts,
    load_plm,
    random_source,
    weights_digest,
)
from clickprompt.training.result import TrainedModel
from clickprompt.training.stage_run import click_objective, run_stage

logger = logging.getLogger(__name__)

# The method with all of its parts; other variants are named in the reports as well.
FULL = "full"
RESTORED = "masked IDs"


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
        model = CTRForClicks(ctr=fresh_ctr(ctr, model_input, seed))
        return model, click_objective(model_input, machine, stage, training, seed, text=False)

    settings = {"ctr": ctr, "stage": stage}
    return run_stage("backbone", build, model_input, settings, stage, training, seed)


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
        ctr_model = fresh_ctr(ctr, model_input, seed)
        encoder = load_plm(plm, stage, seed)
        if encoder.freeze_layers == encoder.layers:
            raise ValueError(
                f"plm.freeze_layers must be below the {encoder.layers} layers of the PLM in "
                f"pretraining, where the prompts of the others are learnt, got {plm.freeze_layers}"
            )
        generator = fresh_generator(ctr_model, encoder, prompts, seed)
        # PA-MLM reads the representation only; what only the logit reads has nothing to learn here,
        # and without prompts nothing of the CTR model has.
        read = generator is not None or stage.masked_ids is not None
        idle = ctr_model.logit_parameters() if read else ctr_model.parameters()
        for parameter in idle:
            parameter.requires_grad_(False)
        id_head = None
        if stage.masked_ids is not None:
            id_head = MaskedIdHead(
                representation_size=ctr_model.representation_size,
                hidden_size=encoder.hidden_size,
                embedding_size=ctr_model.embedding.embedding_size,
                fields=len(model_input.field_sizes),
            )
            id_head.initialise(random_source(seed, "id_head"))
        model = ClickPromptForPretraining(
            ctr=ctr_model,
            generator=generator,
            encoder=encoder,
            mlm_head=load_mlm_head(
                plm, encoder, tied=stage.masking.tied, generator=random_source(seed, "mlm_head")
            ),
            id_head=id_head,
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
            masked_ids=stage.masked_ids,
        )
        return model, objective

    variant = _variant(prompts, stage)
    settings = {"ctr": ctr, "plm": plm, "plm_weights": weights_digest(plm), "prompts": prompts}
    return run_stage(
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
        if variant.startswith("without") and not variant.endswith(RESTORED):
            logger.warning(
                "finetune_without_plm starts from an untrained CTR model: the variant is %r",
                variant,
            )
        model = CTRForClicks(ctr=fresh_ctr(ctr, model_input, seed))
        load_parts(model, pretrained, ("ctr",))
        model.ctr.reset_head(random_source(seed, "ctr_head"), initialisation=ctr.initialisation)
        return model, click_objective(model_input, machine, stage, training, seed, text=False)

    settings = {"ctr": ctr, "stage": stage, "pretrained": pretrained.digest}
    return run_stage(
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
        model = fresh_click_model(ctr, plm, prompts, stage, model_input, seed)
        written = () if model.generator is None else ("generator",)
        load_parts(model, pretrained, ("ctr", *written, "encoder"))
        model.ctr.reset_head(random_source(seed, "ctr_head"), initialisation=ctr.initialisation)
        model.click_head.initialise(random_source(seed, "click_head"))
        return model, click_objective(model_input, machine, stage, training, seed, text=True)

    settings: dict[str, Any] = {"ctr": ctr, "plm": plm, "prompts": prompts, "stage": stage}
    settings |= {"pretrained": pretrained.digest}
    variant = pretrained.report.get("variant", FULL)
    return run_stage(
        "finetune_with_plm", build, model_input, settings, stage, training, seed, variant
    )


def _variant(prompts: PromptParameters, stage: PretrainParameters) -> str:
    """Name of the ablation of knowledge fusion (section 6 of docs/method.md)."""
    missing = ["prompts"] * (prompts.layout == "none") + ["pretraining"] * (stage.epochs == 0)
    name = f"without {' and '.join(missing)}" if missing else FULL
    return f"{name}, {RESTORED}" if stage.masked_ids is not None and stage.epochs else name


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
