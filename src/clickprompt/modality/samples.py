"""Interactions -> samples: a label for every row, and its split.

Works on pandas and Polars frames, Polars lazy frames and DuckDB relations through narwhals; the
same rows get the same split whatever the engine and whatever the order of the rows.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import narwhals as nw
import numpy as np

from clickprompt.parameters import DataParameters, SplitParameters

SplitName = Literal["train", "valid", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "valid", "test")


def label_and_split(interactions: Any, data: DataParameters) -> Any:
    """Add ``label`` (int8, 0 or 1) and ``split`` (int8, 0 train, 1 valid, 2 test).

    Rows whose label column lies between ``negative_to`` and ``positive_from``, or is missing, are
    left out. The rest is cut by ``data.split.shares``: in a seeded random order of the rows'
    ``row`` numbers, or by time, where equal times are ordered by user, then item, then ``row``.

    Args:
        interactions: pandas or Polars frame, or a lazy frame or relation that narwhals reads, with
            ``row`` and the columns that ``data`` names.
        data: label, split and columns.

    Returns:
        A frame of the same engine with ``row``, the named columns, ``label`` and ``split``, ordered
        by split and then by ``row``, so that each split is one contiguous piece.

    Raises:
        ValueError: a column that ``data`` names is not there (with the nearest one that is), no
            row is left, all labels are one class, or a split would be empty.
    """
    frame: Any = nw.from_native(interactions)
    names = frame.collect_schema().names()
    require_columns(names, _columns(data))
    wanted = {"row", *_columns(data)}
    frame = frame.select([name for name in names if name in wanted])
    rating = nw.col(data.label.column).cast(nw.Float64)
    positive, negative = rating >= data.label.positive_from, rating <= data.label.negative_to
    keys = ["row"] if data.split.by == "random" else ["row", data.time, data.user, data.item]
    selected = frame.filter((positive | negative) & rating.is_finite()).select(
        *keys, label=positive.cast(nw.Int8)
    )
    key_table = selected.collect() if isinstance(selected, nw.LazyFrame) else selected
    row, label = key_table["row"].to_numpy(), key_table["label"].to_numpy()
    split = _split(key_table, data)
    _require_classes(label, split, data)

    backend = key_table.implementation
    if isinstance(frame, nw.LazyFrame):
        # a lazy frame has no row order to rely on: label and split are joined by row number
        table = nw.from_dict({"row": row, "label": label, "split": split}, backend=backend)
        added = table.lazy(frame.implementation)
        frame = frame.drop("label", "split", strict=False)
        return frame.join(added, on="row", how="inner").sort("split", "row").to_native()
    # one gather for filter and order: the text columns are what costs
    order = np.lexsort((row, split))
    positions = _positions(frame["row"].to_numpy(), row[order])
    columns = {"label": label[order], "split": split[order]}
    return (
        nw.maybe_reset_index(frame[positions])
        .with_columns(nw.new_series(n, v, nw.Int8, backend=backend) for n, v in columns.items())
        .to_native()
    )


def split_rows(split: np.ndarray) -> tuple[int, int, int]:
    """Number of train, valid and test rows of a sorted ``split`` column (rows,)."""
    assert (np.diff(split) >= 0).all()
    counts = np.bincount(split, minlength=3)
    return int(counts[0]), int(counts[1]), int(counts[2])


def _columns(data: DataParameters) -> list[str]:
    columns = [data.label.column, data.user, data.item, *(field.column for field in data.fields)]
    return [*columns, data.time] if data.time is not None and data.split.by == "time" else columns


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


def _split(keys: nw.DataFrame, data: DataParameters) -> np.ndarray:
    """Split (rows,) int8 of every row of the key table."""
    row = keys["row"].to_numpy()
    if len(row) == 0:
        raise ValueError(
            f"{data.label.column} must be at least {data.label.positive_from} or at most "
            f"{data.label.negative_to} in some rows, got no such row"
        )
    if (np.diff(np.sort(row)) == 0).any():
        raise ValueError("the column 'row' must hold each number once, got repeated numbers")
    cuts = _cuts(len(row), data.split)
    if data.split.by == "random":
        order = _random_order(row, data.split.seed)
    else:
        assert data.time is not None
        order = _time_order(keys, data.time, data.user, data.item, cuts)
    split = np.empty(len(row), dtype=np.int8)
    for number, (start, stop) in enumerate(zip((0, *cuts), (*cuts, len(row)), strict=True)):
        split[order[start:stop]] = number
    return split


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


def _random_order(row: np.ndarray, seed: int) -> np.ndarray:
    """Seeded order that depends on the row numbers only (raw Philox output never changes)."""
    draws = np.empty(len(row), dtype=np.uint64)
    draws[np.argsort(row, kind="stable")] = np.random.Philox(key=seed).random_raw(len(row))
    return np.argsort(draws, kind="stable")


def _time_order(
    keys: nw.DataFrame, time: str, user: str, item: str, cuts: tuple[int, int]
) -> np.ndarray:
    """Order by time; rows tied at a cut are ordered by user, item, row.

    Ties elsewhere stay on one side of both cuts, so that sorting them would change nothing.
    """
    if keys[time].null_count():
        raise ValueError(
            f"{time} must have a value in every row for split.by 'time', "
            f"got {keys[time].null_count()} rows without"
        )
    times = keys[time].to_numpy()
    order = np.argsort(times, kind="stable")
    for cut in cuts:
        at, ordered = times[order[cut]], times[order]
        start = np.searchsorted(ordered, at, side="left")
        stop = np.searchsorted(ordered, at, side="right")
        tied = order[start:stop]
        ties = keys[tied]
        columns = (ties[name].to_list() for name in (user, item, "row"))
        order[start:stop] = [row[-1] for row in sorted(zip(*columns, tied, strict=True))]
    return order


def _positions(all_rows: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Where each of ``rows`` stands in ``all_rows``."""
    if (all_rows == np.arange(len(all_rows))).all():
        return rows
    order = np.argsort(all_rows, kind="stable")
    return order[np.searchsorted(all_rows, rows, sorter=order)]


def _require_classes(label: np.ndarray, split: np.ndarray, data: DataParameters) -> None:
    for name, labels in (("all rows", label), ("train rows", label[split == 0])):
        if labels.min() == labels.max():
            raise ValueError(
                f"labels of {name} must be of both classes, got only {int(labels[0])} in "
                f"{len(labels)} rows: look at data.label ({data.label.column} from "
                f"{data.label.positive_from} is 1, to {data.label.negative_to} is 0)"
            )
