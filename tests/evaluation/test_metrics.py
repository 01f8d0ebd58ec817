"""AUC, LogLoss, calibration and ROC against scikit-learn and slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics
from hypothesis import assume, given
from hypothesis import strategies as st

from clickprompt.evaluation import metrics
from tests.reference import metrics_twins

# Few distinct values, so that ties are the rule.
ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])),
    min_size=2,
    max_size=60,
)


def _split(rows):
    labels, probabilities = zip(*rows, strict=True)
    return np.array(labels), np.array(probabilities)


def _random(rows=5000, seed=0):
    generator = np.random.default_rng(seed)
    probabilities = generator.random(rows)
    return (generator.random(rows) < probabilities).astype(np.int8), probabilities


@given(ROWS)
def test_auc_counts_pairs_with_half_for_ties(rows):
    labels, probabilities = _split(rows)
    assume(0 < labels.sum() < len(labels))
    assert metrics.auc(labels, probabilities) == metrics_twins.auc(labels, probabilities)


@pytest.mark.parametrize("decimals", [2, 12])
def test_auc_is_scikit_learns(decimals):
    labels, probabilities = _random()
    probabilities = probabilities.round(decimals)
    expected = sklearn.metrics.roc_auc_score(labels, probabilities)
    assert metrics.auc(labels, probabilities) == pytest.approx(expected, abs=1e-12)


def test_auc_of_a_constant_is_a_half():
    assert metrics.auc([0, 1, 1, 0, 1], [0.3] * 5) == 0.5


@given(ROWS, st.randoms(use_true_random=False))
def test_auc_does_not_depend_on_row_order_and_mirrors(rows, random):
    labels, probabilities = _split(rows)
    assume(0 < labels.sum() < len(labels))
    value = metrics.auc(labels, probabilities)
    random.shuffle(rows)
    assert metrics.auc(*_split(rows)) == value
    assert metrics.auc(1 - labels, probabilities) == pytest.approx(1 - value, abs=1e-15)


@given(ROWS)
def test_log_loss_is_the_twins(rows):
    labels, probabilities = _split(rows)
    expected = metrics_twins.log_loss(labels, probabilities, 2.0**-24)
    assert metrics.log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-12)


def test_log_loss_is_scikit_learns():
    labels, probabilities = _random()
    expected = sklearn.metrics.log_loss(labels, probabilities)
    assert metrics.log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-12)


def test_a_saturated_wrong_probability_costs_24_bits():
    assert metrics.log_loss([0], [1.0]) == pytest.approx(24 * math.log(2))
    assert metrics.log_loss([1], [0.0]) == pytest.approx(24 * math.log(2))


def test_clipping_leaves_float32_probabilities_next_to_one_alone():
    nearest = float(np.nextafter(np.float32(1), np.float32(0)))
    assert metrics.log_loss([0], [nearest]) == pytest.approx(-math.log(1 - nearest))


def test_float32_probabilities_are_summed_in_float64():
    labels = np.ones(200_000, dtype=np.int8)
    probabilities = np.full(200_000, 0.9, dtype=np.float32)
    expected = -math.log(np.float64(np.float32(0.9)))
    assert metrics.log_loss(labels, probabilities) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "baseline", "metric", "expected"),
    [(0.88, 0.8, "auc", 0.1), (0.36, 0.4, "log_loss", 0.1), (0.72, 0.8, "auc", -0.1)],
)
def test_relative_improvement_is_positive_when_better(value, baseline, metric, expected):
    assert metrics.relative_improvement(value, baseline, metric) == pytest.approx(expected)


def test_summary_of_one_class_has_no_auc_and_of_no_rows_no_metric():
    one_class = metrics.summarise([1, 1], [0.5, 0.5])
    assert one_class == {"rows": 2, "positives": 2, "auc": None, "log_loss": math.log(2)}
    assert metrics.summarise([], []) == {"rows": 0, "positives": 0, "auc": None, "log_loss": None}


def test_calibration_bins_have_equal_counts_and_the_means_of_their_rows():
    labels, probabilities = _random(rows=1000)
    curve = metrics.calibration_curve(labels, probabilities, 8)
    assert [b["rows"] for b in curve] == [125] * 8
    order = np.argsort(probabilities)
    for number, b in enumerate(curve):
        rows = order[125 * number : 125 * (number + 1)]
        assert b["mean_probability"] == pytest.approx(probabilities[rows].mean())
        assert b["positive_share"] == pytest.approx(labels[rows].mean())
        assert b["low"] < b["positive_share"] < b["high"]


def test_calibration_curve_is_scikit_learns_by_quantile():
    labels, probabilities = _random(rows=1001)
    share, mean = sklearn.calibration.calibration_curve(
        labels, probabilities, n_bins=7, strategy="quantile"
    )
    curve = metrics.calibration_curve(labels, probabilities, 7)
    np.testing.assert_allclose([b["mean_probability"] for b in curve], mean, atol=0.01)
    np.testing.assert_allclose([b["positive_share"] for b in curve], share, atol=0.01)


@given(ROWS, st.integers(2, 12), st.randoms(use_true_random=False))
def test_calibration_keeps_ties_together_and_every_row_once(rows, bins, random):
    labels, probabilities = _split(rows)
    curve = metrics.calibration_curve(labels, probabilities, bins)
    assert sum(b["rows"] for b in curve) == len(rows)
    assert 1 <= len(curve) <= bins
    assert min(b["rows"] for b in curve) >= 1
    means = [b["mean_probability"] for b in curve]
    assert means == sorted(means)
    random.shuffle(rows)
    again = metrics.calibration_curve(*_split(rows), bins)
    for one, other in zip(curve, again, strict=True):
        assert one == pytest.approx(other)


def test_wilson_interval_is_scipys():
    scipy_stats = pytest.importorskip("scipy.stats")
    labels = np.array([1] * 7 + [0] * 13)
    (only,) = metrics.calibration_curve(labels, np.full(20, 0.4), 2)
    expected = scipy_stats.binomtest(7, 20).proportion_ci(0.95, method="wilson")
    assert (only["low"], only["high"]) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_expected_calibration_error_weighs_the_bins_by_their_rows():
    curve = [
        {"rows": 30, "mean_probability": 0.2, "positive_share": 0.3},
        {"rows": 10, "mean_probability": 0.9, "positive_share": 0.7},
    ]
    assert metrics.expected_calibration_error(curve) == pytest.approx(0.75 * 0.1 + 0.25 * 0.2)


def test_a_calibrated_model_has_next_to_no_calibration_error():
    labels, probabilities = _random(rows=100_000)
    curve = metrics.calibration_curve(labels, probabilities, 10)
    assert metrics.expected_calibration_error(curve) < 0.01
    squeezed = metrics.calibration_curve(labels, 0.25 + probabilities / 2, 10)
    assert metrics.expected_calibration_error(squeezed) == pytest.approx(0.125, abs=0.01)


@given(ROWS)
def test_roc_is_scikit_learns_and_its_area_is_the_auc(rows):
    labels, probabilities = _split(rows)
    assume(0 < labels.sum() < len(labels))
    points = metrics.roc_points(labels, probabilities)
    fpr, tpr, _ = sklearn.metrics.roc_curve(labels, probabilities, drop_intermediate=False)
    np.testing.assert_allclose(points["false_positive_rate"], fpr)
    np.testing.assert_allclose(points["true_positive_rate"], tpr)
    area = np.trapezoid(points["true_positive_rate"], points["false_positive_rate"])
    assert area == pytest.approx(metrics.auc(labels, probabilities))


def test_a_thinned_roc_keeps_its_ends_its_order_and_nearly_its_area():
    labels, probabilities = _random()
    points = metrics.roc_points(labels, probabilities, limit=50)
    fpr, tpr = (np.array(points[name]) for name in ("false_positive_rate", "true_positive_rate"))
    assert 40 < len(fpr) <= 50
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(metrics.auc(labels, probabilities), abs=2e-3)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [0.5], r"must have one shape \(rows,\), got \(2,\) and \(1,\)"),
        ([[0, 1]], [[0.5, 0.5]], r"must have one shape \(rows,\), got \(1, 2\)"),
        ([], [], "must have at least one row, got none"),
        ([0, 2], [0.5, 0.5], "labels must be 0 or 1, got 2"),
        ([0, 1], [0.5, 1.5], r"probabilities must be in 0\.\.1, got 1\.5 \(1 rows\)"),
        ([0, 1], [0.5, math.nan], r"probabilities must be in 0\.\.1, got nan"),
    ],
)
@pytest.mark.parametrize("metric", [metrics.auc, metrics.log_loss, metrics.roc_points])
def test_what_is_no_prediction_is_named(metric, labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, probabilities)


def test_one_class_is_named():
    with pytest.raises(ValueError, match="AUC needs labels of both classes, got only 1"):
        metrics.auc([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="ROC needs labels of both classes, got only 0"):
        metrics.roc_points([0, 0], [0.1, 0.2])


def test_limits_of_plots_are_named():
    with pytest.raises(ValueError, match="bins must be at least 2, got 1"):
        metrics.calibration_curve([0, 1], [0.1, 0.2], 1)
    with pytest.raises(ValueError, match="limit must be at least 2, got 1"):
        metrics.roc_points([0, 1], [0.1, 0.2], limit=1)
