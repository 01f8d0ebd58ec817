"""The interactions table as a Parquet file, written batch by batch, with the reader's report in it.

It is written the same way whatever engine reads it: the catalog entry beside it
(``interactions@frame``) names the engine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset

from clickprompt.files import sync

if TYPE_CHECKING:
    from clickprompt.readers import InteractionStream

REPORT_KEY = b"clickprompt.ingestion_report"


class InteractionsDataset(AbstractDataset["InteractionStream", dict[str, Any]]):
    """Saved from a stream of record batches; loaded as the report on how the table came about.

    Args:
        filepath: the file, relative to the project.
        metadata: for Kedro-Viz; Kedro ignores it.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> dict[str, Any]:
        """Read the report.

        Raises:
            ValueError: the file holds none, so it is of another origin.
        """
        import pyarrow.parquet as pq

        stored = pq.read_metadata(self._filepath).metadata or {}
        if REPORT_KEY not in stored:
            raise ValueError(
                f"{self._filepath} must hold the report of its reader, got none: "
                f"run the pipeline ingestion"
            )
        report: dict[str, Any] = json.loads(stored[REPORT_KEY])
        return report

    def save(self, data: InteractionStream) -> None:
        """Write the batches to a file beside the target, which is renamed at the end."""
        import pyarrow.parquet as pq

        from clickprompt.progress import RateProgress

        self._filepath.parent.mkdir(parents=True, exist_ok=True)
        aside = self._filepath.with_name(f".unfinished-{self._filepath.name}")
        try:
            with (
                pq.ParquetWriter(aside, data.schema, compression="zstd") as writer,
                RateProgress("reading raw files", total=None) as bar,
            ):
                for batch in data:
                    writer.write_batch(batch)
                    bar.advance(batch.num_rows)
                report = json.dumps(data.report, ensure_ascii=False)
                writer.add_key_value_metadata({REPORT_KEY: report.encode()})
            sync(aside)
            os.replace(aside, self._filepath)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def files(self) -> list[Path]:
        """The file, if it is there (the up-to-date check looks at it)."""
        return [self._filepath] if self._filepath.is_file() else []

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._filepath)}
