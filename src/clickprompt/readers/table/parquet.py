"""Parquet files -> batches of typed columns with the number of every row, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from clickprompt.files import file_digest
from clickprompt.readers.report import ReadReport
from clickprompt.readers.table.delimited import Batch

ROWS_PER_BATCH = 1 << 17


class ParquetFile:
    """One Parquet file; ``names`` are its columns.

    Raises:
        ValueError: damaged, or no Parquet file.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        try:
            schema = pyarrow.parquet.read_schema(path)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise ValueError(f"{path} must be a whole Parquet file, got: {error}") from None
        self.names = tuple(schema.names)

    def column_hint(self) -> str:
        """Nothing: the columns of a Parquet file are sure."""
        return ""

    def batches(self, columns: Sequence[str], report: ReadReport) -> Iterator[Batch]:
        """Read some columns, batch by batch.

        Args:
            columns: some of ``names``.
            report: gets ``rows_read`` and the sha256 of the file.

        Raises:
            ValueError: damaged, or without rows.
        """
        first = 1
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(ROWS_PER_BATCH, columns=list(columns)):
                    found = {name: batch.column(name) for name in columns}
                    rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
                    report.rows_read += batch.num_rows
                    first += batch.num_rows
                    yield Batch(found, rows, _Texts(found))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise ValueError(f"{self.path} must be a whole Parquet file, got: {error}") from None
        if first == 1:
            raise ValueError(f"{self.path} must hold at least one row, got none")
        report.files[self.name] = file_digest(self.path)


class _Texts:
    """Cells of the rows, to show some of them."""

    def __init__(self, columns: dict[str, pa.Array]) -> None:
        self._columns = columns

    def __getitem__(self, row: int) -> str:
        return ", ".join(f"{name}: {array[row]}" for name, array in self._columns.items())
