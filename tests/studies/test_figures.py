"""The figures of a study."""

from __future__ import annotations

import pytest

from clickprompt.studies.figures import plot_long_tail, plot_plm_size


def test_more_models_than_colours_look_different_in_the_long_tail():
    models = [f"model {number}" for number in range(20)]
    entries = [
        {
            "labels": {"model": name},
            "user": "tail",
            "item": item,
            "rows": 100,
            "auc_difference": 0.01,
            "auc_low": None,
            "auc_high": None,
        }
        for name in models
        for item in ("tail", "non-tail")
    ]
    bars = plot_long_tail({"long_tail": entries}).data
    assert [bar.name for bar in bars] == models
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in bars}) == 20


def row(plm, parameters, improvements, model="with"):
    return {
        "labels": {"plm": plm, "model": model},
        "plm_parameters": parameters,
        "auc_improvements": improvements,
    }


def test_sizes_of_the_language_model_are_compared_on_the_same_seeds():
    rows = [
        row("large", 4_000_000, {"0": 0.02, "2": 0.04}),
        row("small", 2_000_000, {"0": 0.01, "1": 0.09, "2": 0.02}),
        row("small", 2_000_000, {"1": 0.05}, model="without"),
        row("large", 4_000_000, {}, model="without"),
        {"labels": {"plm": "–", "model": "backbone"}, "plm_parameters": None},
    ]
    with_plm, without = plot_plm_size({"rows": rows}).data
    assert with_plm.name == "with (2 seeds)"
    assert list(with_plm.text) == ["small", "large"]
    assert list(with_plm.x) == [2, 4]
    assert list(with_plm.y) == pytest.approx([1.5, 3])
    assert (without.name, list(without.y)) == ("without (1 seed)", [5])


def test_sizes_without_a_seed_in_common_are_not_drawn():
    rows = [row("small", 2_000_000, {"0": 0.01}), row("large", 4_000_000, {"1": 0.02})]
    assert not plot_plm_size({"rows": rows}).data
