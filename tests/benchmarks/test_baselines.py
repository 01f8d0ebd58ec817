"""The comparison of the baselines: equal effort, waves without collisions, what the page says."""

from __future__ import annotations

import json

import pytest

from benchmarks import baselines
from benchmarks.baselines import MODELS, SETTINGS, Job, waves
from benchmarks.report_baselines import baselines_section
from benchmarks.results import FOLDER

TRIALS = [Job(model, number, 0) for model in MODELS for number in range(len(SETTINGS[model]))]
SEEDS = [Job(model, 0, seed) for model in MODELS for seed in range(5)]


def test_every_model_has_as_many_settings():
    assert {len(settings) for settings in SETTINGS.values()} == {6}


@pytest.mark.parametrize("jobs", [TRIALS, SEEDS])
def test_the_waves_hold_every_job_once(jobs):
    planned = [job for wave in waves(jobs) for job in wave]
    assert sorted(planned) == sorted(jobs)


@pytest.mark.parametrize("jobs", [TRIALS, SEEDS])
def test_no_two_jobs_of_a_wave_train_the_same_pretraining(jobs):
    trained: set[object] = set()
    for wave in waves(jobs):
        needed = [
            baselines._starts_from(job) for job in wave if job.model != "clickprompt_distilled"
        ]
        new = [shared for shared in needed if shared not in trained]
        assert len(new) == len(set(new))
        trained.update(new)


def test_a_teacher_is_trained_once_and_beside_no_other_with_the_plm():
    planned = waves(TRIALS)
    distilled = [number for number, wave in enumerate(planned) for job in wave
                 if job.model == "clickprompt_distilled"]  # fmt: skip
    others = [number for number, wave in enumerate(planned) for job in wave
              if job.model == "clickprompt_with_plm"]  # fmt: skip
    assert distilled.count(min(distilled)) == 1
    assert min(distilled) > max(others)


def known(**changes):
    rows = [
        {"model": m, "seed": s, "plm": None, "auc": auc, "log_loss": loss}
        for m, auc, loss in (("backbone", 0.8, 0.4), ("ptab", 0.7, 0.7))
        for s in range(2)
    ]
    return {
        "machine": "a machine",
        "date": "2026-01-01",
        "constant_log_loss": 0.6,
        "trained_on": "a GPU",
        "settings": {"backbone": 6, "ptab": 6},
        "results": rows,
        "summary": [
            {"model": m, "plm": None, "parameters": 1000, "seeds": 2, "auc": auc,
             "auc_deviation": 0.001, "log_loss": loss, "log_loss_deviation": 0.002}
            for m, auc, loss in (("backbone", 0.8, 0.4), ("ptab", 0.7, 0.7))
        ],
        "tests": [],
        "tuning": [],
        "chosen": {},
        "cost": {"backbone": {"seconds": 12.0, "scored_rows_per_second": 3456.0}},
    } | changes  # fmt: skip


def test_the_page_has_the_best_first_and_leaves_out_what_was_not_measured():
    lines = baselines_section(known()).splitlines()
    table = [line for line in lines if line.startswith(("| backbone", "| PTab"))]
    assert table == [
        "| backbone (DCNv2) | 2 | 0.8000 ± 0.0010 | 0.4000 ± 0.0020 | 12 | 3,456 | 1,000 |",
        "| PTab | 2 | 0.7000 ± 0.0010 | 0.7000 ± 0.0020 |  |  | 1,000 |",
    ]


def test_the_page_names_what_is_worse_than_a_constant():
    assert "worse than that: PTab." in baselines_section(known())
    assert "no model is worse." in baselines_section(known(constant_log_loss=0.8))


def test_the_stored_comparison_is_complete_and_above_the_constant():
    stored = json.loads((FOLDER / "baselines.json").read_text(encoding="utf-8"))
    assert {row["model"] for row in stored["summary"]} == set(MODELS)
    assert all(row["seeds"] == 5 for row in stored["summary"])
    assert all(row["log_loss"] < stored["constant_log_loss"] for row in stored["summary"])
    for model in MODELS:
        own = [trial for trial in stored["tuning"] if trial["model"] == model]
        best = max(own, key=lambda trial: trial["valid_auc"])
        assert best["changes"] == stored["chosen"][model]
        assert [trial["changes"] for trial in own] == SETTINGS[model]
