"""Slow twins of the metrics and tests: loops over pairs, written from the definitions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np


def pair_score(positive: float, negative: float) -> float:
    """1 if the positive is above the negative, 1/2 if they are tied."""
    return 1.0 if positive > negative else 0.5 if positive == negative else 0.0


def auc(labels: Sequence[int], probabilities: Sequence[float]) -> float:
    positives = [p for y, p in zip(labels, probabilities, strict=True) if y]
    negatives = [p for y, p in zip(labels, probabilities, strict=True) if not y]
    scores = [pair_score(p, n) for p in positives for n in negatives]
    return sum(scores) / len(scores)


def log_loss(labels: Sequence[int], probabilities: Sequence[float], clip: float) -> float:
    total = 0.0
    for y, p in zip(labels, probabilities, strict=True):
        p = min(max(p, clip), 1 - clip)
        total -= math.log(p) if y else math.log(1 - p)
    return total / len(labels)


def delong_z(labels: Sequence[int], first: Sequence[float], second: Sequence[float]) -> float:
    """z of DeLong et al. 1988: structural components by pairs, the full 2x2 covariance."""
    y = np.asarray(labels)
    v10, v01, aucs = [], [], []
    for p in (np.asarray(first), np.asarray(second)):
        kernel = np.array([[pair_score(a, b) for b in p[y == 0]] for a in p[y == 1]])
        v10.append(kernel.mean(axis=1))
        v01.append(kernel.mean(axis=0))
        aucs.append(kernel.mean())
    covariance = np.cov(v10) / (y == 1).sum() + np.cov(v01) / (y == 0).sum()
    contrast = np.array([1, -1])
    return (aucs[0] - aucs[1]) / math.sqrt(contrast @ covariance @ contrast)


def holm_rejects(p_values: Sequence[float], level: float) -> list[bool]:
    """Holm 1979 as a procedure: step down until the first p above level / (hypotheses left)."""
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for step, i in enumerate(order):
        if p_values[i] > level / (len(p_values) - step):
            break
        rejected[i] = True
    return rejected


def tail_users(train_users: Sequence[str], share: float) -> set[str]:
    """The lowest ``share`` of the train users by their rows, ties with the last one included."""
    rows = Counter(train_users)
    users = sorted(rows, key=lambda user: rows[user])
    last = users[math.ceil(share * len(users) - 1e-9) - 1]
    return {user for user in users if rows[user] <= rows[last]}
