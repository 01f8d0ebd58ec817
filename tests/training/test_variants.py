"""Layouts and ablations of knowledge fusion, from pretraining to both finetunings."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from clickprompt.parameters import (
    ClickStageParameters,
    FinetuneWithPLMParameters,
    PretrainParameters,
    PromptParameters,
)
from clickprompt.pipelines.curves import plot_pretraining_curves
from clickprompt.training import parts, stage_run, stages
from clickprompt.training.inputs import check_texts
from clickprompt.training.result import TrainedModel
from tests.training.tiny_run import CTR, training

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 64}
VARIANTS = {
    "full": ("key_value", 1),
    "without prompts": ("none", 1),
    "without pretraining": ("key_value", 0),
    "without prompts and pretraining": ("none", 0),
}


class Run(NamedTuple):
    pretrained: TrainedModel
    alone: TrainedModel
    together: TrainedModel
    log: str


@pytest.fixture
def run(model_input, plm, tmp_path, caplog):
    def go(layout: str, epochs: int = 1, **changes: Any) -> Run:
        text = {"plm": plm, "prompts": PromptParameters(count=2, layout=layout)}
        text |= changes.pop("text", {})
        shared = {
            "model_input": model_input,
            "ctr": CTR,
            "training": training(tmp_path),
            "seed": 3,
        }
        pretraining = PretrainParameters(**QUICK | {"epochs": epochs} | changes.pop("pretrain", {}))
        with caplog.at_level(logging.INFO):
            pretrained = stages.pretrain(**shared, **text, stage=pretraining)
            shared["pretrained"] = pretrained
            alone = stages.finetune_without_plm(**shared, stage=ClickStageParameters(**QUICK))
            stage = FinetuneWithPLMParameters(**QUICK | changes)
            together = stages.finetune_with_plm(**shared, **text, stage=stage)
        return Run(pretrained, alone, together, caplog.text)

    return go


def initial(model_input, plm, prompts: PromptParameters) -> dict[str, torch.Tensor]:
    """Weights before any training, put together apart from the stages' own path."""
    ctr = parts.fresh_ctr(CTR, model_input, 3)
    encoder = parts.load_encoder(plm)
    generator = parts.fresh_generator(ctr, encoder, prompts, 3)
    made = {"ctr": ctr, "encoder": encoder} | ({"generator": generator} if generator else {})
    return {
        f"{part}.{name}": tensor
        for part, module in made.items()
        for name, tensor in module.state_dict().items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_runs_and_is_named(run, model_input, plm, variant):
    layout, epochs = VARIANTS[variant]
    pretrained, alone, together, log = run(layout, epochs)
    for trained in (pretrained, alone, together):
        assert trained.report["variant"] == variant
        report = json.loads((Path(trained.folder) / "report.json").read_text())
        assert report == trained.report
    for trained in (alone, together):
        table = pd.read_parquet(trained.predictions_path)
        assert table["probability"].between(0, 1).all()
        assert len(trained.report["history"]) == 1
    untrained = "finetune_without_plm starts from an untrained CTR model"
    assert (untrained in log) == (variant != "full")
    if variant != "full":
        assert f"the variant is '{variant}'" in log

    weights = load_file(pretrained.weights_path)
    start = initial(model_input, plm, PromptParameters(count=2, layout=layout))
    moved = {
        part: not all(
            torch.equal(weights[name], tensor)
            for name, tensor in start.items()
            if name.startswith(part)
        )
        for part in ("ctr", "generator", "encoder")
    }
    prompted, pretrains = layout != "none", epochs > 0
    assert moved == {
        "ctr": prompted and pretrains,
        "generator": prompted and pretrains,
        "encoder": pretrains,
    }
    assert any(name.startswith("generator.") for name in weights) == prompted
    together_names = load_file(together.weights_path).keys()
    assert any(name.startswith("generator.") for name in together_names) == prompted


def test_the_variants_differ_in_what_they_learn(run):
    found = {variant: run(*VARIANTS[variant]) for variant in VARIANTS}
    for name in ("alone", "together"):
        scores = [getattr(r, name).report["history"][0]["train_loss"] for r in found.values()]
        # Without the PLM all three ablations start from the same untrained CTR model.
        assert len(set(scores)) == (2 if name == "alone" else 4)
    digests = {r.together.digest for r in found.values()}
    assert len(digests) == 4


def test_no_epoch_of_pretraining_measures_valid_once_and_is_up_to_date(run, monkeypatch):
    first = run("key_value", 0)
    report = first.pretrained.report
    assert (report["history"], report["best_epoch"]) == ([], 0)
    assert report["metrics"].keys() == {
        f"valid_mlm_{what}_prompts_{way}"
        for what in ("loss", "accuracy")
        for way in ("on", "off", "shuffled")
    }
    assert set(report["parameter_counts"]) == {"ctr", "generator", "encoder", "mlm_head"}
    assert not list(Path(first.pretrained.folder).parent.glob("checkpoint"))
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained"))
    assert run("key_value", 0).pretrained == first.pretrained


def test_without_prompts_only_off_is_measured(run):
    report = run("none").pretrained.report
    assert set(report["metrics"]) == {
        "train_loss", "valid_mlm_loss_prompts_off", "valid_mlm_accuracy_prompts_off",
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_curves_show_what_was_measured(run, variant):
    layout, epochs = VARIANTS[variant]
    figure = plot_pretraining_curves(run(layout, epochs).pretrained)
    ways = ["off"] if layout == "none" else ["on", "off", "shuffled"]
    names = [trace.name for trace in figure.data]
    assert names == [
        *(["train loss"] if epochs else []),
        *(f"valid mlm loss prompts {way}" for way in ways),
        *(f"valid mlm accuracy prompts {way}" for way in ways),
    ]
    assert all(list(trace.x) == [epochs] for trace in figure.data)


@pytest.mark.parametrize(
    ("layout", "pooled"), [("hidden_state", False), ("input_only", False), ("input_only", True)]
)
def test_other_layouts_are_trained_from_end_to_end(run, model_input, plm, layout, pooled):
    trained = run(layout, pool_prompts=pooled, pooling="avg_first_last", learning_rate_plm=1e-3)
    assert trained.pretrained.report["variant"] == "full"
    metrics = trained.pretrained.report["metrics"]
    assert metrics["valid_mlm_loss_prompts_on"] != metrics["valid_mlm_loss_prompts_off"]
    start = initial(model_input, plm, PromptParameters(count=2, layout=layout))
    before = load_file(trained.pretrained.weights_path)
    after = load_file(trained.together.weights_path)
    for name, tensor in start.items():
        head = name.startswith("ctr.head.")
        assert torch.equal(before[name], tensor) == head, name
        if not head:
            assert not torch.equal(before[name], after[name]), name


def test_pooling_over_the_prompts_is_another_model(run):
    text, both = (run("input_only", pool_prompts=pooled).together for pooled in (False, True))
    assert text.digest != both.digest
    assert text.report["history"][0]["valid_auc"] != both.report["history"][0]["valid_auc"]


def test_rows_of_valid_are_warned_of(run):
    seen = run("key_value", pretrain={"rows": "train_and_valid"})
    assert "valid, which measures seen rows" in seen.log
    assert "pretrain: 630 rows" in seen.log
    assert seen.pretrained.digest != run("key_value").pretrained.digest


def test_rows_of_valid_are_not_warned_of_without_them(run):
    assert "seen rows" not in run("key_value").log


def test_weights_of_another_layout_are_an_error(run, model_input, plm, tmp_path):
    pretrained = run("hidden_state").pretrained
    with pytest.raises(ValueError, match="must fit the configured generator"):
        stages.finetune_with_plm(
            model_input=model_input,
            pretrained=pretrained,
            ctr=CTR,
            plm=plm,
            prompts=PromptParameters(count=2),
            stage=FinetuneWithPLMParameters(**QUICK),
            training=training(tmp_path),
            seed=3,
        )


def test_texts_that_leave_no_room_for_prompts_are_an_error_before_training(
    model_input, plm, run, monkeypatch
):
    encoder = parts.load_encoder(plm)
    longest = int(model_input.text_lengths().max())
    room = encoder.position_limit - longest
    check_texts(model_input, encoder, before=room)
    message = rf"at most {longest - 1} tokens \(the PLM's 64 positions, less {room + 1} prompts\)"
    with pytest.raises(ValueError, match=rf"{message}, got {longest}: plm.max_tokens:"):
        check_texts(model_input, encoder, before=room + 1)
    shifted = plm.model_copy(update={"position_offset": room})
    check_texts(model_input, parts.load_encoder(shifted), before=0)
    monkeypatch.setattr(stage_run, "fit", lambda **_: pytest.fail("trained"))
    prompts = PromptParameters(count=2, layout="input_only")
    with pytest.raises(ValueError, match=rf"positions, less an offset of {room} and 2 prompts\)"):
        run("input_only", text={"plm": shifted, "prompts": prompts})
