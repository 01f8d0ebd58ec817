"""Interactions -> field codes: every column as its distinct values, every row as numbers of them.

The text of a table is read once, batch by batch. Everything after works on the distinct values and
on one array of integers.

Letters: C columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from clickprompt.files import recover_folder, replace_folder
from clickprompt.modality.arrays import ArrayFile, chunks, read_rows
from clickprompt.modality.encoder import ColumnEncoder
from clickprompt.modality.engines import column_array, record_batches
from clickprompt.modality.samples import is_labelled, require_columns, split_rows
from clickprompt.parameters import DataParameters
from clickprompt.progress import RateProgress

THREADS = 4


@dataclass(frozen=True)
class Column:
    """A column as its distinct values.

    - ``values``: as text; a missing value is None, numbers have no trailing ``.0``;
    - ``train_counts`` (values,) int64: how many train rows have each value.
    """

    name: str
    values: list[str | None]
    train_counts: np.ndarray


@dataclass(frozen=True)
class FieldCodes:
    """The columns that the data parameters name, and the rows of the samples as codes.

    - ``columns``: those of the fields in their order, then the user's and the item's if they are
      no fields;
    - ``codes`` (rows, C) int32: position in ``columns[c].values``, in the order of the samples;
    - ``labels`` (rows,) int8, ``row_numbers`` (rows,) int64: of the samples;
    - ``split_rows``: rows of train, valid and test.
    """

    columns: tuple[Column, ...]
    codes: np.ndarray
    labels: np.ndarray
    row_numbers: np.ndarray
    split_rows: tuple[int, int, int]

    def position(self, name: str) -> int:
        """Which of the columns has this name."""
        return [column.name for column in self.columns].index(name)

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield rows and their codes (n, C), piece by piece in order."""
        for rows in chunks(len(self.codes)):
            yield rows, read_rows(self.codes, rows)

    @classmethod
    def open(cls, folder: Path) -> FieldCodes:
        """Map the arrays of a folder that ``encode_fields`` wrote.

        Raises:
            FileNotFoundError: there are none.
        """
        recover_folder(folder)
        if not (folder / "columns.json").is_file():
            raise FileNotFoundError(
                f"{folder} must hold field codes, got no columns.json there: "
                f"run the pipeline modality_conversion"
            )
        described = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("codes", "labels", "row_numbers")
        }
        tables = [pq.read_table(_column_file(folder, n)) for n in range(len(described["columns"]))]
        columns = (
            Column(name, table["value"].to_pylist(), table["train_rows"].to_numpy())
            for name, table in zip(described["columns"], tables, strict=True)
        )
        train, valid, test = described["split_rows"]
        return cls(tuple(columns), split_rows=(train, valid, test), **arrays)


def encode_fields(
    interactions: Any, samples: pd.DataFrame, data: DataParameters, folder: Path | None = None
) -> FieldCodes:
    """Read the columns that ``data`` names and give every value a code.

    Args:
        interactions: what ``label_and_split`` got.
        samples: what it returned.
        data: fields, user and item.
        folder: where the codes are written, for data beyond memory; None keeps them in memory.

    Raises:
        ValueError: a column is not there (with the nearest one that is), or the samples are not
            those of the interactions.
        OSError: the folder cannot be written; an older one is unchanged.
    """
    frame: Any = nw.from_native(interactions)
    names = field_columns(data)
    require_columns(frame.collect_schema().names(), names)
    frame = frame.filter(is_labelled(data.label))
    shape = (len(samples), len(names))
    labels, row_numbers = samples["label"].to_numpy(), samples["row"].to_numpy()
    counts = split_rows(samples["split"].to_numpy())
    if folder is None:
        codes = np.empty(shape, dtype=np.int32)

        def keep(start: int, rows: np.ndarray) -> None:
            codes[start : start + len(rows)] = rows

        columns = _encode(frame, names, samples, keep)
        return FieldCodes(columns, codes, labels, row_numbers, counts)

    def write(aside: Path) -> None:
        with ArrayFile(aside / "codes.npy", shape, np.int32) as file:
            columns = _encode(frame, names, samples, file.write)
        np.save(aside / "labels.npy", labels, allow_pickle=False)
        np.save(aside / "row_numbers.npy", row_numbers, allow_pickle=False)
        for number, column in enumerate(columns):
            values = pa.array(column.values, pa.large_string())
            table = pa.table({"value": values, "train_rows": column.train_counts})
            pq.write_table(table, _column_file(aside, number), compression="zstd")
        described = {"columns": names, "split_rows": counts}
        (aside / "columns.json").write_text(json.dumps(described), encoding="utf-8")

    replace_folder(folder, write)
    return FieldCodes.open(folder)


