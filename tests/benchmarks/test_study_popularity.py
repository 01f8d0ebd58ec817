"""AUC by how often an item is in train, against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from benchmarks.study_popularity import PAIRS, by_popularity


def test_groups_and_differences_are_those_of_pandas_and_scipy():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 900)
    train_rows = random.choice([0, 1, 4, 5, 19, 20, 79, 80, 500], 900)
    predictions = {
        model: np.clip(random.random((5, 900)) * 0.8 + labels * shift, 0, 1)
        for model, shift in (("backbone", 0.1), ("without PLM", 0.2), ("with PLM", 0.15))
    }
    found = by_popularity(labels, train_rows, predictions)
    of_row = pd.cut(train_rows, [-1, 0, 4, 19, 79, np.inf], labels=[0, 1, 5, 20, 80]).astype(int)
    assert [group["at_least"] for group in found["groups"]] == [0, 1, 5, 20, 80]
    assert sum(group["rows"] for group in found["groups"]) == 900
    values = {}
    for group in found["groups"]:
        inside = of_row == group["at_least"]
        assert group["rows"] == inside.sum()
        for model, by_seed in predictions.items():
            values[group["at_least"], model] = [
                roc_auc_score(labels[inside], of_seed[inside]) for of_seed in by_seed
            ]
            expected = np.mean(values[group["at_least"], model])
            assert group["auc"][model] == pytest.approx(expected)
    assert len(found["tests"]) == 5 * len(PAIRS)
    p_values = []
    for test in found["tests"]:
        first, second = (values[test["at_least"], test[which]] for which in ("model", "against"))
        assert test["difference"] == pytest.approx(np.mean(first) - np.mean(second))
        p_values.append(stats.ttest_rel(first, second).pvalue)
        assert test["t_p_value"] == pytest.approx(p_values[-1])
    lowest = min(found["tests"], key=lambda test: test["t_p_value"])
    assert lowest["p_value_holm"] == pytest.approx(min(1, min(p_values) * len(p_values)))
