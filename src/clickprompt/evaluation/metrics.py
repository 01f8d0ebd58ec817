"""Metrics of click probabilities: AUC, LogLoss, calibration, ROC (section 8 of docs/method.md).

All functions take ``labels`` (rows,) of 0 and 1 and ``probabilities`` (rows,) in 0..1, compute in
float64 and do not depend on the order of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Literal["auc", "log_loss"]

# Half a float32 step below 1: what a float32 sigmoid saturates to costs about 16.6 and not
# infinity, and every other float32 probability keeps its value.
CLIP = 2.0**-24


def auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order.

    A tied pair counts half. Pairs are counted in integers, so the value is exact.

    Raises:
        ValueError: only one class, or labels and probabilities that are none.
    """
    y, p = check_predictions(labels, probabilities)
    _need_both_classes(y, "AUC")
    positives, negatives = _tie_groups(y, p)
    below = np.cumsum(negatives) - negatives
    twice_won = int((positives * (2 * below + negatives)).sum())
    return twice_won / (2 * int(positives.sum()) * int(negatives.sum()))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean of -log p(label); probabilities are clipped to :data:`CLIP` .. 1 - :data:`CLIP`.

    Raises:
        ValueError: labels and probabilities that are none.
    """
    return float(row_losses(labels, probabilities).mean())


def row_losses(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.float64]:
    """-log p(label) of each row: the terms of :func:`log_loss`."""
    y, p = check_predictions(labels, probabilities)
    p = np.clip(p, CLIP, 1 - CLIP)
    return -np.log(np.where(y, p, 1 - p))


def relative_improvement(value: float, baseline: float, metric: Metric) -> float:
    """Share by which ``value`` is better than ``baseline``; positive is better for both metrics.

    AUC: value / baseline - 1. LogLoss: 1 - value / baseline.
    """
    return value / baseline - 1 if metric == "auc" else 1 - value / baseline


def summarise(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, Any]:
    """Rows, positives, AUC and LogLoss; AUC is None (undefined) when there is one class only.

    Rows may be none at all: then both metrics are None.
    """
    y, p = check_predictions(labels, probabilities, allow_empty=True)
    positives = int(y.sum())
    return {
        "rows": len(y),
        "positives": positives,
        "auc": auc(y, p) if 0 < positives < len(y) else None,
        "log_loss": log_loss(y, p) if len(y) else None,
    }


def calibration_curve(
    labels: ArrayLike, probabilities: ArrayLike, bins: int
) -> list[dict[str, float]]:
    """Mean probability against the share of positives, in bins of equal row count.

    Rows of one probability are never parted, so that the curve does not depend on their order;
    with heavy ties there are then fewer bins, and uneven ones.

    Args:
        labels: 0 or 1.
        probabilities: of label 1.
        bins: number of bins, at least 2.

    Returns:
        Per bin: ``rows``, ``mean_probability``, ``positive_share``, and ``low`` and ``high``,
        Wilson's 95 % interval of the share.

    Raises:
        ValueError: bins below 2, or labels and probabilities that are none.
    """
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")
    y, p = check_predictions(labels, probabilities)
    order = np.argsort(p, kind="stable")
    y, p = y[order], p[order]
    wanted = p[np.arange(1, bins) * len(p) // bins]
    cuts = np.unique([0, *np.searchsorted(p, wanted), len(p)])
    curve = []
    for start, stop in itertools.pairwise(cuts.tolist()):
        share = float(y[start:stop].mean())
        low, high = _wilson(share, stop - start)
        curve.append(
            {
                "rows": stop - start,
                "mean_probability": float(p[start:stop].mean()),
                "positive_share": share,
                "low": low,
                "high": high,
            }
        )
    return curve


def expected_calibration_error(curve: Iterable[dict[str, float]]) -> float:
    """Mean of |mean probability - share of positives| over the bins, weighted by their rows."""
    bins = list(curve)
    gaps = sum(b["rows"] * abs(b["mean_probability"] - b["positive_share"]) for b in bins)
    return gaps / sum(b["rows"] for b in bins)


def roc_points(
    labels: ArrayLike, probabilities: ArrayLike, limit: int = 200
) -> dict[str, list[float]]:
    """The ROC curve, thinned to at most ``limit`` points for a plot.

    The points kept are spread evenly along the curve; both ends are among them.

    Returns:
        ``false_positive_rate`` and ``true_positive_rate``, each from 0 to 1.

    Raises:
        ValueError: limit below 2, only one class, or labels and probabilities that are none.
    """
    if limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}")
    y, p = check_predictions(labels, probabilities)
    _need_both_classes(y, "ROC")
    positives, negatives = _tie_groups(y, p)
    tpr = np.append(0, np.cumsum(positives[::-1])) / positives.sum()
    fpr = np.append(0, np.cumsum(negatives[::-1])) / negatives.sum()
    if len(fpr) > limit:
        kept = np.unique(np.searchsorted(fpr + tpr, np.linspace(0, 2, limit)).clip(0, len(fpr) - 1))
        fpr, tpr = fpr[kept], tpr[kept]
    return {"false_positive_rate": fpr.tolist(), "true_positive_rate": tpr.tolist()}


def check_predictions(
    labels: ArrayLike, probabilities: ArrayLike, *, allow_empty: bool = False
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as booleans and probabilities as float64, once they are known to be such.

    Raises:
        ValueError: other shapes, no rows, a label other than 0 and 1, a probability outside 0..1.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise ValueError(
            f"labels and probabilities must have one shape (rows,), got {y.shape} and {p.shape}"
        )
    if not len(y) and not allow_empty:
        raise ValueError("labels and probabilities must have at least one row, got none")
    wrong = (y != 0) & (y != 1)
    if wrong.any():
        raise ValueError(f"labels must be 0 or 1, got {y[wrong][0]}")
    # Written so that NaN is wrong too.
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise ValueError(f"probabilities must be in 0..1, got {p[wrong][0]} ({wrong.sum()} rows)")
    return y.astype(bool), p


def _need_both_classes(y: NDArray[np.bool_], what: str) -> None:
    if y.all() or not y.any():
        raise ValueError(f"{what} needs labels of both classes, got only {int(y[0])}")


def _tie_groups(
    y: NDArray[np.bool_], p: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and negatives per distinct probability, ascending."""
    order = np.argsort(p)
    y, p = y[order], p[order]
    starts = np.flatnonzero(np.append(True, p[1:] != p[:-1]))
    positives = np.add.reduceat(y.astype(np.int64), starts)
    return positives, np.diff(np.append(starts, len(p))) - positives


def _wilson(share: float, rows: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a binomial share, 95 % by default."""
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    spread = (share * (1 - share) / rows + z * z / (4 * rows * rows)) ** 0.5
    half = z * spread / (1 + z * z / rows)
    return max(0.0, centre - half), min(1.0, centre + half)
