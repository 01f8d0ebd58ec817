from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.parameters import (
    FinetuneWithPLMParameters,
    MaskingParameters,
    PretrainParameters,
    TrainingParameters,
)
from clickprompt.training import loop, parts, stages
from clickprompt.training.machine import choose_machine
from clickprompt.training.objectives import (
    IGNORED,
    SELECTED_MULTIPLE,
    ClickObjective,
    MaskedTokenObjective,
    probabilities,
)
from tests.training.tiny_run import CTR, PROMPTS

MACHINE = choose_machine(TrainingParameters(precision="float32", device="cpu"))


def pretraining(model_input, plm, prompts=PROMPTS, options=None, **masking):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    ctr.head.requires_grad_(False)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    model = stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, prompts, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder, generator=torch.Generator().manual_seed(0)),
    )
    objective = MaskedTokenObjective(
        model_input=model_input,
        machine=MACHINE,
        masking=MaskingParameters(**masking),
        batch_size=32,
        evaluation_batch_size=50,
        seed=5,
        **(options or {}),
    )
    return model, objective


def clicks(model_input, plm, prompts=PROMPTS, **head):
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    model = parts.ClickPromptForClicks(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, prompts, 0),
        encoder=encoder,
        **head,
    )
    model.click_head.initialise(torch.Generator().manual_seed(1))
    objective = ClickObjective(
        model_input=model_input,
        machine=MACHINE,
        batch_size=32,
        evaluation_batch_size=50,
        seed=5,
        text=True,
    )
    return model, objective


def test_parts_of_a_batch_are_the_batch(model_input, plm):
    _, objective = pretraining(model_input, plm)
    batch = objective.prepare(np.arange(30), 0, 0)
    parts = [batch.part(number, 4) for number in range(4)]
    assert sum(len(part) for part in parts) == 30
    start = 0
    for part in parts:
        whole, width = batch.token_ids_BN[start : start + len(part)], part.token_ids_BN.shape[1]
        np.testing.assert_array_equal(part.token_ids_BN, whole[:, :width])
        assert (whole[:, width:] == model_input.special_tokens["pad"]).all()
        assert width - part.length_B.max() in (0, 1)
        start += len(part)
    starts = np.cumsum([0, *(len(p) for p in parts[:-1])])
    selected = [
        token
        for part, start in zip(parts, starts, strict=True)
        for token in zip(part.row_S + start, part.column_S, part.target_S, strict=True)
    ]
    assert sorted(selected) == sorted(zip(batch.row_S, batch.column_S, batch.target_S, strict=True))
    assert sum(objective.count(part) for part in parts) == objective.count(batch)


def test_fillers_of_the_selected_tokens_count_for_nothing(model_input, plm):
    _, objective = pretraining(model_input, plm)
    batch = objective.prepare(np.arange(30), 0, 0)
    real = batch.target_S != IGNORED
    assert len(batch.target_S) % SELECTED_MULTIPLE == 0
    assert 0 < real.sum() == objective.count(batch) < len(real)
    text_tokens = int((batch.length_B - 2).sum())
    assert objective.count(batch) == pytest.approx(0.15 * text_tokens, abs=len(batch))


@pytest.mark.parametrize("kind", ["pretrain", "clicks"])
def test_accumulation_does_not_change_the_step(model_input, plm, kind):
    """1 x 32 = 4 x 8, although the parts hold different numbers of masked tokens."""
    _assert_step_is_the_same(model_input, plm, kind, rows=32, accumulate=4)


