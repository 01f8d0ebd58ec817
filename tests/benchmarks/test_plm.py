"""The benchmarks of the language model compute what they say, and their page shows it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import accuracy_per_minute as apm
from benchmarks import plm_cost, plm_speed, plm_steps, report_plm
from benchmarks.figures import lines_svg


def entry(cell: apm.Cell, auc: float) -> dict[str, object]:
    metrics = {name: auc if name.endswith("auc") else 1 - auc for name in apm.METRICS}
    return {**vars(cell), **metrics, "device": "cpu"}


CELLS = [
    entry(apm.Cell(seed, layers, 5 if layers else 0, epochs if layers else 0), auc + 0.001 * seed)
    for seed in (0, 1)
    for layers, epochs, auc in ((0, 0, 0.80), (2, 1, 0.81), (2, 2, 0.82), (6, 1, 0.83))
]
RATES = [
    {"layers": 2, "prompts": 5, "samples_per_second": 100.0},
    {"layers": 6, "prompts": 5, "samples_per_second": 25.0},
]


def test_every_cell_is_there_once_and_whole_seeds_come_first():
    found = list(apm.cells((2, 4), (1, 5), (1, 2), 2))
    assert len(found) == len(set(found)) == 2 * (1 + 2 * 2 * 2)
    assert [cell.seed for cell in found] == sorted(cell.seed for cell in found)
    assert found[0] == apm.Cell(0)
    assert found[1].epochs == 2
    assert found[1].layers == 4


def test_minutes_are_steps_at_the_measured_rate():
    lines = {(r["layers"], r["epochs"]): r for r in apm.summarise(CELLS, RATES, rows=6000)}
    assert [lines[key]["minutes"] for key in ((0, 0), (2, 1), (2, 2), (6, 1))] == [0, 1, 2, 4]
    assert lines[2, 1]["test_auc"] == pytest.approx(0.8105)
    assert lines[2, 1]["test_auc_deviation"] == pytest.approx(0.001 / 2**0.5)
    assert lines[2, 1]["seeds"] == 2


def test_the_page_shows_gains_against_the_backbone():
    result = {
        "machine": "M", "date": "2026-01-01", "cells": CELLS,
        "summary": apm.summarise(CELLS, RATES, rows=6000),
    }  # fmt: skip
    page = report_plm.accuracy_per_minute_section(result)
    assert "| 2 | 1 | 1 | 1.0 | +0.0100 |" in page
    assert "| 6 | 1 | 1 | 4.0 | +0.0300 |" in page
    assert "trained on a GPU" not in page
    figure = report_plm.accuracy_per_minute_figure(result)
    assert figure.count("<g ") == 2
    assert figure.count("<circle") == 3 + 2  # the backbone starts each line


def test_linear_axes_hold_their_points():
    figure = lines_svg({"a": {"x": [(0.0, 0.881), (3.0, 0.893)]}}, "minutes", "AUC")
    assert ">0.885<" in figure
    with pytest.raises(ValueError, match="panels must have points, got none"):
        lines_svg({"a": {}}, "minutes", "AUC")


def test_steps_are_taken_in_turns():
    seen: list[str] = []
    ours, theirs = plm_speed.take_turns(
        lambda n: seen.append(f"o{n}"), lambda n: seen.append(f"t{n}"), 2
    )
    assert (len(ours), len(theirs)) == (2 * plm_speed.OUR_STEPS, 2)
    assert seen[:5] == ["o0", "o1", "o2", "t0", "t0"]
    assert seen[5] == "o3"
    assert seen[5 + plm_speed.OUR_STEPS] == "t1"


class Rows:
    """A model input with given lengths."""

    active_tokens = range(50)

    def __init__(self, lengths: list[int]) -> None:
        self._lengths = np.array(lengths)

    def text_lengths(self) -> np.ndarray:
        return self._lengths

    def rows(self, split: str) -> slice:
        return slice(0, len(self._lengths))


def test_useful_arithmetic_of_scoring_is_that_of_the_matrix_products():
    """Counted product by product for two rows of 3 and 5 tokens."""
    from types import SimpleNamespace

    from torch import nn

    h, inner, layers, prompts = 8, 16, 2, 3
    config = SimpleNamespace(intermediate_size=inner)
    encoder = SimpleNamespace(hidden_size=h, layers=layers, model=SimpleNamespace(config=config))
    model = SimpleNamespace(encoder=encoder, ctr=nn.Linear(4, 6), generator=nn.Linear(6, 7))
    parameters = SimpleNamespace(prompts=SimpleNamespace(count=prompts))
    found = plm_steps.useful_flops_of_scoring(parameters, Rows([3, 5]), np.array([0, 1]), model)
    expected = 0
    for tokens in (3, 5):
        layer = 4 * tokens * h * h  # query, key, value, output
        layer += 2 * tokens * h * inner
        layer += 2 * tokens * (tokens + prompts) * h  # scores and values
        expected += layers * layer + h * h + 4 * 6 + 6 * 7
    assert found == 2 * expected


def test_bands_hold_rows_of_their_length():
    lengths = list(range(10, 110)) * 40
    bands = list(plm_cost._bands(Rows(lengths), 16))
    means = [tokens for tokens, _ in bands]
    assert means == sorted(means)
    assert means[0] < 20
    assert means[-1] > 99
    assert all(len(rows) == 16 for _, batches in bands for rows in batches)


def test_the_tables_of_speed_and_cost_name_every_cell():
    pretraining = {
        "layers": 6, "dropout": "none", "our_samples_per_second": 100.0,
        "reference_samples_per_second": 5.0, "ratio": 20.0, "useful_gflops": 300.0,
        "share_of_matmul_rate": 0.7, "same_loss_relative_difference": 1e-15,
    }  # fmt: skip
    clicks = {
        "layers": 6, "finetuning_our_samples_per_second": 50.0,
        "finetuning_reference_samples_per_second": 5.0, "finetuning_ratio": 10.0,
        "finetuning_frozen_samples_per_second": 80.0, "scoring_our_samples_per_second": 150.0,
        "scoring_reference_samples_per_second": 15.0, "scoring_ratio": 10.0,
        "scoring_to_finetuning": 3.0, "scoring_share_of_matmul_rate": 0.6,
        "same_logits_difference": 1e-8,
    }  # fmt: skip
    shared = {"machine": "M", "date": "2026-01-01"}
    page = report_plm.speed_section(
        {
            **shared, "batch": 256, "precision": "bf16", "mean_tokens": 31.0, "longest_tokens": 77,
            "active_vocabulary": 7791, "vocabulary": 30522,
            "matmul_gflops": {"float32": 200.0, "bf16": 430.0},
            "pretraining": [pretraining], "clicks": [clicks],
        }
    )  # fmt: skip
    assert "| 6 layers | 0 | 100 | 5 | 20 | 300 | 70% |" in page
    assert "| 6 layers, finetuning, frozen PLM | 80 |  |  |" in page
    assert "scoring is 3 times as quick" in page
    cell = {
        "batch": 256, "layers": 6, "prompts": 5, "parameters": 20_000_000, "memory_mb": 1500,
        "step_seconds": 1.0, "samples_per_second": 256.0,
    }  # fmt: skip
    page = report_plm.cost_section(
        {
            **shared, "steps": 14, "cells": [cell],
            "bands": [{"tokens": 25.0, "step_seconds": 0.8}],
            "padding_waste": {"linear_layers": 0.01, "attention": 0.04, "rectangles": 1.2},
        }
    )  # fmt: skip
    assert "| 256 | 6 | 5 | 20.0 M | 1,500 | 1.000 | 256 |" in page
    assert "rectangles as wide as the longest text of a batch would have 120%" in page
    assert json.dumps(page)
