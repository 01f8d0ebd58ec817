"""The figures of a study."""

from __future__ import annotations

from clickprompt.studies.figures import plot_long_tail


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
