"""PA-CLM: a causal PLM predicts every next token; then clicks, with and without it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from clickprompt.parameters import (
    ClickStageParameters,
    FinetuneWithPLMParameters,
    MaskingParameters,
    PretrainParameters,
    TrainingParameters,
)
from clickprompt.pipelines.curves import plot_pretraining_curves
from clickprompt.training import parts, stages
from clickprompt.training.machine import choose_machine
from clickprompt.training.objectives import IGNORED, MaskedTokenObjective, NextTokenObjective
from tests.training.tiny_run import CTR, PROMPTS, make_inputs, training

MACHINE = choose_machine(TrainingParameters(precision="float32", device="cpu"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("causal"), causal=True)


def _objective(kind, model_input, **masking):
    return kind(
        model_input=model_input,
        machine=MACHINE,
        masking=MaskingParameters(**masking),
        batch_size=32,
        evaluation_batch_size=50,
        seed=5,
    )


def _model(inputs):
    model_input, plm = inputs
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    encoder = parts.load_encoder(plm.model_copy(update={"dropout": 0.0}))
    return stages.ClickPromptForPretraining(
        ctr=ctr,
        generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0),
        encoder=encoder,
        mlm_head=stages.load_mlm_head(plm, encoder),
    )


def test_every_text_token_is_a_target_of_the_position_before_it(inputs):
    model_input, _ = inputs
    objective = _objective(NextTokenObjective, model_input, vocabulary="full")
    rows = np.array([0, 5, 9])
    batch = objective.prepare(rows, epoch=0, step=0)
    begin = model_input.special_tokens["cls"]
    expected = []
    for number, row in enumerate(rows):
        pieces = model_input.pieces[row]
        ends = model_input.piece_offsets
        text = np.concatenate([model_input.piece_tokens[ends[p] : ends[p + 1]] for p in pieces])
        given = batch.token_ids_BN[number]
        assert given[: len(text) + 1].tolist() == [begin, *text]
        assert batch.length_B[number] == len(text) + 1
        expected += [(number, column, token) for column, token in enumerate(text)]
    real = batch.target_S != IGNORED
    found = zip(batch.row_S[real], batch.column_S[real], batch.target_S[real], strict=True)
    assert list(found) == expected
    assert objective.count(batch) == len(expected)
    again = objective.prepare(rows, epoch=3, step=8)
    np.testing.assert_array_equal(again.token_ids_BN, batch.token_ids_BN)  # nothing is masked


def test_active_vocabulary_leaves_out_what_no_train_text_has(inputs):
    model_input, _ = inputs
    few = model_input.active_tokens[::2]  # as if the others were in no train text
    model_input = dataclasses.replace(model_input, active_tokens=few)
    whole = _objective(NextTokenObjective, model_input, vocabulary="full")
    active = _objective(NextTokenObjective, model_input)
    part = model_input.rows("valid")
    rows = np.arange(part.start, part.stop)
    every, some = whole.prepare(rows, 0, 0), active.prepare(rows, 0, 0)
    known = {token: i for i, token in enumerate(model_input.active_tokens.tolist())}
    expected = [
        (row, column, known[token])
        for row, column, token in zip(every.row_S, every.column_S, every.target_S, strict=True)
        if token in known
    ]
    real = some.target_S != IGNORED
    found = zip(some.row_S[real], some.column_S[real], some.target_S[real], strict=True)
    assert list(found) == expected
    assert 0 < len(expected) < whole.count(every)


@pytest.mark.parametrize("prompts", ["on", "off"])
def test_the_loss_is_that_of_the_language_model(inputs, prompts):
    """Off: transformers' own. On: transformers' with the prompts as a prefix of its cache."""
    model_input, plm = inputs
    model = _model(inputs).eval().double()
    objective = _objective(NextTokenObjective, model_input, vocabulary="full")
    rows = np.arange(6)
    batch = objective.prepare(rows, 0, 0)
    theirs = (
        GPT2LMHeadModel.from_pretrained(plm.source, attn_implementation="eager").eval().double()
    )
    tokens_BN = torch.from_numpy(batch.token_ids_BN)
    with torch.no_grad():
        logits_SV = objective.logits(model, batch, prompts)
        found = torch.nn.functional.cross_entropy(
            logits_SV, torch.from_numpy(batch.target_S), reduction="sum", ignore_index=IGNORED
        )
        written = model.generator(model.ctr.representation(torch.from_numpy(batch.x_id_BF)))
        total = 0.0
        for row, length in enumerate(batch.length_B):
            ids_1N = tokens_BN[row : row + 1, :length]
            scores = _scores(theirs, ids_1N, written if prompts == "on" else None, row)
            chosen = torch.log_softmax(scores[:-1], dim=-1).gather(1, ids_1N[0, 1:, None])
            total -= float(chosen.sum())
    assert float(found) == pytest.approx(total, rel=1e-10)


def _scores(theirs, ids_1N, written, row):
    """transformers' logits (N, V); the prompts of a row enter as a prefix of its cache."""
    from transformers import DynamicCache

    if written is None:
        return theirs(input_ids=ids_1N).logits[0]
    cache = DynamicCache(config=theirs.config)
    for layer in range(written.key_BLAKd.shape[1]):
        at = slice(row, row + 1)
        cache.update(written.key_BLAKd[at, layer], written.value_BLAKd[at, layer], layer)
    positions = torch.arange(ids_1N.shape[1])[None]  # the text keeps its own
    out = theirs(input_ids=ids_1N, past_key_values=cache, position_ids=positions)
    return out.logits[0]


