"""ClickPrompt's settings for other CTR models: all tried, the best of each on valid chosen."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks import study_settings
from benchmarks.baselines import SETTINGS


def test_each_ctr_model_gets_its_own_best_of_the_same_settings(monkeypatch):
    asked = []

    def train(model, changes, seed, machine):
        asked.append((model, seed, changes["ctr.name"], machine["training.test"]))
        setting = {key: value for key, value in changes.items() if key != "ctr.name"}
        number = SETTINGS[model].index(setting)
        wanted = {"autoint": 1, "dnn": 4}[changes["ctr.name"]]
        return {"metrics": {"valid_auc": 0.9 - 0.01 * abs(number - wanted)}}

    monkeypatch.setattr(study_settings, "train", train)
    monkeypatch.setattr(study_settings, "workers", ThreadPoolExecutor)
    trials = study_settings.choose(processes=2)
    assert len(asked) == len(set(asked)) * 6 == 24
    assert {(seed, test) for _, seed, _, test in asked} == {(0, False)}
    assert study_settings.best_settings(trials) == {
        model: {"autoint": SETTINGS[model][1], "dnn": SETTINGS[model][4]}
        for model in ("clickprompt_without_plm", "clickprompt_with_plm")
    }
    first = [trial["changes"] for trial in trials[:2]]
    assert [changes["ctr.name"] for changes in first] == ["autoint", "dnn"]