def field_columns(data: DataParameters) -> list[str]:
    """Columns of the fields in their order, then the user's and the item's, each once."""
    columns = [field.column for field in data.fields]
    extra = [column for column in (data.user, data.item) if column is not None]
    return list(dict.fromkeys([*columns, *extra]))


def _encode(
    frame: Any,
    names: Sequence[str],
    samples: pd.DataFrame,
    write: Callable[[int, np.ndarray], None],
) -> tuple[Column, ...]:
    """Codes to ``write(start, codes (n, C))``, in pieces that follow each other in the samples."""
    encoders = [ColumnEncoder() for _ in names]
    counts = [np.zeros(0, dtype=np.int64) for _ in names]
    positions = _Positions(samples)
    train = split_rows(samples["split"].to_numpy())[0]
    written = 0

    def encode(
        batch: pa.RecordBatch, order: np.ndarray, in_train: int, block: np.ndarray, position: int
    ) -> None:
        """One column of a batch into the block, in the order of the samples."""
        encoder = encoders[position]
        block[position] = encoder.encode(batch[names[position]], order)
        train_codes = block[position, :in_train]
        counts[position] = _add_counts(counts[position], train_codes, len(encoder))

    with ExitStack() as stack:
        bar = stack.enter_context(RateProgress("reading fields", total=len(samples)))
        # Arrow's part of the work runs beside that of other columns
        pool = stack.enter_context(ThreadPoolExecutor(THREADS))
        for batch in record_batches(frame, list(dict.fromkeys(["row", *names]))):
            order, at = positions.find(column_array(batch, "row"))
            block = np.empty((len(names), len(at)), dtype=np.int32)
            in_train = int(np.searchsorted(at, train))
            list(pool.map(partial(encode, batch, order, in_train, block), range(len(names))))
            for start, stop in _runs(at):
                write(int(at[start]), block[:, start:stop].T)
            written += len(at)
            bar.advance(len(at))
    if written != len(samples):
        raise ValueError(
            f"samples must be those of the interactions, got {len(samples)} samples and "
            f"{written} of their rows"
        )
    return tuple(
        Column(name, encoder.texts, count)
        for name, encoder, count in zip(names, encoders, counts, strict=True)
    )


class _Positions:
    """Where a row number stands among the samples, whose row numbers rise within each split."""

    def __init__(self, samples: pd.DataFrame) -> None:
        rows = samples["row"].to_numpy()
        ends = np.cumsum([0, *split_rows(samples["split"].to_numpy())])
        self._parts = [(start, rows[start:stop]) for start, stop in pairwise(ends)]
        assert all((np.diff(part) > 0).all() for _, part in self._parts)

    def find(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a batch that are samples.

        Args:
            rows: (n,) row numbers.

        Returns:
            Their places in ``rows``, and their positions among the samples, which rise.
        """
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
            places, found = [], []
            for start, part in self._parts:  # they say themselves where they are in the batch
                first, stop = np.searchsorted(part, (rows[0], rows[-1] + 1))
                places.append(part[first:stop] - rows[0])
                found.append(np.arange(start + first, start + stop))
            return np.concatenate(places), np.concatenate(found)
        at = np.full(len(rows), -1, dtype=np.int64)
        for start, part in self._parts:
            near = np.searchsorted(part, rows)
            near[near == len(part)] = 0
            at = np.where(part[near] == rows, start + near, at)
        order = np.argsort(at, kind="stable")
        order = order[np.searchsorted(at[order], 0) :]  # without rows that are no samples
        return order, at[order]


def _runs(positions: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of the pieces of increasing positions that follow each other without gap."""
    ends = np.flatnonzero(np.diff(positions) != 1) + 1
    starts = [0, *ends.tolist()]
    if len(positions):
        yield from zip(starts, [*starts[1:], len(positions)], strict=True)


def _add_counts(counts: np.ndarray, codes: np.ndarray, values: int) -> np.ndarray:
    found = np.bincount(codes, minlength=values)
    found[: len(counts)] += counts
    return found


def _column_file(folder: Path, number: int) -> Path:
    return folder / f"column_{number}.parquet"