def test_masked_tokens_need_a_mask_token(inputs):
    with pytest.raises(ValueError, match=r"PA-MLM must have a mask token, got none in .*model_inp"):
        _objective(MaskedTokenObjective, inputs[0])


def test_cls_pooling_is_refused(inputs):
    model_input, plm = inputs
    ctr = parts.fresh_ctr(CTR, model_input, 0)
    encoder = parts.load_encoder(plm)
    with pytest.raises(ValueError, match=r"pooling must be last, mean, .* causal PLM.* got 'cls'"):
        parts.ClickPromptForClicks(
            ctr=ctr,
            generator=parts.fresh_generator(ctr, encoder, PROMPTS, 0),
            encoder=encoder,
            pooling="cls",
        )


def test_pretraining_and_both_finetunings(inputs, tmp_path):
    model_input, plm = inputs
    shared = {"model_input": model_input, "ctr": CTR, "training": training(tmp_path), "seed": 3}
    text = {"plm": plm, "prompts": PROMPTS}
    quick = {"epochs": 3, "batch_size": 32}
    pretrained = stages.pretrain(
        **shared, **text, stage=PretrainParameters(**quick, learning_rate_plm=3e-3)
    )
    history = pretrained.report["history"]
    losses = [entry["train_loss"] for entry in history]
    valid = [entry["valid_clm_loss_prompts_on"] for entry in history]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]
    assert valid[-1] < valid[0]
    assert set(pretrained.report["metrics"]) == {
        "train_loss",
        *(f"valid_clm_loss_prompts_{way}" for way in ("on", "off", "shuffled")),
        *(f"valid_clm_accuracy_prompts_{way}" for way in ("on", "off", "shuffled")),
    }
    text_of_figure = plot_pretraining_curves(pretrained).to_json()
    assert "PA-CLM loss" in text_of_figure
    assert "Next-token accuracy" in text_of_figure
    alone = stages.finetune_without_plm(
        **shared, pretrained=pretrained, stage=ClickStageParameters(**quick)
    )
    together = stages.finetune_with_plm(
        **shared,
        **text,
        pretrained=pretrained,
        stage=FinetuneWithPLMParameters(**quick, pooling="last", learning_rate_plm=1e-3),
    )
    for stage in (alone, together):
        report = json.loads((Path(stage.folder) / "report.json").read_text())
        assert 0 < report["metrics"]["test_auc"] < 1
    assert "mlm_head" not in pretrained.report["parameter_counts"], "it is the word embeddings"
