"""Every CTR model writes prompts, learns by PA-MLM and by clicks, and lies in optimiser groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clickprompt.parameters import (
    CTR_MODELS,
    ClickStageParameters,
    CTRParameters,
    FinetuneWithPLMParameters,
    MaskingParameters,
    PretrainParameters,
)
from clickprompt.training import parts, stages
from clickprompt.training.machine import Machine
from clickprompt.training.objectives import ClickObjective, MaskedTokenObjective
from clickprompt.training.optimizer import build_optimizer, parameter_groups
from tests.training.tiny_run import PROMPTS, training

SIZES = {
    "embedding_size": 4,
    "hidden_sizes": (8,),
    "linear": True,
    "cin_sizes": (3, 2),
    "attention_size": 4,
    "fgcnn_channels": (2, 3),
    "fgcnn_kernels": (3, 3),
    "fgcnn_pooling": (2, 2),
    "fgcnn_recombined": (2, 1),
}
ROWS = np.arange(48)


@pytest.fixture(params=CTR_MODELS)
def ctr(request) -> CTRParameters:
    return CTRParameters(name=request.param, **SIZES)


def _pretraining(model_input, plm, ctr, precision="float32"):
    machine = Machine(device=torch.device("cpu"), precision=precision)
    model = parts.fresh_ctr(ctr, model_input, 0)
    for parameter in model.logit_parameters():
        parameter.requires_grad_(False)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    return stages.ClickPromptForPretraining(
        ctr=model,
        generator=parts.fresh_generator(model, encoder, PROMPTS, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder, generator=torch.Generator().manual_seed(0)),
    ), MaskedTokenObjective(
        model_input=model_input,
        machine=machine,
        masking=MaskingParameters(),
        batch_size=48,
        evaluation_batch_size=48,
        seed=5,
    )


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_pa_mlm_trains_the_whole_ctr_model_through_the_prompts(model_input, plm, ctr, precision):
    model, objective = _pretraining(model_input, plm, ctr, precision)
    model.ctr.eval()  # a bias before a batch norm has no gradient in training
    batch = objective.prepare(ROWS, 0, 0)
    loss = objective.loss_sum(model, batch)
    assert loss.isfinite()
    loss.backward()
    for name, weight in model.ctr.named_parameters():
        if weight.requires_grad:
            assert weight.grad.isfinite().all(), name
            assert weight.grad.any(), name
        else:
            assert weight.grad is None


def test_a_step_of_pa_mlm_lowers_its_loss(model_input, plm, ctr):
    model, objective = _pretraining(model_input, plm, ctr)
    stage = PretrainParameters(epochs=1, batch_size=48, learning_rate_ctr=1e-3)
    optimizer = build_optimizer(model, stage)
    batch = objective.prepare(ROWS, 0, 0)
    losses = []
    for _ in range(5):
        loss = objective.loss_sum(model, batch) / objective.count(batch)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]


def test_a_row_has_its_own_prompts_and_click(model_input, plm, ctr):
    """A changed id of one row changes the logit of this row only."""
    model = parts.fresh_ctr(ctr, model_input, 0)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    joint = parts.ClickPromptForClicks(
        ctr=model,
        generator=parts.fresh_generator(model, encoder, PROMPTS, 0),
        encoder=encoder,
        alpha=0.0,  # the text's logit alone: the ids reach it through the prompts
    )
    joint.click_head.initialise(torch.Generator().manual_seed(1))
    joint.double().eval()
    objective = ClickObjective(
        model_input=model_input,
        machine=Machine(device=torch.device("cpu"), precision="float32"),
        batch_size=48,
        evaluation_batch_size=48,
        seed=5,
        text=True,
    )
    batch = objective.prepare(ROWS)
    before = objective.logits(joint, batch)
    changed = batch.x_id_BF.copy()
    changed[7, 0] = (changed[7, 0] + 1) % model_input.field_sizes[0]
    batch.x_id_BF[...] = changed
    differs = (objective.logits(joint, batch) - before).abs().detach()
    assert differs[7] > 1e-9
    differs[7] = 0
    assert differs.max() < 1e-12


def test_optimiser_groups_hold_every_parameter_once(model_input, ctr):
    model = stages.CTRForClicks(ctr=parts.fresh_ctr(ctr, model_input, 0))
    stage = ClickStageParameters(epochs=1, batch_size=8, weight_decay=0.1)
    groups = parameter_groups(model, stage)
    found = [id(weight) for group in groups for weight in group["params"]]
    assert sorted(found) == sorted(id(weight) for weight in model.parameters())
    for group in groups:
        decays = group["weight_decay"] > 0
        assert all((weight.ndim >= 2) == decays for weight in group["params"])


# The two that differ in what a result holds: FM has no head, FGCNN running statistics.
@pytest.mark.parametrize("name", ["fm", "fgcnn"])
def test_stages_from_pretraining_to_clicks(model_input, plm, tmp_path: Path, name):
    shared = {
        "model_input": model_input,
        "ctr": CTRParameters(name=name, **SIZES),
        "training": training(tmp_path),
        "seed": 3,
    }
    text = {"plm": plm, "prompts": PROMPTS}
    quick = {"epochs": 1, "batch_size": 64}
    pretrained = stages.pretrain(**shared, **text, stage=PretrainParameters(**quick))
    alone = stages.finetune_without_plm(
        **shared, pretrained=pretrained, stage=ClickStageParameters(**quick)
    )
    together = stages.finetune_with_plm(
        **shared, **text, pretrained=pretrained, stage=FinetuneWithPLMParameters(**quick)
    )
    for trained in (alone, together):
        assert 0 < trained.report["metrics"]["test_auc"] < 1
        assert trained.report["ctr"] == name
