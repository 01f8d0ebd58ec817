"""Is one model better than another? Paired tests on rows and on seeds.

DeLong et al. 1988 for AUC, by the fast ranks of Sun and Xu 2014; a paired bootstrap for LogLoss;
paired t and Wilcoxon tests over seeds; Holm's correction for several comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are used: scipy.stats takes a second or two
from numpy.typing import ArrayLike, NDArray

from clickprompt.evaluation.metrics import check_predictions, row_losses


@dataclass(frozen=True)
class PairedTest:
    """Result of a two-sided paired test of "no difference".

    Attributes:
        difference: of the metric, first model minus second.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        p_value: of a difference at least as large if there were none.
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class SeedTest:
    """Result of the paired tests over seeds.

    Attributes:
        seeds: number of pairs.
        difference: mean over the seeds, first model minus second.
        t_p_value: of the paired t-test; None with fewer than two pairs.
        wilcoxon_p_value: of Wilcoxon's signed-rank test; None with fewer than two pairs.
    """

    seeds: int
    difference: float
    t_p_value: float | None
    wilcoxon_p_value: float | None


def delong_test(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> PairedTest:
    """DeLong's test of the difference of two AUCs on the same rows.

    Args:
        labels: 0 or 1.
        first: probabilities of the first model.
        second: probabilities of the second model, for the same rows.

    Raises:
        ValueError: fewer than two rows of a class, or labels and probabilities that are none.
    """
    y, p_first = check_predictions(labels, first)
    _, p_second = check_predictions(labels, second)
    counts = int((~y).sum()), int(y.sum())
    if min(counts) < 2:
        raise ValueError(
            "DeLong's test needs two rows of each class, "
            f"got {counts[0]} of label 0 and {counts[1]} of label 1"
        )
    # Structural components: for each row, the share of the other class it is ordered right with.
    # The two models' components are subtracted first: the variance of the difference is then
    # free of cancellation.
    positive_first, negative_first = _components(y, p_first)
    positive_second, negative_second = _components(y, p_second)
    positive, negative = positive_first - positive_second, negative_first - negative_second
    difference = float(positive.mean())
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    error = math.sqrt(variance)
    if error == 0:
        return PairedTest(difference, difference, difference, 1.0 if difference == 0 else 0.0)
    p_value = math.erfc(abs(difference) / error / math.sqrt(2))
    half = 1.959963984540054 * error
    return PairedTest(difference, difference - half, difference + half, p_value)


def bootstrap_log_loss_test(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, samples: int = 2000, seed: int = 0
) -> PairedTest:
    """Paired bootstrap of the difference of two LogLosses on the same rows.

    Rows are drawn with replacement; a row's two losses stay together. The interval holds the
    middle 95 % of the drawn differences; the p-value counts how often a drawn difference lies at
    least as far from the observed one as that lies from 0, (1 + count) / (1 + samples).

    Args:
        labels: 0 or 1.
        first: probabilities of the first model.
        second: probabilities of the second model, for the same rows.
        samples: number of draws, at least 100.
        seed: of the draws.

    Raises:
        ValueError: samples below 100, or labels and probabilities that are none.
    """
    if samples < 100:
        raise ValueError(f"samples must be at least 100, got {samples}")
    gaps = row_losses(labels, first) - row_losses(labels, second)
    difference = float(gaps.mean())
    generator = np.random.default_rng(seed)
    drawn = np.empty(samples)
    chunk = max(1, 2_000_000 // len(gaps))
    for start in range(0, samples, chunk):
        part = drawn[start : start + chunk]
        rows = generator.integers(0, len(gaps), (len(part), len(gaps)), dtype=np.int32)
        part[...] = gaps[rows].mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # Rounding must not make "equal" out of "just below": two equal models have p = 1.
    extreme = np.abs(drawn - difference) >= abs(difference) * (1 - 1e-12)
    p_value = (1 + int(extreme.sum())) / (1 + samples)
    return PairedTest(difference, float(low), float(high), p_value)


def seed_test(first: Sequence[float], second: Sequence[float]) -> SeedTest:
    """Paired tests of a metric over seeds: the i-th values of both belong to one seed.

    Raises:
        ValueError: two lengths, or no values.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ValueError(
            "first and second must have one value per seed, as many as each other, "
            f"got shapes {a.shape} and {b.shape}"
        )
    gaps = a - b
    difference = float(gaps.mean())
    if len(gaps) < 2:
        return SeedTest(len(gaps), difference, None, None)
    if not gaps.any():
        return SeedTest(len(gaps), 0.0, 1.0, 1.0)
    # With no spread at all t is infinite.
    t_p_value = 0.0 if (gaps == gaps[0]).all() else float(scipy.stats.ttest_rel(a, b).pvalue)
    return SeedTest(len(gaps), difference, t_p_value, float(scipy.stats.wilcoxon(gaps).pvalue))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p-values that hold for all comparisons together.

    The i-th smallest of m (from 0) becomes max over j <= i of min(1, (m - j) p_j).

    Raises:
        ValueError: a p-value outside 0..1.
    """
    p = np.asarray(p_values, dtype=np.float64)
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise ValueError(f"p_values must be in 0..1, got {p[wrong][0]}")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(steps)
    return corrected.tolist()


def _components(
    y: NDArray[np.bool_], p: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each positive: share of negatives below it. Of each negative: share of positives above."""
    positives, negatives = p[y], p[~y]
    both = scipy.stats.rankdata(p)
    below = (both[y] - scipy.stats.rankdata(positives)) / len(negatives)
    above = 1 - (both[~y] - scipy.stats.rankdata(negatives)) / len(positives)
    return below, above
