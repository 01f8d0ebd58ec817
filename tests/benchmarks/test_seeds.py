"""Choice on valid, and tests over seeds, against SciPy and Holm's rule done by hand."""

from __future__ import annotations

import pytest
from scipy import stats

from benchmarks.seeds import best_on_valid, compare_over_seeds, with_holm

RUNS = {
    "a": ([0.70, 0.72, 0.71], [0.50, 0.49, 0.51]),
    "b": ([0.75, 0.74, 0.76], [0.45, 0.46, 0.44]),
    "c": ([0.71, 0.70, 0.72], [0.50, 0.50, 0.50]),
}


def rows(runs):
    return [
        {"model": model, "seed": seed, "auc": auc, "log_loss": log_loss}
        for model, (aucs, log_losses) in runs.items()
        for seed, (auc, log_loss) in enumerate(zip(aucs, log_losses, strict=True))
    ]


def test_the_best_trial_is_that_of_valid_whatever_test_says():
    trials = [
        {"decay": 1, "metrics": {"valid_auc": 0.7, "test_auc": 0.9}},
        {"decay": 2, "metrics": {"valid_auc": 0.8, "test_auc": 0.1}},
        {"decay": 3, "metrics": {"valid_auc": 0.8, "test_auc": 0.2}},
    ]
    assert best_on_valid(trials)["decay"] == 2
    assert best_on_valid(reversed(trials))["decay"] == 3


def test_every_model_is_paired_with_the_reference_seed_by_seed():
    # another order of the rows must not matter
    found = compare_over_seeds(rows(RUNS)[::-1], "a")
    assert {(t["model"], t["metric"]) for t in found} == {
        (model, metric) for model in ("b", "c") for metric in ("auc", "log_loss")
    }
    for test in found:
        place = ("auc", "log_loss").index(test["metric"])
        ours, others = RUNS[test["model"]][place], RUNS["a"][place]
        assert test["seeds"] == 3
        assert test["difference"] == pytest.approx((sum(ours) - sum(others)) / 3)
        assert test["t_p_value"] == pytest.approx(stats.ttest_rel(ours, others).pvalue)


def test_only_seeds_of_both_are_paired():
    runs = rows(RUNS)
    runs = [row for row in runs if (row["model"], row["seed"]) != ("b", 1)]
    (auc,) = [t for t in compare_over_seeds(runs, "a") if (t["model"], t["metric"]) == ("b", "auc")]
    assert auc["seeds"] == 2
    assert auc["difference"] == pytest.approx((0.75 - 0.70 + 0.76 - 0.71) / 2)


def test_one_seed_has_a_difference_and_no_p():
    one = [row for row in rows(RUNS) if row["seed"] == 0]
    found = compare_over_seeds(one, "a")
    assert [t["difference"] for t in found] == pytest.approx([0.05, -0.05, 0.01, 0.0])
    assert {(t["t_p_value"], t["p_value_holm"]) for t in found} == {(None, None)}


def test_holm_counts_the_tests_that_have_a_p():
    tests = [{"t_p_value": p} for p in (0.03, None, 0.01, 0.04)]
    # 3 * 0.01, 2 * 0.03, and 0.04 is not smaller than the one before
    assert [t["p_value_holm"] for t in with_holm(tests)] == [
        pytest.approx(0.06),
        None,
        pytest.approx(0.03),
        pytest.approx(0.06),
    ]


def test_an_unknown_reference_is_named():
    with pytest.raises(ValueError, match="reference must be one of a, b, c, got 'd'"):
        compare_over_seeds(rows(RUNS), "d")
