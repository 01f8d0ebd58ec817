"""``table``: CSV or Parquet files of the user's own, as ``data`` describes them.

All files of the catalog's ``raw_files`` are read one after the other, in its order; they are all
CSV (plain or gzipped) or all Parquet. Only the columns that ``data`` names are read:

- the label as float64; a row without it is dropped;
- the time as int64 seconds since 1970; a row without it is dropped if the split is by time;
- numeric fields as float64, null where missing or no number;
- user, item, split column and all other fields as text, exactly as it stands in the file;
- ``<time>:hour`` and ``<time>:weekday``, made from the time, where a field names them.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from clickprompt.parameters import DataParameters, TableParameters
from clickprompt.readers.report import EXAMPLES_PER_REASON, ReadReport
from clickprompt.readers.table.cells import (
    TIME_PARTS,
    Converted,
    check_time_format,
    label_cells,
    number_cells,
    text_cells,
    time_cells,
    time_part,
)
from clickprompt.readers.table.delimited import Batch, DelimitedFile
from clickprompt.readers.table.parquet import ParquetFile

COLUMNS_SHOWN = 60  # of a file, in a message
STRUCTURAL = ("misplaced_quote", "wrong_number_of_cells")  # reasons that speak of the format


def read_table_files(
    files: Mapping[str, Path], report: ReadReport, *, data: DataParameters
) -> pa.RecordBatchReader:
    """Read the files as a stream of record batches.

    Args:
        files: file name -> path; CSV or Parquet is told by the first bytes.
        report: gets all events; it is complete when the stream has ended.
        data: which columns there are, what they hold, and ``table``.

    Returns:
        ``row``, then the columns that ``data`` names, in the order user, item, label, time, split,
        fields.

    Raises:
        ValueError: at once for columns that are not there (all of them, with the nearest names) and
            files of another format; later for what is found on the way: truncated or damaged files,
            another encoding, no row that can be used.
    """
    plan = _Plan(data)
    opened = _open(files, plan.table)
    for file in opened:
        plan.check_columns(file)
    return pa.RecordBatchReader.from_batches(plan.schema, _stream(opened, plan, report))


def _open(files: Mapping[str, Path], table: TableParameters) -> list[DelimitedFile | ParquetFile]:
    if not files:
        raise ValueError("files must name at least one file, got none")
    kinds: dict[str, str] = {}
    for name, path in files.items():
        with Path(path).open("rb") as stream:
            kinds[name] = "Parquet" if stream.read(4) == b"PAR1" else "CSV"
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise ValueError(f"files must be all CSV or all Parquet, got {found}")
    if "Parquet" in kinds.values():
        return [ParquetFile(Path(path), name) for name, path in files.items()]
    return [DelimitedFile(Path(path), name, table) for name, path in files.items()]


class _Plan:
    """Which columns are read, and what becomes of each."""

    def __init__(self, data: DataParameters) -> None:
        self.data = data
        self.table = data.table or TableParameters()
        self.fields = {field.column: field for field in data.fields}
        self.parts: dict[str, str] = {}  # derived column -> part of the time
        if data.time is not None:
            self.parts = {f"{data.time}:{part}": part for part in TIME_PARTS}
        self._check_roles()
        split = data.split.column if data.split.by == "column" else None
        named = {
            "data.user": data.user,
            "data.item": data.item,
            "data.label.column": data.label.column,
            "data.time": data.time,
            "data.split.column": split,
        }
        self.roles = {role: column for role, column in named.items() if column is not None}
        self.roles |= {f"data.fields.{i}.column": f.column for i, f in enumerate(data.fields)}
        self.columns = list(dict.fromkeys(self.roles.values()))
        self.read = [column for column in self.columns if column not in self.parts]
        self.schema = pa.schema(
            [("row", pa.int64()), *((column, self._type(column)) for column in self.columns)]
        )

    def _check_roles(self) -> None:
        data = self.data
        if data.label.column in self.fields:
            raise ValueError(
                f"data.fields must not name the label, got {data.label.column!r}: the models "
                "would read the answer"
            )
        for role, column in (("data.user", data.user), ("data.item", data.item)):
            if column in self.fields and self.fields[column].kind == "numeric":
                raise ValueError(
                    f"data.fields must not make {role} numeric, since ids stay text, got {column!r}"
                )
        for column, part in self.parts.items():
            field = self.fields.get(column)
            if part == "weekday" and field is not None and field.kind == "numeric":
                raise ValueError(f"data.fields must not make a weekday numeric, got {column!r}")
        if data.time is not None and self.table.time_format is not None:
            check_time_format(self.table.time_format)

    def _type(self, column: str) -> pa.DataType:
        field = self.fields.get(column)
        if column == self.data.time:
            return pa.int64()
        is_number = field is not None and field.kind == "numeric"
        return pa.float64() if column == self.data.label.column or is_number else pa.string()

    def check_columns(self, file: DelimitedFile | ParquetFile) -> None:
        """Stop where the file lacks a column; all that are lacking are named."""
        names = file.names
        lines = []
        for role, column in self.roles.items():
            if column in self.parts:
                continue
            if names.count(column) > 1:
                lines.append(f"{role}: {column!r} is the name of {names.count(column)} columns")
            elif column not in names:
                near = difflib.get_close_matches(column, [*names, *self.parts], n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                lines.append(f"{role}: got {column!r}{hint}")
        if lines:
            more = f", ... ({len(names)} columns)" if len(names) > COLUMNS_SHOWN else ""
            raise ValueError(
                f"data must name columns of {file.path} ({', '.join(names[:COLUMNS_SHOWN])}{more})"
                f"{file.column_hint()}\n  " + "\n  ".join(lines)
            )


def _stream(
    files: Sequence[DelimitedFile | ParquetFile], plan: _Plan, report: ReadReport
) -> Iterator[pa.RecordBatch]:
    for file in files:
        for batch in file.batches(plan.read, report):
            made = _convert(batch, file, plan, report)
            if made.num_rows:
                yield made
    dropped = report.reasons("dropped")
    structural = sum(dropped.get(reason, 0) for reason in STRUCTURAL)
    if report.rows_kept == 0 or 2 * structural > report.rows_read:
        reasons = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
        example = next(e for e in report.examples() if e["reason"] in dropped)
        raise ValueError(
            f"{', '.join(str(file.path) for file in files)} must hold rows that can be used, got "
            f"{report.rows_read - report.rows_kept} of {report.rows_read} that cannot be used "
            f"({reasons}); line {example['line']} of {example['file']}: {example['text']!r}"
        )


def _convert(
    batch: Batch, file: DelimitedFile | ParquetFile, plan: _Plan, report: ReadReport
) -> pa.RecordBatch:
    """One batch of the interactions table; everything that is dropped or repaired is reported."""
    data, table = plan.data, plan.table
    events = _Events(batch, file.name, report)
    made: dict[str, pa.Array] = {}
    for column in plan.read:
        cells, field = batch.columns[column], plan.fields.get(column)
        with _named(file, column):
            if column == data.label.column:
                label = label_cells(cells, table.missing, table.decimal, table.label_values)
                events.drop(label, f"{column}_is_missing", f"{column}_is_not_a_number")
                made[column] = label.values
            elif column == data.time:
                time = time_cells(cells, table.missing, table.time_format, table.time_unit)
                if data.split.by == "time":
                    events.drop(time, f"{column}_is_missing", f"{column}_is_no_time")
                events.repair(time.bad, f"{column}_is_no_time")
                made[column] = time.values
            elif field is not None and field.kind == "numeric":
                number = number_cells(cells, table.missing, table.decimal)
                events.repair(number.bad, f"{column}_is_not_a_number")
                made[column] = number.values
            else:
                made[column] = text_cells(cells, table.missing, field.separator if field else "|")
                if column in (data.user, data.item):
                    events.repair(_null(made[column]), f"{column}_is_missing")
    for column in plan.columns:
        if column in plan.parts:
            part = time_part(made[str(data.time)], plan.parts[column])
            made[column] = part.cast(plan.schema.field(column).type)
    kept = events.finish()
    arrays = [made[column] for column in plan.columns]
    if not kept.all():
        arrays = [array.filter(pa.array(kept)) for array in arrays]
    count = int(kept.sum())
    rows = np.arange(report.rows_kept, report.rows_kept + count, dtype=np.int64)
    report.rows_kept += count
    return pa.record_batch([pa.array(rows), *arrays], schema=plan.schema)


class _Events:
    """What happens to the rows of one batch. A row is dropped for the first reason only."""

    def __init__(self, batch: Batch, file: str, report: ReadReport) -> None:
        self._batch, self._file, self._report = batch, file, report
        self._kept = np.ones(len(batch.lines), dtype=bool)
        self._repaired: list[tuple[np.ndarray, str]] = []

    def drop(self, cells: Converted, missing: str, bad: str) -> None:
        """Drop the rows without a usable value."""
        absent = _null(cells.values) & ~cells.bad
        for mask, reason in ((absent, missing), (cells.bad, bad)):
            self._note("dropped", mask & self._kept, reason)
            self._kept &= ~mask

    def repair(self, mask: np.ndarray, reason: str) -> None:
        """Report rows that have a gap, if they are kept in the end."""
        self._repaired.append((mask, reason))

    def finish(self) -> np.ndarray:
        """Which rows (rows,) bool are kept."""
        for mask, reason in self._repaired:
            self._note("repaired", mask & self._kept, reason)
        return self._kept

    def _note(self, kind: str, mask: np.ndarray, reason: str) -> None:
        rows = np.flatnonzero(mask)
        lines, texts = self._batch.lines, self._batch.texts
        shown = ((int(lines[row]), texts[row]) for row in rows[:EXAMPLES_PER_REASON])
        self._report.add(kind, reason, self._file, len(rows), shown)


@contextlib.contextmanager
def _named(file: DelimitedFile | ParquetFile, column: str) -> Iterator[None]:
    """Say which column of which file an error speaks of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"column {column!r} of {file.path} {error}") from None


def _null(array: pa.Array) -> np.ndarray:
    return array.is_null().to_numpy(zero_copy_only=False)