@pytest.mark.parametrize("kind", ["pretrain", "clicks"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_batch_may_have_fewer_rows_than_parts(model_input, plm, kind, rows):
    """As the last one of an epoch may."""
    _assert_step_is_the_same(model_input, plm, kind, rows=rows, accumulate=8)


def _assert_step_is_the_same(model_input, plm, kind, *, rows, accumulate):
    def step(accumulate):
        torch.manual_seed(0)
        if kind == "pretrain":
            model, objective = pretraining(model_input, plm)
            stage = PretrainParameters(epochs=1, batch_size=32, accumulate=accumulate)
        else:
            model, objective = clicks(model_input, plm)
            stage = FinetuneWithPLMParameters(epochs=1, batch_size=32, accumulate=accumulate)
        model.double()
        optimizer = loop.build_optimizer(model, stage)
        loss, count = loop._step(
            loop.Accelerator(cpu=True), model, [], _Still(optimizer), objective, stage,
            device=torch.device("cpu"),
            rows=objective.batches(0)[0][:rows], position=(0, 0), seed=0,
        )  # fmt: skip
        return (
            float(loss),
            count,
            {n: p.grad for n, p in model.named_parameters() if p.requires_grad},
        )

    whole, parts = step(1), step(accumulate)
    assert whole[0] == pytest.approx(parts[0], rel=1e-6)
    assert whole[1] == parts[1]
    for name, gradient in whole[2].items():
        torch.testing.assert_close(parts[2][name], gradient, rtol=1e-4, atol=1e-8)


class _Still:
    """An optimiser that keeps weights and gradients, to look at them."""

    def __init__(self, optimizer):
        self.param_groups = optimizer.param_groups

    def step(self):
        pass

    def zero_grad(self, set_to_none):
        pass


def test_pa_mlm_never_touches_ids_labels_or_special_tokens(model_input, plm):
    _, objective = pretraining(model_input, plm)
    rows = np.arange(200)
    plain, lengths = objective._text.tokens(rows, multiple_of=2)
    changed = np.zeros_like(plain, dtype=bool)
    for epoch in range(20):
        batch = objective.prepare(rows, epoch, 0)
        np.testing.assert_array_equal(batch.x_id_BF, model_input.ids[rows])
        np.testing.assert_array_equal(batch.length_B, lengths)
        changed |= batch.token_ids_BN != plain
    special = np.isin(plain, list(model_input.special_tokens.values()))
    assert changed[~special].mean() > 0.8
    assert not changed[special].any()


@pytest.mark.parametrize("vocabulary", ["active", "full"])
def test_the_loss_is_the_cross_entropy_of_the_selected_tokens(model_input, plm, vocabulary):
    """Against a plain computation: whole encoder, decoder everywhere, then selection."""
    model, objective = pretraining(model_input, plm, vocabulary=vocabulary)
    model.eval()
    rows = objective.batches(0)[1]
    batch = objective.prepare(rows, 0, 1)
    found = objective.loss_sum(model, batch)
    tokens = torch.from_numpy(batch.token_ids_BN)
    mask = torch.arange(tokens.shape[1]) < torch.from_numpy(batch.length_B)[:, None]
    prompts = model.generator(model.ctr.representation(torch.from_numpy(batch.x_id_BF)))
    hidden = model.encoder(tokens, mask, prompts)
    scores = model.mlm_head(hidden.flatten(0, 1)).unflatten(0, tokens.shape)
    plain, _ = objective._text.tokens(rows, multiple_of=2)
    active = torch.tensor(model_input.active_tokens.tolist())
    expected = 0.0
    real = batch.target_S != IGNORED
    for row, column in zip(batch.row_S[real], batch.column_S[real], strict=True):
        vector, target = scores[row, column].double(), int(plain[row, column])
        pool = vector[active] if vocabulary == "active" else vector
        expected += (torch.logsumexp(pool, 0) - vector[target]).item()
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_validation_measures_prompts_on_off_and_shuffled(model_input, plm):
    model, objective = pretraining(model_input, plm)
    with torch.no_grad():  # prompts that say much, so that the three differ
        model.generator.second.weight.mul_(20)
    metrics = objective.validate(model)
    losses = [metrics[f"valid_mlm_loss_prompts_{name}"] for name in ("on", "off", "shuffled")]
    assert len(set(losses)) == 3
    assert metrics == objective.validate(model), "the same masks each time"
    with torch.no_grad():  # a generator that says the same for every row
        model.generator.second.weight.zero_()
    metrics = objective.validate(model)
    assert metrics["valid_mlm_loss_prompts_on"] == pytest.approx(
        metrics["valid_mlm_loss_prompts_shuffled"], rel=1e-6
    )


def test_predictions_stand_in_the_order_of_the_rows(model_input, plm):
    """Batches by length inside; one row alone gives the same probability."""
    model, objective = clicks(model_input, plm)
    found = objective.predict(model, "test")
    part = model_input.rows("test")
    for offset in (0, 7, part.stop - part.start - 1):
        row = np.array([part.start + offset])
        with torch.no_grad():
            logit = objective.logits(model.eval(), objective.prepare(row))
        assert found[offset] == pytest.approx(float(torch.sigmoid(logit.double())), rel=1e-5)
    metrics = objective.validate(model)
    labels = model_input.labels[model_input.rows("valid")]
    valid = objective.predict(model, "valid")
    assert metrics == {
        "valid_auc": auc(labels, valid),
        "valid_log_loss": log_loss(labels, valid),
    }


def test_fusion_is_the_convex_combination_or_the_sum(model_input, plm):
    rows = np.arange(8)
    logits = {}
    for name, head in {
        "one": {"alpha": 1.0},
        "zero": {"alpha": 0.0},
        "mixed": {"alpha": 0.3},
        "sum": {"fusion": "sum"},
    }.items():
        model, objective = clicks(model_input, plm, **head)
        with torch.no_grad():
            logits[name] = objective.logits(model.eval(), objective.prepare(rows))
            ctr = model.ctr(torch.from_numpy(np.array(model_input.ids[rows])))
    torch.testing.assert_close(logits["one"], ctr)
    torch.testing.assert_close(logits["mixed"], 0.3 * logits["one"] + 0.7 * logits["zero"])
    torch.testing.assert_close(logits["sum"], logits["one"] + logits["zero"])


def test_the_sigmoid_keeps_extreme_logits_apart():
    logits = np.array([-800.0, -40.0, 0.0, 40.0, 800.0])
    found = probabilities(logits)
    assert found[0] == 0.0
    assert 0 < found[1] < 1e-17
    np.testing.assert_allclose(found[2], 0.5)
    assert found[4] == 1.0


def test_click_batches_cover_the_train_rows_once(model_input, plm):
    _, objective = clicks(model_input, plm)
    rows = np.concatenate(objective.batches(0))
    train = model_input.rows("train")
    np.testing.assert_array_equal(np.sort(rows), np.arange(train.start, train.stop))
    assert not np.array_equal(rows, np.concatenate(objective.batches(1)))


def test_id_only_batches_have_no_text(model_input):
    objective = ClickObjective(
        model_input=model_input,
        machine=MACHINE,
        batch_size=32,
        evaluation_batch_size=50,
        seed=5,
        text=False,
    )
    batch = objective.prepare(np.arange(3))
    assert batch.token_ids_BN is None
    assert objective.count(batch) == 3


def test_pretraining_may_have_the_rows_of_valid_too(model_input, plm):
    """As the reference; never those of test."""
    _, objective = pretraining(model_input, plm, options={"splits": "train_and_valid"})
    rows = np.sort(np.concatenate(objective.batches(0)))
    stop = model_input.rows("valid").stop
    np.testing.assert_array_equal(rows, np.arange(stop))
    assert model_input.rows("test").start == stop < len(model_input.labels)
    _, objective = pretraining(model_input, plm)
    rows = np.sort(np.concatenate(objective.batches(0)))
    np.testing.assert_array_equal(rows, np.arange(model_input.rows("train").stop))


def test_without_prompts_it_is_masked_language_modelling_of_the_plm_alone(model_input, plm):
    """The numbers are those of prompts off; the CTR model is not even asked."""
    prompted, objective = pretraining(model_input, plm)
    without, silent = pretraining(
        model_input, plm, PROMPTS.model_copy(update={"layout": "none"}), {"measured": ("off",)}
    )
    assert without.generator is None
    without.ctr.representation = None
    off = {k: v for k, v in objective.validate(prompted).items() if k.endswith("_off")}
    assert silent.validate(without) == off
    batch = silent.prepare(silent.batches(0)[0], 0, 0)
    silent.loss_sum(without.train(), batch).backward()
    assert all(p.grad is None for p in without.ctr.parameters())
    assert all(p.grad is not None for p in without.encoder.parameters())


def test_without_prompts_the_models_meet_in_the_logit_only(model_input, plm):
    """z_plm is the same for any ids; the sum has the CTR logit of those ids."""
    model, objective = clicks(
        model_input, plm, PROMPTS.model_copy(update={"layout": "none"}), fusion="sum"
    )
    model.double().eval()
    batch = objective.prepare(np.arange(8))
    other = dataclasses.replace(batch, x_id_BF=np.zeros_like(batch.x_id_BF))
    with torch.no_grad():
        found = [objective.logits(model, b) for b in (batch, other)]
        alone = [model.ctr(torch.from_numpy(np.array(b.x_id_BF))) for b in (batch, other)]
    assert not torch.allclose(alone[0], alone[1])
    torch.testing.assert_close(found[0] - alone[0], found[1] - alone[1], rtol=0, atol=1e-12)


def test_logits_of_float64_stay_exact(model_input, plm):
    model, objective = clicks(model_input, plm)
    batch = objective.prepare(np.arange(8))
    assert objective.logits(model.eval(), batch).dtype == torch.float32
    assert objective.logits(model.double(), batch).dtype == torch.float64
