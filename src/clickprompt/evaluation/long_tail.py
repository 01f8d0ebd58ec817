"""Long tail: metrics on the rows of rarely seen users and items (section 8 of docs/method.md)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from clickprompt.evaluation.metrics import summarise

UNNAMED = -1  # train rows of a user (item) where the data name none


@dataclass(frozen=True)
class TrainFacts:
    """What the evaluation must know of the train split.

    Attributes:
        label_rate: share of positives among the train rows.
        user_tail_limit: a user with at most so many train rows is tail; None where the data name
            no user.
        item_tail_limit: the same for items.
        user_tail_share: share of the train users that this makes tail; None as above.
        item_tail_share: the same for items.
    """

    label_rate: float
    user_tail_limit: int | None
    item_tail_limit: int | None
    user_tail_share: float | None
    item_tail_share: float | None


def train_facts(
    labels: ArrayLike, user_train_rows: ArrayLike, item_train_rows: ArrayLike, tail_share: float
) -> TrainFacts:
    """Gather :class:`TrainFacts` from the TRAIN rows of the model input.

    Args:
        labels: (train rows,) of 0 and 1.
        user_train_rows: (train rows,), number of train rows of that row's user; -1 in all rows
            where the data name no user.
        item_train_rows: (train rows,), the same for its item.
        tail_share: lowest share of users (items) that is the tail.

    Raises:
        ValueError: no rows, counts that no train split can have, or a share outside 0..1.
    """
    y = np.asarray(labels)
    if not len(y):
        raise ValueError("labels must have at least one train row, got none")
    user_limit, user_share = _known_tail_limit(user_train_rows, tail_share)
    item_limit, item_share = _known_tail_limit(item_train_rows, tail_share)
    return TrainFacts(float(y.mean()), user_limit, item_limit, user_share, item_share)


def _known_tail_limit(
    train_rows: ArrayLike, tail_share: float
) -> tuple[int, float] | tuple[None, None]:
    if (np.asarray(train_rows) == UNNAMED).all():
        return None, None
    return tail_limit(train_rows, tail_share)


def tail_limit(train_rows: ArrayLike, tail_share: float) -> tuple[int, float]:
    """Largest number of train rows that a tail user (or item) has, and the share so made tail.

    NOTE[DIFF]: the users that the tail share is taken of are those of the train split, sorted by
    their number of train rows; users with as many rows as the last tail user are tail too, so
    that the tail does not depend on how ties are sorted, and it may be larger than the share.
    Unseen users have 0 rows, hence are tail always.

    Args:
        train_rows: (train rows,), number of train rows of that row's user.
        tail_share: wanted share of the users.

    Raises:
        ValueError: a share outside 0..1, or counts that no train split can have.
    """
    if not 0 < tail_share < 1:
        raise ValueError(f"tail_share must be between 0 and 1, got {tail_share}")
    counts, rows = np.unique(np.asarray(train_rows), return_counts=True)
    # A user with n train rows is seen n times, each time with the value n.
    if not len(counts) or counts[0] < 1 or (rows % counts).any():
        raise ValueError(
            "train_rows must hold each user's number of train rows, once for each of them, got "
            f"{dict(zip(counts[:5].tolist(), rows[:5].tolist(), strict=True))} (count: rows)"
        )
    users_up_to = np.cumsum(rows // counts)
    # The tolerance keeps 0.07 * 100 = 7.000000000000001 from asking for an eighth user.
    wanted = int(np.ceil(tail_share * users_up_to[-1] - 1e-9))
    last = int(np.searchsorted(users_up_to, wanted))
    return int(counts[last]), float(users_up_to[last] / users_up_to[-1])


def long_tail_quadrants(predictions: pd.DataFrame, train: TrainFacts) -> list[dict[str, Any]]:
    """Metrics on (tail | non-tail user) x (tail | non-tail item) of one model's predictions.

    Args:
        predictions: columns ``label``, ``probability``, ``user_train_rows``, ``item_train_rows``.
        train: the tail's limits.

    Returns:
        Four rows: ``user`` and ``item`` ("tail" or "non-tail"), and those of
        :func:`~clickprompt.evaluation.metrics.summarise`; a metric that is undefined is None. Where
        the data name no user (item), ``user`` (``item``) is None and two rows are left; where they
        name neither, there are none.
    """
    if train.user_tail_limit is None and train.item_tail_limit is None:
        return []
    users = _halves(predictions["user_train_rows"].to_numpy(), train.user_tail_limit)
    items = _halves(predictions["item_train_rows"].to_numpy(), train.item_tail_limit)
    labels, probabilities = predictions["label"].to_numpy(), predictions["probability"].to_numpy()
    quadrants = []
    for user, user_rows in users:
        for item, item_rows in items:
            rows = user_rows & item_rows
            metrics = summarise(labels[rows], probabilities[rows])
            quadrants.append({"user": user, "item": item, **metrics})
    return quadrants


def _halves(train_rows: np.ndarray, limit: int | None) -> list[tuple[str | None, np.ndarray]]:
    """Names of tail and non-tail with their rows (rows,) bool; all rows where there is no limit."""
    if limit is None:
        return [(None, np.ones(len(train_rows), dtype=bool))]
    tail = train_rows <= limit
    return [("tail", tail), ("non-tail", ~tail)]
