"""What the prompts do in a trained model, against slow twins; and how a stage keeps it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from clickprompt.evaluation.metrics import auc, log_loss
from clickprompt.parameters import (
    ClickStageParameters,
    FinetuneWithPLMParameters,
    PretrainParameters,
)
from clickprompt.plm import pool
from clickprompt.training import diagnostics, stage_run, stages
from clickprompt.training.diagnostics import (
    WAYS,
    diagnose,
    diagnostic_rows,
    prompt_attention,
    prompt_effect,
)
from tests.reference.prompt_mass import prompt_mass
from tests.training.test_objectives import MACHINE, clicks, pretraining
from tests.training.tiny_run import CTR, PROMPTS, training


@pytest.fixture
def model_and_objective(model_input, plm):
    """In float64, with prompts that differ from row to row."""
    model, objective = clicks(model_input, plm)
    with torch.no_grad():
        for parameter in (*model.ctr.parameters(), *model.generator.parameters()):
            parameter.mul_(3)
    return model.double(), objective


@pytest.mark.parametrize("rows_of_a_batch", [4, 128])
def test_attention_against_the_slow_twin(
    model_and_objective, model_input, monkeypatch, rows_of_a_batch
):
    """Means over tokens, heads and rows, of weights that are computed one row at a time."""
    monkeypatch.setattr(diagnostics, "ATTENTION_ROWS", rows_of_a_batch)
    model, _ = model_and_objective
    rows = diagnostic_rows(model_input, 10)
    found = prompt_attention(model, model_input, MACHINE, rows)

    names = [field["name"] for field in model_input.metadata["fields"]]
    weights = {name: tensor.numpy() for name, tensor in model.encoder.model.state_dict().items()}
    heads, count = model.encoder.heads, PROMPTS.count
    special = model_input.special_tokens
    tokens_of = {name: [] for name in (*names, "special")}  # (L, A, K) of each token
    alike_of = {name: [] for name in tokens_of}
    lengths = []
    for row in rows:
        text, field_of = [special["cls"]], ["special"]
        for name, piece in zip(names, model_input.pieces[row], strict=True):
            first, last = model_input.piece_offsets[piece : piece + 2]
            text += model_input.piece_tokens[first:last].tolist()
            field_of += [name] * int(last - first)
        text.append(special["sep"])
        field_of.append("special")
        lengths.append(len(text))
        with torch.no_grad():
            x_id_BF = torch.from_numpy(model_input.ids[row][None].copy())
            prompts = model.generator(model.ctr.representation(x_id_BF))
        mass_LNAK = prompt_mass(
            weights,
            np.array(text),
            heads=heads,
            keys=prompts.key_BLAKd[0].numpy(),
            values=prompts.value_BLAKd[0].numpy(),
        )
        for token, name in enumerate(field_of):
            tokens_of[name].append(mass_LNAK[:, token])
            alike_of[name].append(count / (count + len(text)))

    inside = np.array([token for name in names for token in tokens_of[name]])  # (T, L, A, K)
    alike = float(np.mean([value for name in names for value in alike_of[name]]))
    assert found["prompts"] == count
    assert found["mean_tokens"] == pytest.approx(np.mean(lengths))
    assert found["indifferent"] == pytest.approx(alike, rel=1e-9)
    assert found["share"] == pytest.approx(inside.sum(axis=3).mean(), rel=1e-9)
    assert [layer["layer"] for layer in found["layers"]] == list(range(1, model.encoder.layers + 1))
    for number, layer in enumerate(found["layers"]):
        assert layer["share"] == pytest.approx(inside[:, number].sum(axis=2).mean(), rel=1e-9)
        assert layer["indifferent"] == pytest.approx(alike, rel=1e-9)
        assert list(layer["by_field"]) == names
        for name, own in {**layer["by_field"], "special": layer["special_tokens"]}.items():
            expected = np.mean([token[number].sum(axis=1).mean() for token in tokens_of[name]])
            assert own["share"] == pytest.approx(expected, rel=1e-9), name
            assert own["indifferent"] == pytest.approx(np.mean(alike_of[name]), rel=1e-9), name
        table_AK = inside[:, number].mean(axis=0)
        np.testing.assert_allclose(layer["by_head_and_prompt"], table_AK, rtol=1e-9)
        np.testing.assert_allclose(layer["by_head"], table_AK.sum(axis=1), rtol=1e-9)
        np.testing.assert_allclose(layer["by_prompt"], table_AK.mean(axis=0), rtol=1e-9)
    json.dumps(found)


def test_the_rows_are_valid_rows_and_always_the_same(model_input):
    part = model_input.rows("valid")
    some, all_rows = diagnostic_rows(model_input, 20), diagnostic_rows(model_input, 10_000)
    assert sorted(all_rows) == list(range(part.start, part.stop))
    assert some.tolist() == all_rows[:20].tolist()
    assert sorted(some) != list(some)


def test_effect_against_the_model_taken_apart(model_and_objective, model_input):
    """Each way written out: no prompts, those of the row, those of the row half a batch away."""
    model, objective = model_and_objective
    rows = diagnostic_rows(model_input, 60)
    found = prompt_effect(model, objective, model_input, MACHINE, rows, size=40)
    logits = {way: [] for way in WAYS}
    labels = []
    lengths = model_input.text_lengths()
    with torch.no_grad():
        for part in (rows[:40], rows[40:]):
            part = part[np.argsort(lengths[part], kind="stable")]
            labels.extend(model_input.labels[part])
            batch = objective.prepare(part)
            x_id_BF = torch.from_numpy(batch.x_id_BF)
            token_ids_BN = torch.from_numpy(batch.token_ids_BN)
            mask_BN = (
                torch.arange(token_ids_BN.shape[1]) < torch.from_numpy(batch.length_B)[:, None]
            )
            half = len(part) // 2
            other = torch.cat(
                (torch.arange(len(part) - half, len(part)), torch.arange(len(part) - half))
            )
            of_clicks = model.ctr(x_id_BF)
            for way, written in (
                ("off", None),
                ("on", model.generator(model.ctr.representation(x_id_BF))),
                ("shuffled", model.generator(model.ctr.representation(x_id_BF[other]))),
            ):
                pooled = pool(model.encoder(token_ids_BN, mask_BN, written), mask_BN, "mean")
                of_text = model.click_head(pooled)
                logits[way].extend((model.alpha * of_clicks + (1 - model.alpha) * of_text).tolist())
    for way in WAYS:
        probability = 1 / (1 + np.exp(-np.array(logits[way])))
        # The CTR model's logit goes through float32 in the model.
        assert found[f"valid_auc_prompts_{way}"] == pytest.approx(
            auc(labels, probability), abs=2e-3
        )
        expected = log_loss(labels, probability)
        assert found[f"valid_log_loss_prompts_{way}"] == pytest.approx(expected, rel=1e-6)
    assert len({round(found[f"valid_log_loss_prompts_{way}"], 7) for way in WAYS}) == 3


def test_prompts_that_no_row_decides_can_be_shuffled(model_and_objective, model_input):
    model, objective = model_and_objective
    torch.nn.init.zeros_(model.generator.second.weight)
    rows = diagnostic_rows(model_input, 40)
    found = prompt_effect(model, objective, model_input, MACHINE, rows, size=40)
    assert found["valid_log_loss_prompts_shuffled"] == found["valid_log_loss_prompts_on"]
    torch.nn.init.ones_(model.generator.second.bias)
    found = prompt_effect(model, objective, model_input, MACHINE, rows, size=40)
    assert found["valid_log_loss_prompts_off"] != found["valid_log_loss_prompts_on"]


def test_an_auc_of_one_class_is_undefined(model_and_objective, model_input):
    model, objective = model_and_objective
    rows = diagnostic_rows(model_input, 40)
    rows = rows[model_input.labels[rows] == 1]
    found = prompt_effect(model, objective, model_input, MACHINE, rows, size=40)
    assert found["valid_auc_prompts_on"] is None
    assert found["valid_log_loss_prompts_on"] > 0


def test_there_is_nothing_to_say_without_prompts_or_rows(model_input, plm):
    model, objective = pretraining(model_input, plm)
    shared = {
        "name": "pretrain",
        "objective": objective,
        "model_input": model_input,
        "machine": MACHINE,
    }
    some = training(Path("unused"), diagnostic_rows=8)
    found = diagnose(**shared, model=model, training=some)
    assert set(found) == {"rows", "attention"}
    assert found["rows"] == 8
    none = some.model_copy(update={"diagnostic_rows": None})
    assert diagnose(**shared, model=model, training=none) is None
    alone = stages.CTRForClicks(ctr=model.ctr)
    assert diagnose(**shared, model=alone, training=some) is None


@pytest.fixture(scope="module")
def pretrained(model_input, plm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return pretrain(model_input, plm, folder)


def pretrain(model_input, plm, folder, **changes):
    return stages.pretrain(
        model_input=model_input,
        ctr=CTR,
        plm=plm,
        prompts=PROMPTS,
        stage=PretrainParameters(epochs=1, batch_size=64),
        training=training(folder, **changes),
        seed=0,
    )


@pytest.fixture
def finetune(model_input, plm, pretrained):
    def run(folder, **changes):
        return stages.finetune_with_plm(
            model_input=model_input,
            pretrained=pretrained,
            ctr=CTR,
            plm=plm,
            prompts=PROMPTS,
            stage=FinetuneWithPLMParameters(epochs=2, batch_size=32),
            training=training(folder, **changes),
            seed=0,
        )

    return run


def test_a_stage_reports_what_its_best_weights_do(model_input, pretrained, finetune, tmp_path):
    trained = finetune(tmp_path)
    for stage in (pretrained, trained):
        assert json.loads((Path(stage.folder) / "report.json").read_text()) == stage.report
        assert stage.report["diagnostics"]["rows"] == len(diagnostic_rows(model_input, 10_000))
        assert 0 < stage.report["diagnostics"]["attention"]["share"] < 1
    assert "effect" not in pretrained.report["diagnostics"]
    effect, metrics = trained.report["diagnostics"]["effect"], trained.report["metrics"]
    # All valid rows were looked at, so with prompts it is what the stage measured.
    assert effect["valid_auc_prompts_on"] == pytest.approx(metrics["valid_auc"], abs=1e-3)
    assert effect["valid_log_loss_prompts_on"] == pytest.approx(metrics["valid_log_loss"], rel=1e-5)


def test_without_rows_nothing_is_looked_at(model_input, plm, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "prompt_attention", lambda *_: pytest.fail("looked at"))
    trained = pretrain(model_input, plm, tmp_path, diagnostic_rows=None)
    assert trained.report["diagnostics"] is None
    backbone = stages.train_backbone(
        model_input=model_input,
        ctr=CTR,
        stage=ClickStageParameters(epochs=1, batch_size=64),
        training=training(tmp_path),
        seed=0,
    )
    assert backbone.report["diagnostics"] is None


def test_a_finished_stage_is_looked_at_later_as_if_it_had_been_at_once(
    finetune, tmp_path, monkeypatch
):
    straight = finetune(tmp_path / "straight", diagnostic_rows=30)
    before = finetune(tmp_path / "later", diagnostic_rows=None, test=False)
    assert before.report["diagnostics"] is None
    assert before.digest == straight.digest
    weights = before.weights_path.read_bytes()
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained again"))
    later = finetune(tmp_path / "later", diagnostic_rows=30)
    assert later.report["diagnostics"] == straight.report["diagnostics"]
    assert later.report["metrics"] == straight.report["metrics"]
    assert json.loads((Path(later.folder) / "report.json").read_text()) == later.report
    assert later.weights_path.read_bytes() == weights
    pd.testing.assert_frame_equal(
        pd.read_parquet(later.predictions_path), pd.read_parquet(straight.predictions_path)
    )
    more = finetune(tmp_path / "later", diagnostic_rows=31, test=False)
    assert more.report["diagnostics"]["rows"] == 31
    assert "test_auc" not in more.report["metrics"]
    assert "test_auc" in json.loads((Path(more.folder) / "report.json").read_text())["metrics"]
    monkeypatch.setattr(stage_run, "diagnose", lambda **_: pytest.fail("looked at again"))
    assert finetune(tmp_path / "later", diagnostic_rows=31, test=False) == more
    assert finetune(tmp_path / "later", diagnostic_rows=None, test=False) == more


def test_labels_are_not_read_by_the_attention(model_and_objective, model_input):
    model, _ = model_and_objective
    rows = diagnostic_rows(model_input, 20)
    other = dataclasses.replace(model_input, labels=1 - model_input.labels)
    assert prompt_attention(model, other, MACHINE, rows) == prompt_attention(
        model, model_input, MACHINE, rows
    )
