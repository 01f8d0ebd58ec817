"""Interactions -> samples: which rows have a label, and the split of each.

The same rows get the same split whatever the engine and whatever the order of the rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa

from clickprompt.modality.encoder import ColumnEncoder
from clickprompt.modality.engines import column_array, record_batches
from clickprompt.parameters import DataParameters, LabelParameters, SplitParameters

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


def label_and_split(interactions: Any, data: DataParameters) -> pd.DataFrame:
    """Give every row that has one a label, and each of these rows a split.

    Rows whose label column lies between ``negative_to`` and ``positive_from``, or is missing, are
    no samples. The rest is cut by ``data.split.shares``: in a seeded random order of the rows'
    ``row`` numbers, or by time, where equal times are ordered by user, then item, then ``row``. Or
    the split column says what each row is.

    Args:
        interactions: pandas or Polars frame, or a lazy frame or relation that narwhals reads, with
            ``row`` and the columns that ``data`` names.
        data: label, split and columns.

    Returns:
        ``row`` int64, ``label`` int8 (0 or 1) and ``split`` int8 (0 train, 1 valid, 2 test),
        ordered by split and then by ``row``, so that each split is one contiguous piece. The other
        columns stay in the interactions, which may exceed memory.

    Raises:
        ValueError: a column that ``data`` names is not there (with the nearest one that is), no
            row is left, all labels are one class, or a split would be empty.
    """
    frame: Any = nw.from_native(interactions)
    require_columns(frame.collect_schema().names(), _columns(data))
    by = {"random": None, "time": data.time, "column": data.split.column}[data.split.by]
    positive = _rating(data.label) >= data.label.positive_from
    labelled = frame.filter(is_labelled(data.label))
    keys = labelled.select(
        *dict.fromkeys(["row", *([by] if by else [])]), __label=positive.cast(nw.Int8)
    )
    encoder = ColumnEncoder() if data.split.by == "column" else None
    row, label, given = _collect(keys, by, encoder)
    if len(row) == 0:
        raise ValueError(
            f"{data.label.column} must be at least {data.label.positive_from} or at most "
            f"{data.label.negative_to} in some rows, got no such row"
        )
    if not (np.diff(row) > 0).all():
        order = np.argsort(row, kind="stable")
        row, label = row[order], label[order]
        given = given[order] if by else given
    if (np.diff(row) == 0).any():
        raise ValueError("the column 'row' must hold each number once, got repeated numbers")
    if data.split.by == "random":
        split = _random_split(len(row), data.split)
    elif data.split.by == "time":
        split = _time_split(row, given, labelled, data)
    else:
        assert encoder is not None
        split = _given_split(given, encoder.texts, data.split)
        kept = split >= 0
        if not kept.all():
            row, label, split = row[kept], label[kept], split[kept]
    _require_classes(label, split, data)
    order = np.argsort(split, kind="stable")
    return pd.DataFrame({"row": row[order], "label": label[order], "split": split[order]})


def is_labelled(label: LabelParameters) -> nw.Expr:
    """Whether a row of the interactions is a sample."""
    rating = _rating(label)
    positive, negative = rating >= label.positive_from, rating <= label.negative_to
    return (positive | negative) & rating.is_finite()


def _rating(label: LabelParameters) -> nw.Expr:
    return nw.col(label.column).cast(nw.Float64)


def _collect(keys: Any, by: str | None, encoder: ColumnEncoder | None) -> tuple[np.ndarray, ...]:
    """``row`` and label (rows,), and the column that decides the split: its codes, or itself."""
    parts: list[list[np.ndarray]] = [[np.zeros(0, np.int64)], [np.zeros(0, np.int8)], []]
    for batch in record_batches(keys, keys.collect_schema().names()):
        parts[0].append(column_array(batch, "row"))
        parts[1].append(column_array(batch, "__label").astype(np.int8, copy=False))
        if encoder is not None:
            parts[2].append(encoder.encode(batch[by]))
        elif by is not None:
            if batch[by].null_count:
                raise ValueError(
                    f"{by} must have a value in every row for split.by 'time', got rows without"
                )
            parts[2].append(column_array(batch, by))
    return tuple(np.concatenate(some) if some else np.zeros(0) for some in parts)


def split_rows(split: np.ndarray) -> tuple[int, int, int]:
    """Number of train, valid and test rows of a sorted ``split`` column (rows,)."""
    assert (np.diff(split) >= 0).all()
    counts = np.bincount(split, minlength=3)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _columns(data: DataParameters) -> list[str]:
    columns = [data.label.column, data.user, data.item, *(field.column for field in data.fields)]
    by = {"random": None, "time": data.time, "column": data.split.column}[data.split.by]
    return [column for column in (*columns, by) if column is not None]


def require_columns(names: Sequence[str], columns: Sequence[str]) -> None:
    """Stop where ``row`` or one of ``columns`` is not among the ``names`` of the table."""
    if "row" not in names:
        raise ValueError(f"interactions must have a column 'row', got {', '.join(names)}")
    for column in columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"data must name columns of the interactions table ({', '.join(names)}), "
                f"got {column!r}{hint}"
            )


def _cuts(rows: int, split: SplitParameters) -> tuple[int, int]:
    shares = np.array(split.shares, dtype=np.float64)
    # the small addend keeps e.g. 10 * 0.9 from falling below 9
    ends = np.floor(rows * np.cumsum(shares) / shares.sum() + 1e-9).astype(int)
    counts = (ends[0], ends[1] - ends[0], rows - ends[1])
    for name, count in zip(SPLITS, counts, strict=True):
        if count < 1:
            raise ValueError(
                f"split {name} must have at least one row, got none: {rows} labelled rows are cut "
                f"by the shares {list(split.shares)}"
            )
    return int(ends[0]), int(ends[1])


def _random_split(rows: int, parameters: SplitParameters) -> np.ndarray:
    """Split (rows,) of the rows in the order of their numbers: by the rank of a seeded draw.

    Raw Philox output never changes, so a split stays the same for ever.
    """
    first, second = _cuts(rows, parameters)
    draws = np.random.Philox(key=parameters.seed).random_raw(rows)
    at = np.partition(draws, (first, second))[[first, second]]
    split = (draws >= at[0]).astype(np.int8) + (draws >= at[1])
    if (split == 0).sum() == first and (split < 2).sum() == second:
        return split
    ranks = np.empty(rows, dtype=np.int64)  # two equal draws at a cut: once in 10**4 such splits
    ranks[np.argsort(draws, kind="stable")] = np.arange(rows)
    return (ranks >= first).astype(np.int8) + (ranks >= second)


def _time_split(row: np.ndarray, times: np.ndarray, frame: Any, data: DataParameters) -> np.ndarray:
    """Split (rows,) of the rows in the order of their numbers, by time.

    Only where equal times lie on both sides of a cut does their order matter: by user, item, row.
    """
    split = np.zeros(len(times), dtype=np.int8)
    for cut in _cuts(len(times), data.split):
        at = np.partition(times, cut)[cut]
        split += times > at
        tied = np.flatnonzero(times == at)
        before = cut - int((times < at).sum())  # that many of the tied ones come before the cut
        order = np.argsort(row[tied], kind="stable")
        if 0 < before < len(tied) and (data.user or data.item):
            order = _tie_order(row[tied], at, frame, data)
        split[tied[order[before:]]] += 1
    return split


def _tie_order(row: np.ndarray, at: Any, frame: Any, data: DataParameters) -> np.ndarray:
    """Order of the rows (tied,) of one time: by user, item, row; missing ones first."""
    assert data.time is not None
    columns = [column for column in (data.user, data.item) if column is not None]
    ties = frame.filter(nw.col(data.time) == at.item())
    parts = list(record_batches(ties, list(dict.fromkeys(["row", *columns]))))
    table = pa.Table.from_batches(parts).to_pydict()
    keys = {
        number: tuple((value is not None, value) for value in values)
        for number, *values in zip(table["row"], *(table[name] for name in columns), strict=True)
    }
    return np.array(sorted(range(len(row)), key=lambda i: (keys[int(row[i])], row[i])))


def _given_split(
    codes: np.ndarray, texts: list[str | None], parameters: SplitParameters
) -> np.ndarray:
    """Split (rows,) that the column names, -1 where it names none."""
    names = {name: number for number, name in enumerate(parameters.names)}
    split = np.array([names.get(str(text), -1) for text in texts], dtype=np.int8)[codes]
    for number, name in enumerate(parameters.names):
        if not (split == number).any():
            raise ValueError(
                f"{parameters.column} must be {name!r} in some labelled rows (they are the split "
                f"{SPLITS[number]}), got {', '.join(repr(text) for text in texts[:10])}"
            )
    return split


def _require_classes(label: np.ndarray, split: np.ndarray, data: DataParameters) -> None:
    for name, labels in (("all rows", label), ("train rows", label[split == 0])):
        if labels.min() == labels.max():
            raise ValueError(
                f"labels of {name} must be of both classes, got only {int(labels[0])} in "
                f"{len(labels)} rows: look at data.label ({data.label.column} from "
                f"{data.label.positive_from} is 1, to {data.label.negative_to} is 0)"
            )
