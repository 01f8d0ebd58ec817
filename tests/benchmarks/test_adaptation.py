"""The benchmark of cheaper adaptation on a tiny language model, and its section of the page."""

from __future__ import annotations

import json
import math
import sys
from statistics import fmean

import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks import adaptation, results
from benchmarks.measured import Measured
from benchmarks.report_adaptation import NAMES, adaptation_section
from clickprompt.synthetic import write_synthetic_ratings
from tests.end_to_end.project import write_tiny_encoder

HIDDEN, INNER, LAYERS = 32, 64, 2
LAYER = 4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER + 4 * HIDDEN + INNER + HIDDEN + 4 * HIDDEN


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptation")
    raw = write_synthetic_ratings(folder / "raw", users=40, movies=60, ratings=900)
    write_tiny_encoder(folder / "plm")
    config = BertConfig.from_pretrained(folder / "plm")
    config.num_hidden_layers = LAYERS
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder / "plm")
    changes = {
        "ctr": {"embedding_size": 4, "hidden_sizes": [8], "cross_layers": 1},
        "plm": {"source": str(folder / "plm"), "keep_layers": None},
        "prompts": {"count": 2},
        "backbone": {"epochs": 1},
        "finetune": {"without_plm": {"epochs": 1}},
        "training": {"precision": "float32", "device": "cpu", "threads": 1},
    }

    def measured_here(command, **_):
        assert command[1:4] == ["-m", "benchmarks.adaptation", "--measure"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command[2:])
            printed = []
            patch.setattr("builtins.print", lambda text: printed.append(text))
            adaptation.main()
        return Measured(json.loads(printed[-1].splitlines()[-1]), 0)

    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "FOLDER", folder / "results")
        patch.setattr(results, "machine_line", lambda: "a machine")
        patch.setattr(adaptation, "embedded_files", lambda: raw.files)
        patch.setattr(adaptation, "run_measured", measured_here)
        found = adaptation.run(users=30, seconds=0.0, work=folder / "work", changes=changes)
        path = results.write_result("adaptation", found)
        yield json.loads(path.read_text())
    torch.set_num_threads(threads)


def cost(result, variant, stage="pretrain"):
    (found,) = (c for c in result["costs"] if (c["variant"], c["stage"]) == (variant, stage))
    return found


@pytest.mark.parametrize("stage", adaptation.STAGES)
def test_trained_numbers_follow_from_the_sizes(result, stage):
    full = cost(result, "full", stage)
    assert full["layers"] == LAYERS
    for variant, expected in (
        ("frozen", 0),
        ("lower_half_frozen", LAYER),
        ("lora", LAYERS * 2 * 2 * 8 * HIDDEN),  # query and value, A and B
        ("gradient_checkpointing", full["trained_plm"]),
        ("bottleneck", full["trained_plm"]),
    ):
        assert cost(result, variant, stage)["trained_plm"] == expected, variant
        if variant != "bottleneck":
            others = cost(result, variant, stage)["trained"] - expected
            assert others == full["trained"] - full["trained_plm"]
    # The bottleneck is as wide as the tiny PLM, so it saves nothing here.
    assert cost(result, "bottleneck", stage)["trained"] == full["trained"]


def test_the_state_of_adam_is_two_numbers_for_each_trained_one(result):
    for found in result["costs"]:
        numbers = found["trained"]
        assert 8 * numbers <= found["optimizer_bytes"] <= 8 * numbers + 4 * 200
        assert found["samples_per_second"] > 0
        assert found["steps"] == 1


def test_every_way_is_trained_and_judged_once(result):
    assert [entry["variant"] for entry in result["quality"]] == list(adaptation.VARIANTS)
    for entry in result["quality"]:
        assert 0 < entry["with_plm"]["auc"] < 1
        assert math.isfinite(entry["mlm_loss"])
    full, saving = (
        next(e for e in result["quality"] if e["variant"] == name)
        for name in ("full", "gradient_checkpointing")
    )
    assert {**full, "variant": ""} == {**saving, "variant": ""}
    assert sum(result["rows"]) < 900, "the last ten users must be left out"


def test_the_section_shows_these_numbers(result):
    text = adaptation_section(result)
    for variant, name in NAMES.items():
        lines = [line for line in text.splitlines() if line.startswith(f"| {name} |")]
        assert len(lines) == 3
        own = [e for e in result["quality"] if e["variant"] == variant]
        assert f"{fmean(e['with_plm']['auc'] for e in own):.4f}" in lines[2]
        assert f"{cost(result, variant)['trained_plm']:,}" in lines[0]
    assert "--users 30" in text
    assert "1 seed." in text


def test_variants_change_one_thing_each():
    def differences(variant):
        base, own = adaptation.changes_of("full", 6), adaptation.changes_of(variant, 6)
        return {key for key in own if own.get(key) != base.get(key)}

    assert differences("frozen") == {"pretrain", "finetune"}
    assert differences("lower_half_frozen") == {"plm"}
    assert adaptation.changes_of("lower_half_frozen", 6)["plm"] == {"freeze_layers": 3}
    assert differences("lora") == {"plm", "pretrain", "finetune"}
    assert differences("gradient_checkpointing") == {"plm"}
    assert differences("bottleneck") == {"prompts"}
