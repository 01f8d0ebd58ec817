"""Paired tests against slow twins, scipy, and the error rates that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from clickprompt.evaluation import significance
from clickprompt.evaluation.metrics import auc, log_loss, row_losses
from tests.reference import metrics_twins

VALUES = st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.8])
ROWS = st.lists(st.tuples(st.integers(0, 1), VALUES, VALUES), min_size=6, max_size=40)


def _models(rows, noise, seed=0):
    """Labels and probabilities of two models of the given noises."""
    generator = np.random.default_rng(seed)
    score = generator.normal(0, 1.5, rows)
    labels = (generator.random(rows) < 1 / (1 + np.exp(-score))).astype(int)
    noisy = [score + generator.normal(0, sigma, rows) for sigma in noise]
    return labels, *(1 / (1 + np.exp(-z)) for z in noisy)


@given(ROWS)
def test_delong_is_the_twins_by_pairs(rows):
    labels, first, second = map(np.array, zip(*rows, strict=True))
    assume(2 <= labels.sum() <= len(labels) - 2)
    result = significance.delong_test(labels, first, second)
    assert result.difference == pytest.approx(auc(labels, first) - auc(labels, second), abs=1e-12)
    assume(result.high - result.low > 1e-9)
    z = metrics_twins.delong_z(labels, first, second)
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=1e-9)
    half = result.difference / z * stats.norm.ppf(0.975) if z else (result.high - result.low) / 2
    assert result.high - result.difference == pytest.approx(half, rel=1e-6)
    assert result.difference - result.low == pytest.approx(half, rel=1e-6)


def test_delong_swapped_is_the_same_test_with_the_other_sign():
    labels, first, second = _models(500, (0.5, 1.0))
    one = significance.delong_test(labels, first, second)
    other = significance.delong_test(labels, second, first)
    assert (one.difference, one.low, one.p_value) == pytest.approx(
        (-other.difference, -other.high, other.p_value)
    )


@pytest.mark.parametrize("test", [significance.delong_test, significance.bootstrap_log_loss_test])
def test_a_model_against_itself_shows_no_difference(test):
    labels, first, _ = _models(300, (0.5, 0.5))
    result = test(labels, first, first)
    assert (result.difference, result.low, result.high, result.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("test", [significance.delong_test, significance.bootstrap_log_loss_test])
def test_a_clear_difference_is_found(test):
    labels, first, second = _models(3000, (0.2, 3.0))
    result = test(labels, first, second)
    assert result.p_value < 0.001
    assert result.low * result.high > 0


def test_two_different_orders_that_never_vary_are_told_apart():
    # All pairs right against all wrong: no variance at all, and yet a difference.
    result = significance.delong_test([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1])
    assert (result.difference, result.p_value) == (1.0, 0.0)


@pytest.mark.parametrize("test", ["delong", "bootstrap"])
def test_equally_good_models_differ_in_about_five_of_a_hundred_tests(test):
    low = 0
    for seed in range(300):
        labels, first, second = _models(200, (1.0, 1.0), seed)
        if test == "delong":
            result = significance.delong_test(labels, first, second)
        else:
            result = significance.bootstrap_log_loss_test(labels, first, second, samples=200)
        low += result.p_value < 0.05
    # 300 draws at 5 %: 15 expected, 4 to 29 hold with all but 0.1 % of probability.
    assert 4 <= low <= 29


def test_bootstrap_interval_is_the_normal_one_for_many_rows():
    labels, first, second = _models(4000, (0.5, 1.0))
    result = significance.bootstrap_log_loss_test(labels, first, second)
    gaps = [
        log_loss([y], [a]) - log_loss([y], [b])
        for y, a, b in zip(labels, first, second, strict=True)
    ]
    assert result.difference == pytest.approx(np.mean(gaps), rel=1e-9)
    half = 1.96 * np.std(gaps) / math.sqrt(len(gaps))
    assert result.high - result.difference == pytest.approx(half, rel=0.1)
    assert result.difference - result.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("second", [1.0, 1.05, 1.1])
def test_bootstrap_p_value_is_that_of_a_z_test_for_many_rows(second):
    labels, *models = _models(4000, (1.0, second), seed=2)
    gaps = np.subtract(*(row_losses(labels, one) for one in models))
    z = gaps.mean() / stats.sem(gaps)
    assert 0.3 < abs(z) < 3  # else the case says nothing
    result = significance.bootstrap_log_loss_test(labels, *models, samples=4000)
    assert result.p_value == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.02)


def test_bootstrap_repeats_with_its_seed():
    labels, first, second = _models(50, (0.5, 1.0))
    one = significance.bootstrap_log_loss_test(labels, first, second, seed=3)
    assert one == significance.bootstrap_log_loss_test(labels, first, second, seed=3)
    assert one != significance.bootstrap_log_loss_test(labels, first, second, seed=4)


def test_seed_test_is_scipys():
    first = [0.881, 0.879, 0.884, 0.880, 0.878]
    second = [0.876, 0.877, 0.879, 0.875, 0.8785]
    result = significance.seed_test(first, second)
    assert result.seeds == 5
    assert result.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert result.t_p_value == pytest.approx(stats.ttest_rel(first, second).pvalue)
    assert result.wilcoxon_p_value == pytest.approx(stats.wilcoxon(first, second).pvalue)


def test_seed_test_of_one_seed_equal_values_and_a_constant_gap():
    one = significance.seed_test([0.9], [0.8])
    assert (one.seeds, one.t_p_value, one.wilcoxon_p_value) == (1, None, None)
    equal = significance.seed_test([0.9, 0.8], [0.9, 0.8])
    assert (equal.difference, equal.t_p_value, equal.wilcoxon_p_value) == (0, 1, 1)
    constant = significance.seed_test([0.75, 0.5, 1.0], [0.5, 0.25, 0.75])
    assert constant.t_p_value == 0
    assert constant.wilcoxon_p_value == pytest.approx(0.25)


@given(
    st.lists(st.floats(0, 1), max_size=8),
    st.floats(0.001, 0.3),
)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, level):
    corrected = significance.holm(p_values)
    # (m - i) p <= level and p <= level / (m - i) may part by rounding at the border itself.
    assume(all(abs(value - level) > 1e-12 for value in corrected))
    assert [value <= level for value in corrected] == metrics_twins.holm_rejects(p_values, level)


def test_holm_of_a_known_case():
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: significance.delong_test([0, 1, 1], [0.1] * 3, [0.2] * 3),
            "two rows of each class, got 1 of label 0 and 2 of label 1",
        ),
        (
            lambda: significance.bootstrap_log_loss_test([0, 1], [0.1] * 2, [0.2] * 2, samples=9),
            "samples must be at least 100, got 9",
        ),
        (lambda: significance.seed_test([1, 2], [1]), r"got shapes \(2,\) and \(1,\)"),
        (lambda: significance.seed_test([], []), "one value per seed"),
        (lambda: significance.holm([0.5, 1.5]), r"p_values must be in 0\.\.1, got 1\.5"),
        (lambda: significance.holm([math.nan]), r"p_values must be in 0\.\.1, got nan"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
